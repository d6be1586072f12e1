"""Where clients are: the network location server and the web probe, in a process of their own.

`core` is the HTTP of both, sans-IO; `availability` decides what the web probe says; `pages` are the answers; `service`
has the sockets; `process` is the child; `reach` fetches a page as a client inside does.
"""
