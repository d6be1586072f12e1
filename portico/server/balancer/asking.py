"""Clients of a server that died, or hears none any more: asked, so that idle ones notice, and answered with resets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.packet import PacketSocket
from portico.balancing.nlb.plan import BalancingPlan, Owned
from portico.cluster.holdings import Holding, Outer
from portico.errors import PorticoError
from portico.server.balancer.entrances import entrances, external
from portico.server.balancer.flows import rule_of
from portico.server.balancer.orphans import INTERVAL, Orphans, RawSender
from portico.server.balancer.resets import answers

log = logging.getLogger("portico.balancer")


class Asking:
    """Works through what dead servers left, on the loop.

    Args:
        working: the plan that the kernel works by, and who owns what there; None before there is any.

    Raises:
        NotPermitted, Unavailable: no raw socket can be had.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, working: Callable[[], tuple[BalancingPlan | None, Owned | None]]
    ) -> None:
        self.orphans = Orphans()
        self._loop = loop
        self._working = working
        self._raw = RawSender()
        self._watches: list[PacketSocket] = []
        """Open while answers of a dead server's clients are expected."""
        self._timer: asyncio.TimerHandle | None = None
        self._judged: tuple[BalancingPlan | None, Owned | None] = (None, None)
        """By what it was last found out whose a connection is."""

    def add(self, holdings: Collection[Holding], port: int) -> None:
        """Connections of a server that is gone.

        Args:
            port: that clients dial.
        """
        plan, _ = self._working()
        self.orphans.add(holdings, entrances(plan), self._loop.time())
        self._watch(plan, port)
        if self._timer is not None:
            self._timer.cancel()  # it may be a second away, for what an earlier death left to watch
        self._ask()

    def close(self) -> None:
        """Nobody is asked any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._close_watches()
        self._raw.close()

    def _ask(self) -> None:
        """Makes idle clients of a dead server notice, as fast as is decent."""
        self._timer = None
        working = self._working()
        if any(now is not before for now, before in zip(working, self._judged, strict=True)):
            self._judged = working
            self.orphans.moved()
        for packet in self.orphans.due(self._is_ours, self._loop.time()):
            if not self._raw.send(packet):
                self.orphans.counters.failed += 1
        self.orphans.resets.expire(self._loop.time())
        if len(self.orphans):
            self._timer = self._loop.call_later(INTERVAL, self._ask)
        elif len(self.orphans.resets):
            self._timer = self._loop.call_later(1.0, self._ask)
        else:
            self._close_watches()

    def _watch(self, plan: BalancingPlan | None, port: int) -> None:
        """Sees what clients of a dead server send before the filter decides about it."""
        if self._watches or plan is None:
            return
        for nic in external(plan):
            try:
                watch = PacketSocket(nic.interface, answers(port))
            except PorticoError as error:
                log.warning("clients of a dead server are left to the kernel: %s", error)
                continue
            self._loop.add_reader(watch.fileno(), self._answered, watch)
            self._watches.append(watch)

    def _answered(self, watch: PacketSocket) -> None:
        for frame in watch.receive():
            reset = self.orphans.resets.answer(frame, self._is_ours, self._loop.time())
            if reset is not None and not self._raw.send(reset):
                self.orphans.counters.failed += 1

    def _close_watches(self) -> None:
        for watch in self._watches:
            self._loop.remove_reader(watch.fileno())
            watch.close()
        self._watches = []

    def _is_ours(self, outer: Outer) -> bool:
        """Whether the kernel accepts this connection here, and will reset it."""
        plan, owned = self._working()
        if plan is None or owned is None:
            return False
        number = rule_of(plan, outer.vip, outer.vip_port)
        affinity = plan.rules[number].affinity if number < len(plan.rules) else "single"
        bucket = bucket_of(outer.client, outer.client_port, affinity, plan.seed)
        return bucket in owned.shares(plan)[number].owned
