"""Names: DNS64 settings and the name resolution policy table (NRPT)."""
