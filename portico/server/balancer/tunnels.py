"""Whose address is it? This server's tunnels, and the claims that tunnels of other servers have to the same addresses.

With roaming addresses a tunnel may have any address of the client prefix at any server. What keeps one client from
taking another's address is that the servers tell each other whose tunnel holds which (`portico.cluster.directory`).
Pure: who calls it tells the kernel, the other servers and the gateway what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from portico.cluster.directory import Directory, Rival
from portico.cluster.holdings import Holding, Outer, owner_tag

SETTLED = 2.0
"""Seconds after which all servers know of a claim: lost messages are repaired within one. A claim of the same owner
that is found by such a repair is the later one when ours is older than this."""


@dataclass(frozen=True)
class Tunnel:
    """One tunnel of the gateway.

    Attributes:
        peer: where it comes from, as the gateway writes it: tells a tunnel from another one of a later gateway that
            counts from the start again.
        owner: `owner_tag`; 0 without an identity.
    """

    number: int
    peer: str
    outer: Outer | None = field(default=None, compare=False)
    owner: int = 0


@dataclass
class Step:
    """What has to be told: addresses taken and lost, and tunnels that the gateway must close."""

    taken: list[Holding] = field(default_factory=list)
    lost: set[IPv6Address] = field(default_factory=set)
    doomed: list[int] = field(default_factory=list)


@dataclass
class Counters:
    """Tunnels that were closed."""

    refused: int = 0
    """They claimed an address that another server's tunnel holds, of another owner."""
    stale: int = 0
    """Their owner has dialled again, to another server."""
    outranked: int = 0
    """Two servers took one address at the same moment for different owners; the lower host id keeps it."""


class Tunnels:
    """All tunnels of this server. Bounded by what the gateway holds: it tells of every tunnel's end."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._tunnels: dict[int, Tunnel] = {}
        self._held: dict[IPv6Address, tuple[int, float]] = {}
        """Who has an address, and since when."""
        self._addresses: dict[int, set[IPv6Address]] = {}
        self._doomed: dict[int, Tunnel] = {}
        """Told to the gateway, not closed yet."""

    def __len__(self) -> int:
        return len(self._held)

    def holdings(self) -> dict[IPv6Address, Holding]:
        """All that this server holds."""
        return {client: self._holding(client, number) for client, (number, _) in self._held.items()}

    def replace(self, listed: Iterable[tuple[Tunnel, Iterable[IPv6Address]]], directory: Directory, now: float) -> Step:
        """The full list, in place of what was known. A tunnel that was to be closed and is there still is told of
        again."""
        before, since = self.holdings(), {client: at for client, (_, at) in self._held.items()}
        doomed, self._doomed = self._doomed, {}
        self._tunnels, self._held, self._addresses = {}, {}, {}
        step = Step()
        for tunnel, clients in listed:
            if doomed.get(tunnel.number) == tunnel:
                self._doomed[tunnel.number] = tunnel
                step.doomed.append(tunnel.number)
                continue
            self._tunnels[tunnel.number] = tunnel
            for client in clients:
                self._take(tunnel, client, directory, since.get(client, now), step)
        after = self.holdings()
        step.taken = [one for client, one in after.items() if before.get(client) != one]
        step.lost = before.keys() - after.keys()
        return step

    def up(self, tunnel: Tunnel) -> None:
        """It is there; it has no address yet."""
        if self._doomed.get(tunnel.number) != tunnel:
            self._doomed.pop(tunnel.number, None)
            self._tunnels[tunnel.number] = tunnel

    def address(self, number: int, client: IPv6Address, directory: Directory, now: float) -> Step:
        """A tunnel has one more address. Of a tunnel that is not known nothing is taken: the next full list has it."""
        step = Step()
        tunnel = self._tunnels.get(number)
        if tunnel is not None:
            self._take(tunnel, client, directory, now, step)
        return step

    def down(self, number: int) -> Step:
        """It is gone, and its addresses with it, but those that another tunnel has taken over."""
        self._doomed.pop(number, None)
        return Step(lost=self._drop(number))

    def rivals(self, found: Iterable[Rival], directory: Directory, now: float) -> Step:
        """Other servers took what this one holds."""
        step = Step()
        for rival in found:
            number, since = self._held.get(rival.ours.client, (None, now))
            if number is None:
                continue
            same = self._tunnels[number].owner == rival.theirs.owner
            if same and (rival.fresh or now - since > SETTLED):
                self.counters.stale += 1
            elif not same and rival.host < directory.host:
                self.counters.outranked += 1
            else:
                continue
            self._doom(self._tunnels[number], step)
        return step

    def _take(self, tunnel: Tunnel, client: IPv6Address, directory: Directory, now: float, step: Step) -> None:
        if tunnel.number not in self._tunnels:
            return  # an address before this one has doomed it
        holding = Holding(client, tunnel.outer, tunnel.owner)
        if directory.held_by_another(holding) is not None:
            self.counters.refused += 1
            self._doom(tunnel, step)
            return
        former, _ = self._held.get(client, (None, now))
        if former is not None and former != tunnel.number:
            self._addresses[former].discard(client)
        self._held[client] = (tunnel.number, now)
        self._addresses.setdefault(tunnel.number, set()).add(client)
        step.lost.discard(client)
        step.taken.append(holding)

    def _doom(self, tunnel: Tunnel, step: Step) -> None:
        gone = self._drop(tunnel.number)
        step.lost |= gone
        step.taken = [holding for holding in step.taken if holding.client not in gone]
        step.doomed.append(tunnel.number)
        self._doomed[tunnel.number] = tunnel

    def _drop(self, number: int) -> set[IPv6Address]:
        self._tunnels.pop(number, None)
        gone = self._addresses.pop(number, set())
        for client in gone:
            del self._held[client]
        return gone

    def _holding(self, client: IPv6Address, number: int) -> Holding:
        tunnel = self._tunnels[number]
        return Holding(client, tunnel.outer, tunnel.owner)


def owner_of(identity: Any) -> int:
    """The tag of the identity in the gateway's `session_up` and session list."""
    if not isinstance(identity, Mapping):
        return 0
    return owner_tag(str(identity.get("issuer_sha256")), str(identity.get("subject")))
