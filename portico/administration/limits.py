"""How often somebody may ask, and how long he waits after wrong credentials. Sans-IO: `now` in seconds comes in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

MAXIMUM_KEYS: Final = 4096
FREE_FAILURES: Final = 5
LONGEST_WAIT: Final = 300.0
FORGET: Final = 900.0
"""Seconds without a failure after which failures are forgotten."""


def place(address: str) -> str:
    """What is limited as one: an IPv4 address, or an IPv6 /64, of which one host can have every address."""
    try:
        parsed = ip_address(address.split("%", 1)[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((int(parsed), 64), strict=False))
    return str(parsed)


@dataclass
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """Token buckets by key, `MAXIMUM_KEYS` of them; the one that was not used longest makes room.

    Args:
        rate: requests in a second.
        burst: requests at once.

    Attributes:
        refused: requests that had to wait.
        forgotten: buckets that made room.
    """

    def __init__(self, rate: float, burst: float, *, size: int = MAXIMUM_KEYS) -> None:
        self._rate, self._burst, self._size = rate, burst, size
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self.refused = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Zero when a request may go on, else the seconds after which it may."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._size:
                self._buckets.popitem(last=False)
                self.forgotten += 1
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        self._buckets.move_to_end(key)
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return 0.0
        self.refused += 1
        return (1.0 - bucket.tokens) / self._rate


@dataclass
class _Failures:
    count: int
    last: float
    until: float


class BackOff:
    """Failed logins by place: after `FREE_FAILURES` each doubles the wait, up to `LONGEST_WAIT` seconds."""

    def __init__(self, *, size: int = MAXIMUM_KEYS) -> None:
        self._size = size
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, key: str, now: float) -> float:
        """Seconds until credentials are looked at again; zero: now."""
        found = self._failures.get(key)
        return max(0.0, found.until - now) if found is not None else 0.0

    def failed(self, key: str, now: float) -> None:
        found = self._failures.get(key)
        if found is None or now - found.last > FORGET:
            if found is None and len(self._failures) >= self._size:
                self._failures.popitem(last=False)
            found = self._failures[key] = _Failures(0, now, now)
        self._failures.move_to_end(key)
        found.count += 1
        found.last = now
        if found.count > FREE_FAILURES:
            found.until = now + min(LONGEST_WAIT, 2.0 ** min(found.count - FREE_FAILURES, 16))

    def succeeded(self, key: str) -> None:
        self._failures.pop(key, None)
