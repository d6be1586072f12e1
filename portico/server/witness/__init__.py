"""The witness: a machine that is no server and only votes in the etcd of a cluster of two."""
