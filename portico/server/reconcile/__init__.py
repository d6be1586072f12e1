"""The kernel as the settings want it: each part observes, plans (pure), applies, and can undo what it made."""
