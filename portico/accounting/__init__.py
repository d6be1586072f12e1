"""Who had what, when: the log of NAT64's bindings."""
