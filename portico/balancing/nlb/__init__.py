"""Network load balancing: what each mode does to the kernel of one server, for IPv4 and IPv6 VIPs.

Every server sees every frame for a VIP; a hash of the client's address says whose it is; the others drop it at ingress.
This package is told who owns what (`plan.Owned`) and decides nothing about it.
"""
