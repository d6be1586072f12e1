"""A slow line between client and gateway: 100 Mbit/s each way, with the short buffer that a line should have.

The buffer holds 10 ms, so what a ping takes beyond that was waiting in somebody's queue at the ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.network import Network

SHAPE = ("tbf", "rate", "100mbit", "burst", "16kb", "latency", "10ms")


@contextlib.contextmanager
def line(net: Network) -> Iterator[None]:
    """Narrows the outer link while the block runs."""
    try:
        for role in ("client", "gateway"):
            net.call(role, "tc", "qdisc", "add", "dev", "outer", "root", *SHAPE)
        yield
    finally:
        for role in ("client", "gateway"):
            net.call(role, "tc", "qdisc", "del", "dev", "outer", "root", check=False)
