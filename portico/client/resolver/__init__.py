"""The NRPT resolver: names of the intranet go through the tunnel, everything else where it went before."""
