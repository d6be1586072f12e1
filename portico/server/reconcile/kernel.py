"""All parts together: observe everything, plan, apply in the one safe order, undo in the reverse of it.

Everything here blocks (netlink, nft, files) and runs in one worker thread at a time; the agent calls it from a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.errors import PorticoError, Unavailable
from portico.server.reconcile import addresses, host_addresses, nftables, routes, rules, sysctls, tun
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.level_rules import Member
from portico.server.reconcile.wanted import (
    TRANSLATOR,
    TUNNEL,
    Change,
    DeviceAddress,
    Filter,
    HostAddress,
    HostAddresses,
    Wanted,
)

_LATE = 2.0
"""Seconds that a client may leave the packet filter early: the kernel counts from when it was told."""

FORWARD_IPV6 = "net/ipv6/conf/all/forwarding"


@dataclass
class State:
    """What was observed."""

    links: dict[str, tun.LinkState] = field(default_factory=dict)
    addresses: frozenset[DeviceAddress] = frozenset()
    routes: frozenset[routes.Observed] = frozenset()
    rules: frozenset[rules.Rule] = frozenset()
    sysctls: dict[str, str] = field(default_factory=dict)
    table: nftables.Table = field(default_factory=nftables.Table)
    interfaces: dict[str, host_addresses.Observed] = field(default_factory=dict)
    users: Mapping[str, float] = field(default_factory=dict)
    """Given to the packet filter before it was looked at: address to when its time is over (monotonic seconds)."""


class Kernel:
    """The kernel's side of one server.

    Attributes:
        devices: the open TUN devices by name; the gateway gets their descriptors.
        generation: grows whenever a device was created anew, so that its holder passes the new descriptors on.
    """

    def __init__(self, ledger_path: Path) -> None:
        self.ledger = Ledger(ledger_path)
        self.devices: dict[str, tun.Queues] = {}
        self.generation = 0
        self.users: Callable[[], Sequence[Member]] = tuple
        """Clients whose users have authenticated, now."""
        self._installed: list[str] | None = None
        self._filter: Filter | None = None
        self._given: dict[str, float] = {}
        self._lock = threading.Lock()

    def observe(self, wanted: Wanted) -> State:
        """The state of everything that is wanted.

        Raises:
            Unavailable: netlink or nft does not work.
        """
        users = dict(self._given)
        with _netlink() as ip:
            links = tun.observe(ip, [TUNNEL, TRANSLATOR])
            return State(
                links,
                addresses.observe(ip, links),
                routes.observe(ip, links, wanted.routes),
                rules.observe(ip),
                sysctls.observe([*wanted.sysctls, sysctls.RESERVED_PORTS, sysctls.PORT_RANGE]),
                nftables.observe(),
                self._interfaces(ip, wanted.host_addresses),
                users,
            )

    def plan(self, wanted: Wanted, state: State) -> list[Change]:
        """What differs, in the order in which it is put right."""
        wanted = self._complete(wanted, state)
        changes = tun.plan(wanted.devices, self._held(state))
        changes += sysctls.plan(wanted.sysctls, state.sysctls)
        installed = self._installed if wanted.filter == self._filter else None
        changes += nftables.plan(installed, state.table.objects)
        if installed is not None and state.table.objects is not None:
            # What was given while the kernel was looked at may be there or not.
            now = time.monotonic() + _LATE
            lasting = [address for address, end in self._given.items() if min(end, state.users.get(address, 0.0)) > now]
            changes += nftables.plan_users({*self._given, *state.users}, lasting, state.table)
        changes += host_addresses.plan(wanted.host_addresses, state.interfaces, self.ledger.host_addresses)
        changes += addresses.plan(wanted.addresses, state.addresses)
        changes += routes.plan(wanted.routes, state.routes)
        changes += rules.plan(wanted.steer, state.rules, self.ledger.local_rule_moved)
        return changes

    def reconcile(self, wanted: Wanted) -> list[Change]:
        """Observes, plans and applies; returns what was done. Applying what is already so does nothing.

        Devices come first, then the packet filter before anything can be forwarded, then sysctls, the addresses of the
        machine's interfaces, those of our devices and routes, the rules last. What a former revision wanted and this
        one does not is put back.

        Raises:
            Unavailable: the first thing that failed, named; what was done before it stays, and the next call goes on.
        """
        with self._lock:
            state = self.observe(wanted)
            done = self._open_devices(wanted, state)
            state = self.observe(wanted) if done else state
            changes = self.plan(wanted, state)
            by_part = {part: [c for c in changes if c.part == part] for part in {c.part for c in changes}}
            wanted = self._complete(wanted, state)
            with _netlink() as ip:
                # Before forwarding is switched on the filter must stand.
                if by_part.get("nftables"):
                    users = self.users()
                    self._given = _ends(users)
                    self._installed = nftables.apply(wanted.filter, users)
                    self._filter = wanted.filter
                sysctls.apply(by_part.get("sysctls", []), self.ledger)
                if by_part.get("host_addresses"):
                    host_addresses.apply(ip, wanted.host_addresses, self.ledger)
                tun.apply(ip, by_part.get("devices", []), state.links)
                addresses.apply(ip, by_part.get("addresses", []), state.links)
                # Addresses bring routes of their own: look again, or the same prefix would be there twice.
                seen = routes.observe(ip, state.links, wanted.routes)
                routes.apply(ip, routes.plan(wanted.routes, seen), state.links)
                rules.apply(ip, by_part.get("rules", []), self.ledger)
                if not wanted.steer and self.ledger.local_rule_moved:
                    self.ledger.set_local_rule_moved(False)
            stale = sysctls.undo(self.ledger, keep=list(wanted.sysctls))
            if stale:
                raise Unavailable("Cannot put former kernel settings back", why="; ".join(stale))
            return [*done, *(c for c in changes if c not in done)]

    def refresh_users(self) -> bool:
        """Gives the packet filter the clients whose users have authenticated; False when it has no place for them.

        Raises:
            Unavailable: nft refuses.
        """
        with self._lock:
            if self._filter is None or self._filter.levels is None:
                return False
            users = self.users()
            self._given = {**self._given, **_ends(users)}
            nftables.set_users(users)
            self._given = _ends(users)
            return True

    def administrators(self) -> dict[str, tuple[HostAddress, ...]]:
        """The addresses that the administrator has on the interfaces where load balancing changed something.

        Raises:
            Unavailable: netlink does not work.
        """
        entries = self.ledger.host_addresses
        if not entries:
            return {}
        with _netlink() as ip:
            state = host_addresses.observe(ip, list(entries))
        return {
            name: tuple(held.address for held in host_addresses.theirs(entries[name], seen))
            for name, seen in state.items()
        }

    def undo(self, keep: Sequence[HostAddresses] = ()) -> list[str]:
        """Removes everything Portico made and puts back what it changed; returns what failed, in words.

        The rules go first: without the translator they lead nowhere.

        Args:
            keep: interfaces that keep the addresses they have in a cluster, because other servers answer for what they
                had before.
        """
        failures: list[str] = []
        with self._lock:
            try:
                with _netlink() as ip:
                    with _collect(failures):
                        rules.undo(ip, self.ledger)
                    with _collect(failures):
                        routes.undo(ip)
                    with _collect(failures):
                        host_addresses.apply(ip, keep, self.ledger)
            except Unavailable as error:
                failures.append(str(error))
            self._close_devices()
            failures += sysctls.undo(self.ledger)
            with _collect(failures):
                nftables.undo()
            self._installed = self._filter = None
            self._given = {}
        return failures

    def closed_families(self, internal_interface: str) -> frozenset[Literal[4, 6]]:
        """The families the machine did not forward by itself before Portico."""
        names: dict[Literal[4, 6], str] = {4: f"net/ipv4/conf/{internal_interface}/forwarding", 6: FORWARD_IPV6}
        now = sysctls.observe(list(names.values()))
        return frozenset(
            family for family, name in names.items() if (self.ledger.before(name) or now.get(name, "0")) == "0"
        )

    def _interfaces(self, ip: IPRoute, wanted: Sequence[HostAddresses]) -> dict[str, host_addresses.Observed]:
        names = {*(item.interface for item in wanted), *self.ledger.host_addresses}
        return host_addresses.observe(ip, sorted(names)) if names else {}

    def _held(self, state: State) -> dict[str, tun.LinkState]:
        """Only links whose queues we hold count as ours."""
        return {
            name: link
            for name, link in state.links.items()
            if name in self.devices and self.devices[name].index == link.index
        }

    def _complete(self, wanted: Wanted, state: State) -> Wanted:
        values = sysctls.complete(wanted.sysctls, wanted.reserved_ports, state.sysctls, self.ledger)
        return replace(wanted, sysctls=values)

    def _open_devices(self, wanted: Wanted, state: State) -> list[Change]:
        held = self._held(state)
        done = []
        names = {device.name: device for device in wanted.devices}
        for name in [n for n in self.devices if n not in names]:
            self.devices.pop(name).close()
            self.generation += 1
            done.append(Change("devices", "remove", name))
        for name, device in names.items():
            queues = self.devices.get(name)
            if queues is not None and name in held and len(queues.fds) == device.queues:
                continue
            if queues is not None:
                queues.close()
            self.devices.pop(name, None)
            self.devices[name] = tun.open_queues(device)
            self.generation += 1
            done.append(Change("devices", "add", name, after=f"mtu {device.mtu}, {device.queues} queues"))
        return done

    def _close_devices(self) -> None:
        for queues in self.devices.values():
            queues.close()
        self.devices.clear()


def _ends(users: Sequence[Member]) -> dict[str, float]:
    now = time.monotonic()
    return {str(member.address): now + member.seconds for member in users}


@contextmanager
def _netlink() -> Iterator[IPRoute]:
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise Unavailable(
            "The kernel refused a change of addresses, routes or rules",
            why=str(error.args[1] if len(error.args) > 1 else error),
            resolution="It needs root (CAP_NET_ADMIN); look with: ip -6 addr; ip rule; ip route show table 6464",
        ) from None
    except OSError as error:
        raise Unavailable("Netlink does not work", why=str(error), resolution="It needs root") from None


@contextmanager
def _collect(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except (PorticoError, NetlinkError, OSError) as error:
        failures.append(str(error))
