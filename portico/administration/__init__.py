"""Who administers a cluster: principals, roles, credentials, limits, and the log of what they changed."""
