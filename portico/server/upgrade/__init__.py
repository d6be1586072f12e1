"""Upgrading this server: out of the cluster, the new program in, back into the cluster; or the former program back."""
