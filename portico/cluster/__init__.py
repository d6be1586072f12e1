"""Several servers behave as one: heartbeats, membership, convergence, bucket ownership. Sans-IO.

`config` says what a member is told, `core` decides, `wire` and `heartbeat` are what members tell each other,
`ownership` is what the data plane gets, `directory` knows which server holds which client. Nothing in here opens a
socket, reads a clock or draws a random number; whoever does calls `core.Member`.
"""
