"""Users of remote computers: who has authenticated where, until when, and what that opens."""
