"""Plain routing through the gateway: the limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.network import GATEWAY_OUTER, SERVER_IPV4, Network
from benchmarks.peers import Path


@contextlib.contextmanager
def plain(net: Network) -> Iterator[Path]:
    route = ["10.9.0.0/24", "via", GATEWAY_OUTER]
    net.call("client", "ip", "route", "add", *route)
    try:
        yield Path(SERVER_IPV4)
    finally:
        net.call("client", "ip", "route", "del", *route)
