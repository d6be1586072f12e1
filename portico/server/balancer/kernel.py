"""What a balancer has in the kernel of its server: sockets, the filter, hardware addresses, answers for the VIPs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb.choose import Choice, Preference, choose, clear_other
from portico.balancing.nlb.filter import Filter
from portico.balancing.nlb.plan import BalancingPlan, Owned
from portico.balancing.nlb.presence import Presence
from portico.errors import Unavailable
from portico.server.balancer import plans
from portico.server.balancer.carriers import Carriers
from portico.server.balancer.limiting import Limiting
from portico.server.balancer.link import DatagramLink, FrameLink, PathLink
from portico.server.balancer.plans import Assignment
from portico.server.balancer.takeover import HardwareAddresses

_PREFERENCES: dict[str, Preference] = {"automatic": "automatic", "ebpf": "eBPF", "nftables": "nftables"}


class Kernel:
    """
    Args:
        readable: is called with the number of a path when something has come on it.
        carrier: is called with the number of a path when its network card lost its carrier or has it again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, readable: Callable[[int], None], carrier: Callable[[int, bool], None]
    ) -> None:
        self._loop = loop
        self._readable = readable
        self._carrier = carrier
        self.choice: Choice | None = None
        self._prepared: tuple[Choice, Filter | None] | None = None
        """The filter for what it is told next, and the one that this replaces."""
        self.links: list[PathLink] = []
        self.presences: list[Presence] = []
        self._carriers: Carriers | None = None
        self.limiting = Limiting()
        self._hardware = HardwareAddresses()

    @property
    def filter(self) -> Filter | None:
        return self.choice.filter if self.choice is not None else None

    def plan(self, told: Assignment) -> BalancingPlan:
        """What the filter is told. Raises PorticoError: it makes no sense here."""
        macs = {interface: self._hardware.own(interface) for interface, _ in told.interfaces}
        return plans.balancing_plan(told, macs)

    def prepare(
        self, told: Assignment, former: Assignment | None, plan: BalancingPlan, current: BalancingPlan | None
    ) -> None:
        """What takes `open` and `reinstall` long, ahead of them. In a thread. Raises PorticoError."""
        self._prepared = None
        if plan == current and former is not None and place(former) == place(told):
            return
        prepared = self._chosen(told, former)
        prepared[0].filter.prepare(plan)
        self._prepared = prepared

    def open(
        self,
        told: Assignment,
        former: Assignment | None,
        plan: BalancingPlan,
        owned: Owned,
        clients: Collection[IPv6Address],
    ) -> None:
        """Sockets and filter for these interfaces, in place of those that were. Raises PorticoError: those stay."""
        links: list[PathLink] = []
        presences: list[Presence] = []
        (chosen, replaced), self._prepared = self._prepared or self._chosen(told, former), None
        if self.choice is None:
            clear_other(chosen, [interface for interface, _ in told.interfaces])
        fresh = chosen.filter
        carriers = Carriers([interface for interface, _ in told.interfaces], self._carrier)
        try:
            links += [FrameLink(interface) for interface, _ in told.interfaces]
            own = told.dedicated(told.own)
            if own is None:
                raise Unavailable(
                    "Heartbeats cannot be sent",
                    why=f"{told.own.name} has no dedicated address",
                    resolution="Set load_balancing.servers[].internal_dedicated_addresses",
                )
            links.append(DatagramLink(own, plans.PORT, others(told)))
            self._hardware.give_back(plan.nics)
            fresh.install(plan, owned, clients)
            self._hardware.take(plan.nics)
            self.limiting.install(plan.nics)
            presences += [Presence(nic, kernel_answers=fresh.answers) for nic in plan.nics]
        except BaseException:
            opened: list[PathLink | Presence | Carriers] = [*links, *presences, carriers]
            for one in opened:
                one.close()
            raise
        if replaced is not None:
            replaced.remove()
        self._close_sockets()
        self.choice, self.links, self.presences, self._carriers = chosen, links, presences, carriers
        self._loop.add_reader(carriers.fileno(), carriers.readable)
        for path, link in enumerate(links):
            self._loop.add_reader(link.fileno(), self._readable, path)
        for presence in presences:
            for packets in presence.sockets:
                self._loop.add_reader(packets.fileno(), presence.ready)
            presence.announce()
        self._loop.call_soon(carriers.look)

    def reinstall(self, plan: BalancingPlan, owned: Owned, clients: Collection[IPv6Address]) -> None:
        """The same interfaces with other rules, keys, lease: no packet is lost. Raises Unavailable."""
        assert self.filter is not None
        self.filter.install(plan, owned, clients)

    def readdress(self, told: Assignment) -> None:
        """Where the others are now."""
        for link in self.links:
            if isinstance(link, DatagramLink):
                link.readdress(others(told))

    def give_back(self) -> None:
        """Tells the network that the virtual addresses are this server's own."""
        for presence in self.presences:
            presence.give_back()

    def close(self, plan: BalancingPlan | None, *, remove: bool) -> None:
        """Args: remove: take the filter out of the kernel too, see `Shell.leave`."""
        self._close_sockets()
        if remove and self.filter is not None:
            if plan is not None:
                self._hardware.give_back(plan.nics, everything=True)
            self.filter.remove()
            self.limiting.remove()
        self.choice = None

    def _chosen(self, told: Assignment, former: Assignment | None) -> tuple[Choice, Filter | None]:
        """The filter that the settings ask for, and the one in use when that is another one."""
        if self.choice is None:
            return choose(_PREFERENCES[told.balancing.filter]), None
        if former is None or former.balancing.filter == told.balancing.filter:
            return self.choice, None
        wanted = _PREFERENCES[told.balancing.filter]
        if self.choice.name == wanted:
            # Loading the program takes the kernel's verifier long on a busy machine.
            return Choice(self.choice.filter, f"the settings ask for {wanted}"), None
        fresh = choose(wanted)
        if fresh.name == self.choice.name:
            return Choice(self.choice.filter, fresh.why), None
        return fresh, self.choice.filter

    def _close_sockets(self) -> None:
        for link in self.links:
            self._loop.remove_reader(link.fileno())
            link.close()
        for presence in self.presences:
            presence.leave()
            for packets in presence.sockets:
                self._loop.remove_reader(packets.fileno())
            presence.close()
        if self._carriers is not None:
            self._loop.remove_reader(self._carriers.fileno())
            self._carriers.close()
        self.links, self.presences, self._carriers = [], [], None


def place(told: Assignment) -> object:
    """What sockets depend on: another one needs other sockets."""
    virtual = tuple(map(str, told.balancing.virtual_addresses))
    dedicated = tuple(map(str, told.own.dedicated_addresses))
    balancing = told.balancing
    mode = (balancing.mode, balancing.takeover)
    return told.interfaces, virtual, dedicated, mode, told.own.priority, balancing.filter


def others(told: Assignment) -> list[IPv4Address | IPv6Address]:
    addresses = [told.dedicated(server) for server in told.balancing.servers if server.name != told.own.name]
    return [address for address in addresses if address is not None]
