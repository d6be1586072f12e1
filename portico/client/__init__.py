"""The remote computer's agent."""
