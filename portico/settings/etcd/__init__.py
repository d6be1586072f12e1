"""The settings in etcd: a client of its JSON gateway, and the store of revisions on it."""
