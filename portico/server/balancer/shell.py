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
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from portico.balancing.nlb.choose import Choice, Preference, choose, clear_other
from portico.balancing.nlb.explain import Packet
from portico.balancing.nlb.filter import Filter
from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.packet import PacketSocket
from portico.balancing.nlb.plan import BalancingPlan, Owned
from portico.balancing.nlb.presence import Presence
from portico.cluster.conditions import SERVING_STATES
from portico.cluster.core import Member
from portico.cluster.events import ClientsOrphaned, Event, OwnershipChanged, Refused
from portico.cluster.heartbeat import FrameCount
from portico.cluster.holdings import Holding, Outer
from portico.cluster.ownership import Ownership
from portico.cluster.states import UNREACHABLE, Condition, IllegalTransition, State
from portico.errors import Conflict, PorticoError, Unavailable
from portico.server.balancer import explaining, plans
from portico.server.balancer.flows import busy_buckets, connections, rule_of
from portico.server.balancer.kept import KeptSlots, bitmap, connected
from portico.server.balancer.limiting import Limiting
from portico.server.balancer.link import DatagramLink, FrameLink, PathLink
from portico.server.balancer.orphans import INTERVAL, Orphans, RawSender
from portico.server.balancer.plans import Assignment
from portico.server.balancer.resets import answers
from portico.server.balancer.takeover import HardwareAddresses
from portico.server.balancer.tunnels import Step, Tunnel, Tunnels

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
DOOMED_AT_A_TIME = 1000
"""Tunnels in one event for the agent."""
GOODBYE = 1.0
"""Seconds in which a server that stops waits for the others to take over what it had."""

_COMMANDS: dict[str, Callable[[Member, float], None]] = {
    "start": Member.start,
    "stop": Member.stop,
    "drain": Member.drain,
    "suspend": Member.suspend,
    "resume": Member.resume,
}
_PREFERENCES: dict[str, Preference] = {"automatic": "automatic", "ebpf": "eBPF", "nftables": "nftables"}
_WANTED = {"started": "start", "stopped": "stop", "suspended": "suspend"}


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
        self._told: Assignment | None = None
        self._plan: BalancingPlan | None = None
        self._member: Member | None = None
        self._choice: Choice | None = None
        self._prepared: tuple[Choice, Filter | None] | None = None
        """The filter for what it is told next, and the one that this replaces."""
        self._links: list[PathLink] = []
        self._presences: list[Presence] = []
        self._timer: asyncio.TimerHandle | None = None
        self._counting: asyncio.TimerHandle | None = None
        self._health: tuple[bool, str] = (False, "the gateway has not said that it serves")
        self._tunnels = Tunnels()
        self._overflow = 0
        self._remembered: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_EVENTS)
        self._counters: dict[str, Any] = {}
        self._leased: float | None = None
        self._applied: Owned | None = None
        """What the kernel works with."""
        self._flows_due = 0.0
        self._kept = KeptSlots()
        self._hardware = HardwareAddresses()
        self._slots_due = 0.0
        self._orphans = Orphans()
        self._orphaned_buckets: tuple[frozenset[int], ...] = ()
        """By rule: what was taken from servers that are dead or hear no client."""
        self._raw = RawSender()
        self._limiting = Limiting()
        self._watches: list[PacketSocket] = []
        """Open while answers of a dead server's clients are expected."""
        self._asking: asyncio.TimerHandle | None = None
        self._broken: PorticoError | None = None
        self._giving_back = False
        self._left = asyncio.Event()
        """The others have what this server had, and it has stopped."""

    # What it is told

    def prepare(self, told: Assignment) -> None:
        """What takes `configure` long, ahead of it: having the kernel verify the program of the filter. In a thread,
        beside the heartbeats; nothing else may configure meanwhile. Raises PorticoError: `configure` would too."""
        self._prepared = None
        macs = {interface: self._hardware.own(interface) for interface, _ in told.interfaces}
        plan = plans.balancing_plan(told, macs)
        if plan == self._plan and self._told is not None and _place(self._told) == _place(told):
            return
        prepared = self._chosen(told)
        prepared[0].filter.prepare(plan)
        self._prepared = prepared

    def configure(self, told: Assignment) -> None:
        """Works by this from now on; the first time it begins.

        Raises:
            PorticoError: it cannot; what was before goes on.
        """
        former = self._told
        now = self._loop.time()
        config = plans.member_config(told)
        macs = {interface: self._hardware.own(interface) for interface, _ in told.interfaces}
        plan = plans.balancing_plan(told, macs)
        moved = former is None or _place(former) != _place(told)
        if self._member is not None and moved and config.host_id != self._member.config.host_id:
            raise Conflict(
                "The host priority of a running server cannot be changed",
                why=f"it is {self._member.config.host_id} and would be {config.host_id}",
                resolution="Stop the server first: portico cluster stop",
            )
        if self._member is None:
            self._member = Member(config, boot=self._boot, nonce=secrets.randbits(64), now=now)
            self._member.local_health(*self._health, now)
        if moved:
            self._open(told, plan)
        elif plan != self._plan:
            self._reinstall(plan)
        for link in self._links:
            if isinstance(link, DatagramLink):
                link.readdress(_others(told))
        self._told, self._plan = told, plan
        if config != self._member.config:
            self._member.configure(config, now)
        if former is None or former.own.state != told.own.state:
            # What was commanded since the settings last said something else stands.
            with suppress(IllegalTransition):
                self.command(_WANTED[told.own.state])
        self._turn()
        if self._counting is None:
            self._count()

    def command(self, name: str) -> None:
        """start, stop, drain, suspend or resume. Raises Conflict when that makes no sense now."""
        member = self._running()
        if name not in _COMMANDS:
            raise Conflict(f"There is no command {name}", why=f"there are {', '.join(_COMMANDS)}")
        try:
            _COMMANDS[name](member, self._loop.time())
        except IllegalTransition as error:
            resolution = "Resume it first" if member.state is State.SUSPENDED else ""
            raise Conflict("The server does not do that now", why=str(error), resolution=resolution) from None
        log.info("command=%s state=%s", name, member.state.name)
        self._turn()

    def health(self, ok: bool, why: str) -> None:
        """Whether clients are served here, as the agent sees it."""
        self._health = (ok, why)
        if self._member is not None:
            self._member.local_health(ok, why, self._loop.time())
            self._turn()

    def sessions(self, sessions: Iterable[tuple[int, str, int, Iterable[str]]]) -> None:
        """All tunnels that there are (number, where from, owner's tag, addresses), in place of what was known."""
        directory = self._running().directory
        listed = [
            (self._tunnel(number, peer, owner), [client for text in texts if (client := _client(text)) is not None])
            for number, peer, owner, texts in sessions
        ]
        self._take_step(self._tunnels.replace(listed, directory, self._loop.time()))

    def session_up(self, session: int, peer: str, owner: int) -> None:
        """A tunnel is there; it has no address yet."""
        self._tunnels.up(self._tunnel(session, peer, owner))

    def session_address(self, session: int, address: str) -> None:
        """A tunnel has one more address."""
        client = _client(address)
        if client is not None:
            directory = self._running().directory
            self._take_step(self._tunnels.address(session, client, directory, self._loop.time()))

    def session_down(self, session: int) -> None:
        """A tunnel is gone, and its addresses with it, but those that another tunnel has taken over."""
        self._take_step(self._tunnels.down(session))

    async def leave(self, *, remove: bool) -> None:
        """Gives everything away, waits a moment until others have it, and closes.

        Args:
            remove: take the filter out of the kernel too. Without it, frames for the VIPs are dropped until a successor
                installs its own: nothing answers for a service that is not there.
        """
        member = self._member
        if member is not None and self._filter is not None:
            with suppress(PorticoError):
                self._filter.surrender()
            with suppress(IllegalTransition):
                member.stop(self._loop.time())
            self._turn()
            if member.state is State.LEAVING:
                with suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE):
                        await self._left.wait()
        if self._giving_back:
            for presence in self._presences:
                presence.give_back()
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
        now = self._loop.time()
        names = told.names
        members = {view.host: view for view in member.members(now)}
        servers = []
        for priority, name in sorted(names.items()):
            view = members.get(priority)
            servers.append(
                {
                    "name": name,
                    "priority": priority,
                    "state": view.windows_state.value if view is not None else None,
                    "conditions": _conditions(view.conditions) if view is not None else [],
                    "weight": view.weight if view is not None else None,
                    "buckets": list(view.buckets) if view is not None else [],
                    "paths": [member.config.paths[number].name for number in view.paths] if view is not None else [],
                    "silence_seconds": round(view.silence, 3) if view is not None else None,
                }
            )
        ownership, resets = member.ownership, self._orphans.resets
        return {
            "name": told.own.name,
            "priority": told.own.priority,
            "converged": member.is_converged(now),
            "map_version": member.map.version,
            "servers": servers,
            "rules": [
                {
                    "rule": "default" if rule.rule is None else str(rule.rule),
                    "owners": list(rule.owners),
                    "owned": len(rule.owned),
                    "dirty": len(rule.dirty),
                    "quiet": len(rule.quiet),
                    "orphaned": len(rule.orphaned),
                }
                for rule in ownership.rules
            ],
            "mode": told.balancing.mode,
            "filter": self._choice.name if self._choice is not None else None,
            "filter_why": self._choice.why if self._choice is not None else "",
            "clients": len(self._tunnels),
            "tunnels_closed": vars(self._tunnels.counters),
            "directory": {name: len(member.directory.holdings_of(host)) for host, name in names.items()},
            "orphans": {**vars(self._orphans.counters), "reset": resets.sent, "limited": resets.limited},
            "resets": self._limiting.counts(),
            "clients_over_limit": self._overflow,
            "counters": self._counters,
            "unsent": [link.failed for link in self._links],
            "problem": str(self._broken) if self._broken is not None else None,
            "events": list(self._remembered),
        }

    def explain(self, asked: Packet) -> dict[str, Any]:
        """Which server takes this packet, and why. Raises Unavailable before the first configuration."""
        member, told, plan = self._running(), self._told, self._plan
        if told is None or plan is None:
            raise Unavailable("Load balancing does not run", why="it was not configured")
        now = self._loop.time()
        serving = {
            view.host: view.state in SERVING_STATES and not view.conditions
            for view in member.members(now)
            if view.host != told.own.priority
        }
        serving[told.own.priority] = member.lease_until is not None and now < member.lease_until
        destination = asked.destination
        holder = member.directory.holder_of(destination) if isinstance(destination, IPv6Address) else None
        servers = explaining.members(told.own.priority, self._applied, serving, member.ownership, told.names)
        return explaining.explanation(
            plan,
            asked,
            servers,
            answering=told.own.name,
            holder=told.names.get(holder) if holder is not None else None,
        )

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
                self._links[frame.path].send(frame.data)
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
        told = {"at": time.time(), "kind": type(event).__name__, **_plain(vars(event), self._names())}
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
        self._orphans.add(holdings, self._entrances(), self._loop.time())
        self._watch_answers()
        if self._asking is None:
            self._ask_orphans()

    def _kernel_failed(self, error: PorticoError) -> None:
        """The lease runs out by itself; the member must not go on as if it served."""
        if self._broken is None or str(self._broken) != str(error):
            log.error("the kernel's filter cannot be changed: %s", error)
        self._broken = error
        if self._member is not None:
            self._member.local_health(False, f"the filter cannot be changed: {error}", self._loop.time())

    def _readable(self, path: int) -> None:
        member, link = self._member, self._links[path]
        if member is None:
            return
        for data in link.receive():
            member.receive(path, data, self._loop.time())
        if rivals := member.directory.take_rivals():
            self._take_step(self._tunnels.rivals(rivals, member.directory, self._loop.time()))
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
        for presence in self._presences:
            if (due := presence.next_time()) is not None and time.monotonic() >= due:
                presence.ready()
        self._limiting.look(now)
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

    # The kernel

    def _open(self, told: Assignment, plan: BalancingPlan) -> None:
        """Sockets and filter for these interfaces, in place of those that were."""
        links: list[PathLink] = []
        presences: list[Presence] = []
        (chosen, former), self._prepared = self._prepared or self._chosen(told), None
        if self._choice is None:
            clear_other(chosen, [interface for interface, _ in told.interfaces])
        fresh = chosen.filter
        try:
            links += [FrameLink(interface) for interface, _ in told.interfaces]
            own = told.dedicated(told.own)
            if own is None:
                raise Unavailable(
                    "Heartbeats cannot be sent",
                    why=f"{told.own.name} has no dedicated address",
                    resolution="Set load_balancing.servers[].internal_dedicated_addresses",
                )
            links.append(DatagramLink(own, plans.PORT, _others(told)))
            member = self._running()
            self._hardware.give_back(plan.nics)
            fresh.install(plan, plans.owned(member.ownership, self._kept.slots), set(self._tunnels.holdings()))
            self._hardware.take(plan.nics)
            self._limiting.install(plan.nics)
            presences += [Presence(nic, kernel_answers=fresh.answers) for nic in plan.nics]
        except BaseException:
            for link in links:
                link.close()
            for presence in presences:
                presence.close()
            raise
        if former is not None:
            former.remove()
        self._close_sockets()
        self._choice, self._links, self._presences = chosen, links, presences
        for path, link in enumerate(links):
            self._loop.add_reader(link.fileno(), self._readable, path)
        for presence in presences:
            for packets in presence.sockets:
                self._loop.add_reader(packets.fileno(), presence.ready)
            presence.announce()

    def _chosen(self, told: Assignment) -> tuple[Choice, Filter | None]:
        """The filter that the settings ask for, and the one in use when that is another one."""
        if self._choice is None:
            return choose(_PREFERENCES[told.balancing.filter]), None
        if self._told is None or self._told.balancing.filter == told.balancing.filter:
            return self._choice, None
        wanted = _PREFERENCES[told.balancing.filter]
        if self._choice.name == wanted:
            # Loading the program takes the kernel's verifier long on a busy machine.
            return Choice(self._choice.filter, f"the settings ask for {wanted}"), None
        fresh = choose(wanted)
        if fresh.name == self._choice.name:
            return Choice(self._choice.filter, fresh.why), None
        return fresh, self._choice.filter

    def _reinstall(self, plan: BalancingPlan) -> None:
        """The same interfaces with other rules, keys, lease: no packet is lost."""
        assert self._filter is not None
        picture = plans.owned(self._running().ownership, self._kept.slots)
        self._filter.install(plan, picture, set(self._tunnels.holdings()))

    def _take_step(self, step: Step) -> None:
        """Tells the gateway, by the agent, which tunnels to close; the kernel and the other servers the rest."""
        if step.doomed:
            log.warning("tunnels=%r are to be closed: their addresses are held by another server", step.doomed[:20])
            for start in range(0, len(step.doomed), DOOMED_AT_A_TIME):
                self._tell({"event": "disconnect", "sessions": step.doomed[start : start + DOOMED_AT_A_TIME]})
        self._change_clients(step.taken, step.lost)

    def _change_clients(self, taken: list[Holding], lost: Collection[IPv6Address]) -> None:
        if self._filter is None or self._member is None or not (taken or lost):
            return
        try:
            self._filter.change_clients([holding.client for holding in taken], lost)
        except PorticoError as error:
            self._overflow += len(taken)
            log.error("clients cannot be taken into the filter: %s", error)
        self._member.directory.local_change(taken, lost, self._loop.time())
        self._turn()

    def _tunnel(self, number: int, peer: str, owner: int) -> Tunnel:
        return Tunnel(number, peer, self._outer(peer), owner)

    def _outer(self, peer: str) -> Outer | None:
        """`203.0.113.7:40000`, `[2001:db8::7]:40000`. The address it dialled is not known, one of its family stands
        for it."""
        host, _, port = peer.rpartition(":")
        try:
            client = ip_address(host.strip("[]"))
            vip = next(vip for vip in self._entrances() if vip.version == client.version)
            return Outer(client, int(port), vip, self._told.local.ip_https.port if self._told is not None else 443)
        except (ValueError, StopIteration):
            return None

    def _entrances(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """VIPs that clients dial."""
        plan = self._plan
        nics = plan.nics if plan is not None else ()
        external = [nic for nic in nics if nic.side == "external"] or nics
        return tuple(vip for nic in external for vip in nic.vips)

    def _ask_orphans(self) -> None:
        """Makes idle clients of a dead server notice, as fast as is decent."""
        self._asking = None
        for packet in self._orphans.due(self._is_ours, self._loop.time()):
            if not self._raw.send(packet):
                self._orphans.counters.failed += 1
        self._orphans.resets.expire(self._loop.time())
        if len(self._orphans):
            self._asking = self._loop.call_later(INTERVAL, self._ask_orphans)
        elif len(self._orphans.resets):
            self._asking = self._loop.call_later(1.0, self._ask_orphans)
        else:
            self._close_watches()

    def _watch_answers(self) -> None:
        """Sees what clients of a dead server send before the filter decides about it."""
        if self._watches or self._plan is None or self._told is None:
            return
        port = self._told.local.ip_https.port
        external = [nic for nic in self._plan.nics if nic.side == "external"] or self._plan.nics
        for nic in external:
            try:
                watch = PacketSocket(nic.interface, answers(port))
            except PorticoError as error:
                log.warning("clients of a dead server are left to the kernel: %s", error)
                continue
            self._loop.add_reader(watch.fileno(), self._answered, watch)
            self._watches.append(watch)

    def _answered(self, watch: PacketSocket) -> None:
        for frame in watch.receive():
            reset = self._orphans.resets.answer(frame, self._is_ours, self._loop.time())
            if reset is not None and not self._raw.send(reset):
                self._orphans.counters.failed += 1

    def _close_watches(self) -> None:
        for watch in self._watches:
            self._loop.remove_reader(watch.fileno())
            watch.close()
        self._watches = []

    def _is_ours(self, outer: Outer) -> bool:
        """Whether the kernel accepts this connection here, and will reset it."""
        if self._member is None or self._plan is None:
            return False
        number = rule_of(self._plan, outer.vip, outer.vip_port)
        affinity = self._plan.rules[number].affinity if number < len(self._plan.rules) else "single"
        rules = self._applied
        if rules is None:
            return False
        bucket = bucket_of(outer.client, outer.client_port, affinity, self._plan.seed)
        return bucket in rules.shares(self._plan)[number].owned

    def _close_sockets(self) -> None:
        for link in self._links:
            self._loop.remove_reader(link.fileno())
            link.close()
        for presence in self._presences:
            presence.leave()
            for packets in presence.sockets:
                self._loop.remove_reader(packets.fileno())
            presence.close()
        self._links, self._presences = [], []

    def _close(self, *, remove: bool) -> None:
        for timer in (self._timer, self._counting, self._asking):
            if timer is not None:
                timer.cancel()
        self._timer = self._counting = self._asking = None
        self._close_watches()
        self._raw.close()
        self._close_sockets()
        if remove and self._filter is not None:
            if self._plan is not None:
                self._hardware.give_back(self._plan.nics, everything=True)
            self._filter.remove()
            self._limiting.remove()
        self._choice = self._member = None

    @property
    def _filter(self) -> Filter | None:
        return self._choice.filter if self._choice is not None else None

    def _running(self) -> Member:
        if self._member is None:
            raise Unavailable("Load balancing does not run", why="it was not configured")
        return self._member

    def _names(self) -> dict[int, str]:
        return self._told.names if self._told is not None else {}


def _client(text: str) -> IPv6Address | None:
    """An address by which the intranet reaches a client; link-local ones are nobody's but the link's."""
    address = IPv6Address(text)
    return None if address.is_link_local else address


def _place(told: Assignment) -> object:
    """What sockets depend on: another one needs other sockets."""
    virtual = tuple(map(str, told.balancing.virtual_addresses))
    dedicated = tuple(map(str, told.own.dedicated_addresses))
    balancing = told.balancing
    mode = (balancing.mode, balancing.takeover)
    return told.interfaces, virtual, dedicated, mode, told.own.priority, balancing.filter


def _others(told: Assignment) -> list[IPv4Address | IPv6Address]:
    addresses = [told.dedicated(server) for server in told.balancing.servers if server.name != told.own.name]
    return [address for address in addresses if address is not None]


def _conditions(conditions: Condition) -> list[str]:
    return [flag.name.lower() for flag in Condition if flag in conditions and flag.name is not None]


def _plain(values: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """An event's fields as JSON data, hosts by their names."""
    hosts: Sequence[str] = ("host", "default_host")
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in hosts:
            found[name] = names.get(value, str(value))
        elif isinstance(value, frozenset):
            found[name] = sorted(names.get(item, str(item)) for item in value)
        elif isinstance(value, tuple):
            found[name] = len(value)
        elif isinstance(value, Condition):
            found[name] = _conditions(value)
        elif isinstance(value, State):
            found[name] = value.name.lower()
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
