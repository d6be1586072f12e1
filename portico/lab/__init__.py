"""Whole deployments in network namespaces on one machine."""
