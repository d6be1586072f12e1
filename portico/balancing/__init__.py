"""Spreading clients over the servers of a cluster."""
