"""Every way in for an administrator."""
