"""Network load balancing on one server: the agent's half, and the process that does nothing else.

Heartbeats and the kernel's lease are due every tenth of a second. They live in a process of their own, so that nothing
that the agent does (a document of a megabyte, ten thousand sessions in a list) makes a server lose its buckets.

`plans`: settings and secrets to what cluster and data plane are told. `link`: frames and datagrams between servers.
`shell`: the process' loop; `kernel`: its sockets and filter; `clients`: tunnels and who holds which address;
`asking`: clients of dead servers; `showing`, `explaining`: what it says. `process`: its entry. `handle`: what the agent
has of it.
"""
