"""The questions of `portico server install`: what the Windows wizard asks, in its order."""
