"""The server's agent: reconcile, supervise, separate privileges."""
