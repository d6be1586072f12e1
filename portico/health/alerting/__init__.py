"""Which changes are worth an alert, and how an alert is written. Pure."""
