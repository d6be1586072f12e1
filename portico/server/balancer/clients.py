"""The clients of one server: its gateway's tunnels, told to the kernel, to the other servers, and to the gateway."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from portico.balancing.nlb.filter import Filter
from portico.balancing.nlb.plan import BalancingPlan
from portico.cluster.core import Member
from portico.cluster.directory import Rival
from portico.cluster.holdings import Holding
from portico.errors import PorticoError
from portico.server.balancer.entrances import client_address, outer
from portico.server.balancer.tunnels import Step, Tunnel, Tunnels

log = logging.getLogger("portico.balancer")

DOOMED_AT_A_TIME = 1000
"""Tunnels in one event for the agent."""


@dataclass(frozen=True)
class Seat:
    """What this server works with now.

    Attributes:
        member: None before there is one.
        port: that clients dial.
    """

    member: Member | None
    filter: Filter | None
    plan: BalancingPlan | None
    port: int


class Clients:
    """
    Args:
        tell: gets events for the agent as JSON data.
        seat: what this server works with now.
        running: the member; raises Unavailable before there is one.
        turn: has the member say what it has to say.
        clock: the loop's, seconds.
    """

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        seat: Callable[[], Seat],
        running: Callable[[], Member],
        turn: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.tunnels = Tunnels()
        self.overflow = 0
        """Clients for which the filter had no room."""
        self._tell = tell
        self._seat = seat
        self._running = running
        self._turn = turn
        self._clock = clock

    def held(self) -> set[IPv6Address]:
        """All addresses that this server holds."""
        return set(self.tunnels.holdings())

    def replace(self, sessions: Iterable[tuple[int, str, int, Iterable[str]]]) -> None:
        """All tunnels that there are (number, where from, owner's tag, addresses), in place of what was known."""
        directory = self._running().directory
        listed = [
            (
                self._tunnel(number, peer, owner),
                [found for text in texts if (found := client_address(text)) is not None],
            )
            for number, peer, owner, texts in sessions
        ]
        self._take(self.tunnels.replace(listed, directory, self._clock()))

    def up(self, session: int, peer: str, owner: int) -> None:
        """A tunnel is there; it has no address yet."""
        self.tunnels.up(self._tunnel(session, peer, owner))

    def address(self, session: int, address: str) -> None:
        """A tunnel has one more address."""
        client = client_address(address)
        if client is not None:
            directory = self._running().directory
            self._take(self.tunnels.address(session, client, directory, self._clock()))

    def down(self, session: int) -> None:
        """A tunnel is gone, and its addresses with it, but those that another tunnel has taken over."""
        self._take(self.tunnels.down(session))

    def rivals(self, found: list[Rival], member: Member) -> None:
        """Other servers claim addresses that are held here."""
        self._take(self.tunnels.rivals(found, member.directory, self._clock()))

    def _take(self, step: Step) -> None:
        """Tells the gateway, by the agent, which tunnels to close; the kernel and the other servers the rest."""
        if step.doomed:
            log.warning("tunnels=%r are to be closed: their addresses are held by another server", step.doomed[:20])
            for start in range(0, len(step.doomed), DOOMED_AT_A_TIME):
                self._tell({"event": "disconnect", "sessions": step.doomed[start : start + DOOMED_AT_A_TIME]})
        self._change(step.taken, step.lost)

    def _change(self, taken: list[Holding], lost: Collection[IPv6Address]) -> None:
        seat = self._seat()
        if seat.filter is None or seat.member is None or not (taken or lost):
            return
        try:
            seat.filter.change_clients([holding.client for holding in taken], lost)
        except PorticoError as error:
            self.overflow += len(taken)
            log.error("clients cannot be taken into the filter: %s", error)
        seat.member.directory.local_change(taken, lost, self._clock())
        self._turn()

    def _tunnel(self, number: int, peer: str, owner: int) -> Tunnel:
        seat = self._seat()
        return Tunnel(number, peer, outer(peer, seat.plan, seat.port), owner)
