"""Backup and restore of one server's state: an encrypted file, and what puts it back."""
