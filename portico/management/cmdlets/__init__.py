"""The Remote Access cmdlets in PowerShell's syntax, as administrators paste them, over the Python client."""
