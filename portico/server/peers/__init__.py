"""How the servers of a cluster talk to each other: one channel, joining, one document, one set of records."""
