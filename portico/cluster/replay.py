"""Which frames are new: recorded ones never count, whoever died or restarted in between. Pure.

Three guards work together. A frame counts only above the last (boot time, sequence) of its sender; this memory outlives
the member's death, so its recorded frames do not revive it. A member that starts has no memory: it draws a nonce, and
believes only senders whose heartbeats repeat this nonce (`peers`), which no recorded frame does. And each path has a
key of its own (`wire`), so that what was held back on one path cannot be played on another.
"""

from __future__ import annotations

from enum import Enum

from portico.cluster.wire import ProtocolError, Reason

Moment = tuple[int, int]
"""Boot time and sequence of a sender; later frames compare higher."""


class Freshness(Enum):
    """How a frame stands to what was heard before."""

    NEWEST = "newest"
    """Newer than everything heard of its sender."""
    COPY = "copy"
    """The newest one again, on another path."""
    LATE = "late"
    """Overtaken on another path: no sign of life, since it may have been held back."""


class ReplayGuard:
    """The last moment heard of each host, in all and on each path; at most 32 hosts exist."""

    def __init__(self, paths: int) -> None:
        self._paths = paths
        self._newest: dict[int, Moment] = {}
        self._on_path: dict[int, list[Moment]] = {}

    def check(self, host: int, path: int, moment: Moment) -> Freshness:
        """Judges a frame without remembering it.

        Raises:
            ProtocolError: it is not newer than what was heard of its sender on this path, or of an earlier boot.
        """
        newest = self._newest.get(host, (-1, -1))
        on_path = self._on_path[host][path] if host in self._on_path else (-1, -1)
        if moment <= on_path or moment[0] < newest[0]:
            raise ProtocolError(Reason.REPLAYED, f"host {host} said {moment}, and {max(on_path, newest)} before")
        if moment > newest:
            return Freshness.NEWEST
        return Freshness.COPY if moment == newest else Freshness.LATE

    def remember(self, host: int, path: int, moment: Moment) -> None:
        """A frame was believed."""
        self._newest[host] = max(moment, self._newest.get(host, moment))
        self._on_path.setdefault(host, [(-1, -1)] * self._paths)[path] = moment

    def newest(self, host: int) -> Moment | None:
        """The last moment heard of a host on any path."""
        return self._newest.get(host)
