"""Which server holds which client. No socket, no clock, no random source.

Each server tells of its own clients only: changes as they happen, and a summary four times a second. Who finds that a
digest in the summary differs from what it knows asks for that bin; so whatever was lost, or happened before one
started, is repaired within a second. When a server dies, the others know whom it held, and reset their connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from portico.cluster.holdings import (
    BINS,
    Bin,
    Changes,
    Holding,
    Request,
    Summary,
    bin_of,
    packed_bin,
    packed_changes,
    parse,
)

LIMIT = 200_000
"""Holdings of all servers together."""

SUMMARY_INTERVAL = 0.25
BURST_INTERVAL = 0.02
BURST = 16
"""Messages sent at one time; the next ones follow after BURST_INTERVAL seconds: 9 Mbit/s while a server catches up."""

MAX_PENDING = 20_000
"""Changes waiting to be sent; beyond, they are left to the summaries."""


@dataclass
class Counters:
    """What happened since the start."""

    refused_full: int = 0
    """Holdings that were not remembered because the directory is full."""
    repaired_bins: int = 0
    overflowed: int = 0
    """Changes that were left to the summaries."""


@dataclass
class _Server:
    """What one server holds."""

    boot: int
    bins: list[dict[IPv6Address, Holding]] = field(default_factory=lambda: [{} for _ in range(BINS)])
    digests: list[int] = field(default_factory=lambda: [0] * BINS)
    count: int = 0
    position: int = 0
    truncated: bool = False
    parts: dict[int, dict[int, Bin]] = field(default_factory=dict)
    """Parts of bins under way, by bin."""

    def get(self, client: IPv6Address) -> Holding | None:
        return self.bins[bin_of(client)].get(client)

    def take(self, holding: Holding) -> None:
        number = bin_of(holding.client)
        self.lose(holding.client)
        self.bins[number][holding.client] = holding
        self.digests[number] ^= holding.digest
        self.count += 1

    def lose(self, client: IPv6Address) -> bool:
        number = bin_of(client)
        known = self.bins[number].pop(client, None)
        if known is None:
            return False
        self.digests[number] ^= known.digest
        self.count -= 1
        return True

    def __iter__(self) -> Iterator[Holding]:
        for group in self.bins:
            yield from group.values()


@dataclass(frozen=True)
class Rival:
    """Another server has taken an address that this one holds.

    Attributes:
        theirs: as the other server told it.
        fresh: it told of it as it happened; otherwise it was found when lost messages were repaired.
    """

    host: int
    theirs: Holding
    ours: Holding
    fresh: bool


class Directory:
    """The clients of all servers.

    Args:
        host: this server's host id.
        limit: holdings that are remembered at most, of all servers.
    """

    def __init__(self, host: int, *, boot: int, limit: int = LIMIT) -> None:
        self.counters = Counters()
        self._host = host
        self._limit = limit
        self._servers: dict[int, _Server] = {host: _Server(boot)}
        self._claims: dict[IPv6Address, tuple[int, ...]] = {}
        """Servers that say they hold a client, the latest last."""
        self._pending: deque[Holding | IPv6Address] = deque()
        self._wanted: dict[int, None] = {}
        """Our bins that others asked for, in order."""
        self._requests: dict[int, int] = {}
        self._backlog: deque[bytes] = deque()
        self._next_summary: float | None = None
        self._next_burst = float("-inf")
        self._rivals: dict[tuple[IPv6Address, int], Rival] = {}
        """No more than own holdings times servers."""

    @property
    def host(self) -> int:
        return self._host

    def __len__(self) -> int:
        return sum(server.count for server in self._servers.values())

    def holder_of(self, client: IPv6Address) -> int | None:
        """The server that holds a client; of several the one that was last heard to have taken it."""
        claims = self._claims.get(client)
        return claims[-1] if claims else None

    def holdings_of(self, host: int) -> tuple[Holding, ...]:
        """All that a server holds, as far as is known."""
        server = self._servers.get(host)
        return tuple(server) if server is not None else ()

    def orphans_of(self, host: int) -> tuple[Holding, ...]:
        """Clients that only this server holds: those that nobody holds when it dies."""
        return tuple(holding for holding in self.holdings_of(host) if self.holder_of(holding.client) == host)

    def held_by_another(self, holding: Holding) -> int | None:
        """A living server that holds the address under another owner's tag."""
        for host in self._claims.get(holding.client, ()):
            known = self._servers[host].get(holding.client) if host != self._host else None
            if known is not None and known.owner != holding.owner:
                return host
        return None

    def take_rivals(self) -> list[Rival]:
        """Servers that took what this one holds, since the last call; what it has lost since then is left out."""
        found, self._rivals = list(self._rivals.values()), {}
        own = self._servers[self._host]
        return [rival for rival in found if own.get(rival.ours.client) is not None]

    def forget(self, host: int) -> tuple[Holding, ...]:
        """A server is gone; returns its orphans."""
        assert host != self._host, "one's own clients are lost by local_change"
        orphans = self.orphans_of(host)
        server = self._servers.pop(host, None)
        for holding in server or ():
            self._disclaim(holding.client, host)
        self._requests.pop(host, None)
        return orphans

    def local_change(self, taken: Iterable[Holding], lost: Iterable[IPv6Address], now: float) -> None:
        """This server took clients (or knows another connection of one it has), and lost others."""
        own = self._servers[self._host]
        changes: list[Holding | IPv6Address] = []
        for client in lost:
            if own.lose(client):
                self._disclaim(client, self._host)
                changes.append(client)
        for holding in taken:
            if own.get(holding.client) is None and len(self) >= self._limit:
                self.counters.refused_full += 1
                continue
            own.take(holding)
            self._claim(holding.client, self._host)
            changes.append(holding)
        own.position += len(changes)
        self._pending.extend(changes)
        if len(self._pending) > MAX_PENDING:
            self.counters.overflowed += len(self._pending)
            self._pending.clear()
        if changes and self._next_summary is None:
            self._next_summary = now + SUMMARY_INTERVAL

    def apply(self, host: int, boot: int, body: bytes) -> None:
        """A message of another server came in, authenticated and fresh.

        Raises:
            ProtocolError: it cannot be read.
        """
        message = parse(body)
        if isinstance(message, Request):
            if message.host == self._host:
                self._wanted |= dict.fromkeys(number for number in range(BINS) if message.bins >> number & 1)
            return
        server = self._servers.get(host)
        if server is None or server.boot != boot:
            self.forget(host)
            server = self._servers[host] = _Server(boot)
        match message:
            case Changes():
                self._apply_changes(host, server, message)
            case Summary():
                self._apply_summary(host, server, message)
            case Bin():
                self._apply_bin(host, server, message)

    def _apply_changes(self, host: int, server: _Server, message: Changes) -> None:
        if message.position <= server.position:
            return
        for change in message.changes:
            if isinstance(change, Holding):
                self._learn(host, server, change, fresh=True)
            elif server.lose(change):
                self._disclaim(change, host)
        # A gap before them shows in the digests of the next summary.
        server.position = message.position

    def _apply_summary(self, host: int, server: _Server, message: Summary) -> None:
        if message.position < server.position:
            return
        differing = sum(
            1 << number
            for number, (ours, theirs) in enumerate(zip(server.digests, message.digests, strict=True))
            if ours != theirs
        )
        if server.truncated and len(self) < self._limit:
            server.truncated = False
        if differing and not server.truncated:
            self._requests[host] = differing
        else:
            self._requests.pop(host, None)
            server.position = message.position

    def _apply_bin(self, host: int, server: _Server, message: Bin) -> None:
        if message.position < server.position:
            return
        parts = server.parts.get(message.number, {})
        if any(part.position != message.position or part.parts != message.parts for part in parts.values()):
            parts = {}
        server.parts[message.number] = parts
        parts[message.part] = message
        if len(parts) < message.parts:
            return
        del server.parts[message.number]
        self.counters.repaired_bins += 1
        new = {holding.client: holding for part in parts.values() for holding in part.holdings}
        for client in [client for client in server.bins[message.number] if client not in new]:
            server.lose(client)
            self._disclaim(client, host)
        for holding in new.values():
            if server.get(holding.client) != holding:
                self._learn(host, server, holding, fresh=False)

    def _learn(self, host: int, server: _Server, holding: Holding, *, fresh: bool) -> None:
        known = server.get(holding.client)
        ours = self._servers[self._host].get(holding.client)
        if ours is not None and (known is None or known.owner != holding.owner):
            self._rivals[holding.client, host] = Rival(host, holding, ours, fresh)
        if known is None and len(self) >= self._limit:
            self.counters.refused_full += 1
            server.truncated = True
            return
        server.take(holding)
        self._claim(holding.client, host)

    def _claim(self, client: IPv6Address, host: int) -> None:
        others = tuple(other for other in self._claims.get(client, ()) if other != host)
        self._claims[client] = (*others, host)

    def _disclaim(self, client: IPv6Address, host: int) -> None:
        others = tuple(other for other in self._claims.get(client, ()) if other != host)
        if others:
            self._claims[client] = others
        else:
            self._claims.pop(client, None)

    def next_timeout(self) -> float | None:
        """When `bodies_to_send` has something again; in the past: now."""
        if self._pending or self._requests or self._wanted or self._backlog:
            return self._next_burst
        return self._next_summary

    def bodies_to_send(self, now: float) -> list[bytes]:
        """Message bodies that are due, at most BURST."""
        if now < self._next_burst:
            return []
        own = self._servers[self._host]
        if self._pending and len(self._backlog) < BURST:
            self._backlog.extend(change.emit() for change in packed_changes(list(self._pending), own.position))
            self._pending.clear()
        for host, bins in self._requests.items():
            self._backlog.appendleft(Request(host, bins).emit())
        self._requests.clear()
        while self._wanted and len(self._backlog) < BURST:
            number = next(iter(self._wanted))
            del self._wanted[number]
            self._backlog.extend(part.emit() for part in packed_bin(own.bins[number].values(), number, own.position))
        if self._next_summary is not None and now >= self._next_summary and not self._backlog:
            self._next_summary = now + SUMMARY_INTERVAL
            self._backlog.append(Summary(own.position, own.count, tuple(own.digests)).emit())
        bodies = [self._backlog.popleft() for _ in range(min(BURST, len(self._backlog)))]
        if bodies:
            self._next_burst = now + BURST_INTERVAL
        return bodies
