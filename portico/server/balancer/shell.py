"""The balancer's loop: sockets, clock and kernel around one member of the cluster.

Everything happens in one thread, on one loop, and nothing in it waits for anything but the loop itself: a heartbeat
that is late by three periods costs this server its buckets, as it should.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from portico.balancing.nlb.explain import Packet
from portico.balancing.nlb.filter import Filter
from portico.balancing.nlb.plan import BalancingPlan, Owned
from portico.cluster.conditions import SERVING_STATES
from portico.cluster.core import Member
from portico.cluster.events import ClientsOrphaned, Event, OwnershipChanged, Refused
from portico.cluster.heartbeat import FrameCount
from portico.cluster.holdings import Holding
from portico.cluster.ownership import Ownership
from portico.cluster.states import UNREACHABLE, IllegalTransition, State
from portico.errors import Conflict, PorticoError, Unavailable
from portico.server.balancer import commands, explaining, plans, showing
from portico.server.balancer.asking import Asking
from portico.server.balancer.clients import Clients, Seat
from portico.server.balancer.flows import busy_buckets, connections
from portico.server.balancer.kept import KeptSlots, bitmap, connected
from portico.server.balancer.kernel import Kernel, place
from portico.server.balancer.plans import Assignment

log = logging.getLogger("portico.balancer")

FLOWS_INTERVAL = 1.0
"""Seconds between looks for old flows, while there are buckets that were given away."""
SLOTS_INTERVAL = 5.0
"""Seconds between looks for slots that became idle, while some are kept."""
COUNT_INTERVAL = 0.2
"""Seconds between looks at the counters: deafness is found within two seconds."""
STEPS = 64
"""Turns of the member's wheel before the loop gets its turn; each has something to say or to do."""
REMEMBERED_EVENTS = 200
GOODBYE = 1.0
"""Seconds in which a server that stops waits for the others to take over what it had."""


class Shell:
    """One server's part in its cluster.

    Args:
        tell: gets events as JSON data: {"event": "cluster", "kind": ..., ...}.
        boot: of the member, see `portico.server.balancer.boots`.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], boot: int) -> None:
        self._tell = tell
        self._boot = boot
        self._loop = asyncio.get_running_loop()
        self._kernel = Kernel(self._loop, self._readable, self._carrier)
        self._told: Assignment | None = None
        self._plan: BalancingPlan | None = None
        self._member: Member | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counting: asyncio.TimerHandle | None = None
        self._health: tuple[bool, str] = (False, "the gateway has not said that it serves")
        self.clients = Clients(tell, self._seat, self._running, self._turn, self._loop.time)
        self._remembered: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_EVENTS)
        self._counters: dict[str, Any] = {}
        self._leased: float | None = None
        self._applied: Owned | None = None
        """What the kernel works with."""
        self._flows_due = 0.0
        self._kept = KeptSlots()
        self._slots_due = 0.0
        self._orphaned_buckets: tuple[frozenset[int], ...] = ()
        """By rule: what was taken from servers that are dead or hear no client."""
        self._asking = Asking(self._loop, lambda: (self._plan, self._applied if self._member is not None else None))
        self._broken: PorticoError | None = None
        self._giving_back = False
        self._left = asyncio.Event()
        """The others have what this server had, and it has stopped."""

    # What it is told

    def prepare(self, told: Assignment) -> None:
        """What takes `configure` long, ahead of it: having the kernel verify the program of the filter. In a thread,
        beside the heartbeats; nothing else may configure meanwhile. Raises PorticoError: `configure` would too."""
        self._kernel.prepare(told, self._told, self._kernel.plan(told), self._plan)

    def configure(self, told: Assignment) -> None:
        """Works by this from now on; the first time it begins.

        Raises:
            PorticoError: it cannot; what was before goes on.
        """
        former = self._told
        now = self._loop.time()
        config = plans.member_config(told)
        plan = self._kernel.plan(told)
        moved = former is None or place(former) != place(told)
        if self._member is not None and moved and config.host_id != self._member.config.host_id:
            raise Conflict(
                "The host priority of a running server cannot be changed",
                why=f"it is {self._member.config.host_id} and would be {config.host_id}",
                resolution="Stop the server first: portico cluster stop",
            )
        if self._member is None:
            self._member = Member(config, boot=self._boot, nonce=secrets.randbits(64), now=now)
            self._member.local_health(*self._health, now)
        if moved or plan != self._plan:
            picture = plans.owned(self._member.ownership, self._kept.slots)
            clients = self.clients.held()
            if moved:
                self._kernel.open(told, former, plan, picture, clients)
            else:
                self._kernel.reinstall(plan, picture, clients)
        self._kernel.readdress(told)
        self._told, self._plan = told, plan
        if config != self._member.config:
            self._member.configure(config, now)
        if former is None or former.own.state != told.own.state:
            # What was commanded since the settings last said something else stands.
            with suppress(IllegalTransition):
                self.command(commands.WANTED[told.own.state])
        self._turn()
        if self._counting is None:
            self._count()

    def command(self, name: str) -> None:
        """start, stop, drain, suspend or resume. Raises Conflict when that makes no sense now."""
        member = self._running()
        commands.carry_out(member, name, self._loop.time())
        log.info("command=%s state=%s", name, member.state.name)
        self._turn()

    def health(self, ok: bool, why: str) -> None:
        """Whether clients are served here, as the agent sees it."""
        self._health = (ok, why)
        if self._member is not None:
            self._member.local_health(ok, why, self._loop.time())
            self._turn()

    async def leave(self, *, remove: bool) -> None:
        """Gives everything away, waits a moment until others have it, and closes.

        Args:
            remove: take the filter out of the kernel too. Without it, frames for the VIPs are dropped until a successor
                installs its own: nothing answers for a service that is not there.
        """
        member = self._member
        if member is not None and self._filter is not None:
            with suppress(IllegalTransition):
                member.stop(self._loop.time())
            self._turn()
            if member.state is State.LEAVING:
                with suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE):
                        await self._left.wait()
            with suppress(PorticoError):
                self._filter.surrender()
        if self._giving_back:
            self._kernel.give_back()
        self._close(remove=remove)

    def give_back(self) -> None:
        """The virtual addresses are this server's own from now on: when it leaves, it says so to the network."""
        self._giving_back = True

    # What it shows

    def status(self) -> dict[str, Any]:
        """Everything about this server's part, and the others as seen from here."""
        member, told = self._member, self._told
        if member is None or told is None:
            return {"state": "Stopped", "servers": []}
        return {
            **showing.picture(told, member, self._loop.time()),
            "filter": self._kernel.choice.name if self._kernel.choice is not None else None,
            "filter_why": self._kernel.choice.why if self._kernel.choice is not None else "",
            "clients": len(self.clients.tunnels),
            "tunnels_closed": vars(self.clients.tunnels.counters),
            **showing.orphans(self._asking.orphans),
            "resets": self._kernel.limiting.counts(),
            "clients_over_limit": self.clients.overflow,
            "counters": self._counters,
            "unsent": [link.failed for link in self._kernel.links],
            "problem": str(self._broken) if self._broken is not None else None,
            "events": list(self._remembered),
        }

    def explain(self, asked: Packet) -> dict[str, Any]:
        """Which server takes this packet, and why. Raises Unavailable before the first configuration."""
        member, told, plan = self._running(), self._told, self._plan
        if told is None or plan is None:
            raise Unavailable("Load balancing does not run", why="it was not configured")
        return explaining.answer(told, plan, member, self._applied, asked, self._loop.time())

    # The wheel

    def _turn(self) -> None:
        """Lets the member do everything that it can do now, and sets the clock for what comes next."""
        member = self._running()
        for _ in range(STEPS):
            now = self._loop.time()
            if now >= member.next_timeout():
                member.handle_timeout(now)
            frames = member.data_to_send(now)
            for frame in frames:
                self._kernel.links[frame.path].send(frame.data)
            if frames and member.lease_until != self._leased:
                self._lease(member)
            event = member.next_event()
            if event is not None:
                self._take(member, event)
            elif not frames and self._loop.time() < member.next_timeout():
                break
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(member.next_timeout(), self._turn)

    def _lease(self, member: Member) -> None:
        """As long as the member may serve; it has just told the others that it is there."""
        assert self._filter is not None
        self._leased = member.lease_until
        try:
            if member.lease_until is None:
                self._filter.surrender()
            else:
                self._filter.renew()
        except PorticoError as error:
            self._kernel_failed(error)
        else:
            self._broken = None

    def _take(self, member: Member, event: Event) -> None:
        if isinstance(event, OwnershipChanged):
            now = self._loop.time()
            try:
                self._kept.move(event.ownership, self._in_use)
                self._own(event.ownership)
            except PorticoError as error:
                self._kernel_failed(error)
                return
            member.held_slots(bitmap(self._kept.slots), now)
            member.kernel_confirms(event.ownership.serial, now)
            self._take_from_unreachable(member, event.ownership)
            return
        if member.state is State.STOPPED:
            self._left.set()
        if isinstance(event, ClientsOrphaned):
            self._orphaned(event.clients)
        told = {"at": time.time(), "kind": type(event).__name__, **showing.plain(vars(event), self._names())}
        self._remembered.append(told)
        level = logging.WARNING if isinstance(event, Refused) else logging.INFO
        log.log(level, "%s", " ".join(f"{name}={value!r}" for name, value in told.items() if name != "at"))
        self._tell({"event": "cluster", **told})

    def _own(self, ownership: Ownership) -> None:
        assert self._filter is not None
        picture = plans.owned(ownership, self._kept.slots)
        self._filter.own(picture)
        self._applied = picture

    def _in_use(self, rule: int) -> frozenset[int]:
        """Slots that a former owner keeps. One that drains keeps no clients, only sessions."""
        assert self._filter is not None and self._plan is not None
        staying = self._running().state in SERVING_STATES and self._running().state is not State.DRAINING
        found = self._filter.busy(rule, lingering=staying)
        if staying and self._plan.lingers(rule):
            found |= connected(self._plan, connections(), rule)
        return found

    def _let_go(self, member: Member, now: float) -> None:
        """Slots that became idle are their new owner's: first here, then for others to hear."""
        self._slots_due = now + SLOTS_INTERVAL
        try:
            if self._kept.idle(self._in_use):
                self._own(member.ownership)
                member.held_slots(bitmap(self._kept.slots), now)
        except PorticoError as error:
            self._kernel_failed(error)

    def _take_from_unreachable(self, member: Member, ownership: Ownership) -> None:
        """Clients of a server that lives but hears them no more (a cable, a switch) notice as little as those of a dead
        one: whoever gets its buckets asks them too."""
        before, self._orphaned_buckets = self._orphaned_buckets, tuple(rule.orphaned for rule in ownership.rules)
        if len(before) == len(self._orphaned_buckets) and all(
            new <= old for new, old in zip(self._orphaned_buckets, before, strict=True)
        ):
            return
        own = member.config.host_id
        for view in member.members(self._loop.time()):
            if view.host != own and view.conditions & UNREACHABLE:
                self._orphaned(member.directory.holdings_of(view.host))

    def _orphaned(self, holdings: Collection[Holding]) -> None:
        self._asking.add(holdings, self._port())

    def _kernel_failed(self, error: PorticoError) -> None:
        """The lease runs out by itself; the member must not go on as if it served."""
        if self._broken is None or str(self._broken) != str(error):
            log.error("the kernel's filter cannot be changed: %s", error)
        self._broken = error
        if self._member is not None:
            self._member.local_health(False, f"the filter cannot be changed: {error}", self._loop.time())

    def _readable(self, path: int) -> None:
        member, link = self._member, self._kernel.links[path]
        if member is None:
            return
        for data in link.receive():
            member.receive(path, data, self._loop.time())
        if rivals := member.directory.take_rivals():
            self.clients.rivals(rivals, member)
        self._turn()

    def _carrier(self, path: int, up: bool) -> None:
        log.log(logging.INFO if up else logging.WARNING, "path=%d carrier=%s", path, "there" if up else "gone")
        if self._member is not None:
            self._member.carrier(path, up, self._loop.time())
            self._turn()

    def _count(self) -> None:
        """Looks at the counters of the kernel, for the others to compare theirs with."""
        self._counting = self._loop.call_later(COUNT_INTERVAL, self._count)
        if self._filter is None or self._plan is None or self._member is None:
            return
        now = self._loop.time()
        try:
            counters = self._filter.counters()
        except PorticoError as error:
            self._kernel_failed(error)
            return
        self._counters = {interface: vars(found) for interface, found in counters.items()}
        found = [counters[nic.interface] for nic in self._plan.nics]
        self._member.frame_counters([FrameCount(one.seen, one.accepted) for one in found], now)
        for presence in self._kernel.presences:
            if (due := presence.next_time()) is not None and time.monotonic() >= due:
                presence.ready()
        self._kernel.limiting.look(now)
        if now >= self._slots_due and self._kept.rules:
            self._let_go(self._member, now)
        if now >= self._flows_due and any(rule.dirty for rule in self._member.ownership.rules):
            self._flows_due = now + FLOWS_INTERVAL
            self._loop.create_task(self._look_for_flows(self._member, self._plan))
        self._turn()

    async def _look_for_flows(self, member: Member, plan: BalancingPlan) -> None:
        """Buckets that were given away and have no connection left here are no longer ours in any sense. Only then may
        their new owner answer what it does not know."""
        serial = member.ownership.serial
        default, *rules = member.ownership.rules
        wanted = [rule.dirty for rule in (*rules, default)]
        try:
            busy = await asyncio.to_thread(lambda: busy_buckets(plan, connections(), wanted))
        except PorticoError as error:
            log.warning("%s", error)
            return
        if member is not self._member or plan is not self._plan or member.ownership.serial != serial:
            return
        now = self._loop.time()
        for number, (dirty, left) in enumerate(zip(wanted, busy, strict=True)):
            # The member counts the default rule first.
            gone = dirty - left - self._kept.buckets(number)
            if gone:
                member.flows_gone(0 if number == plan.default_rule else number + 1, gone, now)
        self._turn()

    def _close(self, *, remove: bool) -> None:
        for timer in (self._timer, self._counting):
            if timer is not None:
                timer.cancel()
        self._timer = self._counting = None
        self._asking.close()
        self._kernel.close(self._plan, remove=remove)
        self._member = None

    @property
    def _filter(self) -> Filter | None:
        return self._kernel.filter

    def _running(self) -> Member:
        if self._member is None:
            raise Unavailable("Load balancing does not run", why="it was not configured")
        return self._member

    def _seat(self) -> Seat:
        return Seat(self._member, self._filter, self._plan, self._port())

    def _port(self) -> int:
        """That clients dial."""
        return self._told.local.ip_https.port if self._told is not None else 443

    def _names(self) -> dict[int, str]:
        return self._told.names if self._told is not None else {}
