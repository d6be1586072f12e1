"""Addresses of the machine's own interfaces under load balancing: VIPs move to `lo`, DIPs take their place.

What the administrator had stays known (the ledger holds the kernel's own messages, written before anything is touched)
and comes back exactly: addresses with their flags and order, routes with their source addresses. Everything else on
these interfaces is left alone.

The order of the steps is what keeps the machine reachable. `lo` has the VIPs before an interface loses them, so they
never cease to be local. The DIPs are there before the VIPs go, and `promote_secondaries` (a sysctl of the same plan)
lets them stay when the address before them goes; an interface that loses its last address would lose its routes.
Routes with a VIP as source address are exchanged, not removed: the default route is there at every moment.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from pyroute2 import IPRoute

from portico.errors import Unavailable
from portico.server.reconcile import messages
from portico.server.reconcile.host_entry import Entry, Held
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import Change, HostAddress, HostAddresses

Address = IPv4Address | IPv6Address

_FAMILIES: Mapping[int, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_PERMANENT, _NODAD = 0x80, 0x02
_IFA_FLAGS, _IFA_CACHEINFO = 8, 6
_FOREVER = 0xFFFFFFFF
_LOOPBACK = "lo"


@dataclass(frozen=True)
class Observed:
    """An interface: its number, its addresses in the kernel's order (link-local ones left out)."""

    index: int
    held: tuple[Held, ...] = ()


def observe(ip: IPRoute, names: Sequence[str]) -> dict[str, Observed]:
    """The named interfaces that exist."""
    links = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
    indices = {name: index for index, name in links.items() if name in names}
    held: dict[int, list[Held]] = {index: [] for index in indices.values()}
    for family in _FAMILIES.values():
        for message in ip.get_addr(family=family):
            if message["index"] not in held:
                continue
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address = ip_interface(f"{text}/{message['prefixlen']}")
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if not (address.version == 6 and address.ip.is_link_local):
                held[message["index"]].append(Held(address, messages.body(message), bool(flags & _PERMANENT)))
    return {name: Observed(index, tuple(held[index])) for name, index in indices.items()}


def theirs(entry: Entry | None, seen: Observed) -> list[Held]:
    """The addresses as the administrator has them: without ours, with those we took, in their former order. Pure."""
    if entry is None or entry.index != seen.index:
        return list(seen.held)
    now = {held.address.ip: held for held in seen.held}
    kept = [held for held in entry.former if held.address.ip in entry.removed or held.address.ip in now]
    known = {held.address.ip for held in kept} | entry.added
    return [*kept, *(held for held in seen.held if held.address.ip not in known)]


def plan(wanted: Sequence[HostAddresses], state: Mapping[str, Observed], entries: Mapping[str, Entry]) -> list[Change]:
    """What differs, interface by interface; for those that are no longer wanted, what gives them back. Pure."""
    changes = []
    by_name = {item.interface: item for item in wanted}
    for name in _in_order(by_name, entries):
        item, seen, entry = by_name.get(name), state.get(name), entries.get(name)
        if seen is None:
            addresses = item.present if item is not None else ()
            changes += [Change("host_addresses", "add", f"{address} on {name}") for address in addresses]
            continue
        goal = _goal(item, entry, seen)
        now = {held.address.ip for held in seen.held}
        there = {held.address.ip for held in goal}
        here = [("add", held) for held in goal if held.address.ip not in now]
        here += [("remove", held) for held in seen.held if held.address.ip not in there]
        changes += [
            Change("host_addresses", "add" if action == "add" else "remove", f"{held.address} on {name}")
            for action, held in here
        ]
        if not here and entry is not None and (item is None or entry.routes):
            changes.append(Change("host_addresses", "set", f"routes of {name}", after="as they are to be"))
    return changes


def apply(ip: IPRoute, wanted: Sequence[HostAddresses], ledger: Ledger) -> None:
    """Makes the interfaces have what is wanted, and gives back those that are no longer among them.

    May be interrupted anywhere and called again, also to the opposite end.

    Raises:
        Unavailable: an interface is missing, or the kernel refused; what was done stays in the ledger.
    """
    by_name = {item.interface: item for item in wanted}
    entries = ledger.host_addresses
    state = observe(ip, [*by_name, *entries])
    for name in _in_order(by_name, entries):
        item, seen, entry = by_name.get(name), state.get(name), entries.get(name)
        if seen is None:
            if item is not None:
                raise Unavailable(
                    f"The addresses of {name} cannot be set",
                    why="there is no such interface",
                    resolution="Attach it, or correct the interface in the settings; list them with: ip link",
                )
            ledger.set_host_addresses(name, None)  # its addresses went with it
            continue
        if entry is not None and entry.index != seen.index:
            entry = None
        try:
            _Interface(ip, ledger, name, seen, entry).become(item)
        except OSError as error:
            raise Unavailable(
                f"The kernel refused a change of the addresses of {name}",
                why=error.strerror or str(error),
                resolution=f"It needs root (CAP_NET_ADMIN); look with: ip addr show {name}; ip route show dev {name}",
            ) from None


def undo(ip: IPRoute, ledger: Ledger) -> None:
    """Gives everything back. Raises Unavailable."""
    apply(ip, (), ledger)


def _in_order(by_name: Mapping[str, HostAddresses], entries: Mapping[str, Entry]) -> list[str]:
    """`lo` first when it is to have the VIPs, last when it gives them back."""
    names = list(dict.fromkeys([*by_name, *entries]))
    first = _LOOPBACK in by_name
    return sorted(names, key=lambda name: (name == _LOOPBACK) != first)


def _goal(item: HostAddresses | None, entry: Entry | None, seen: Observed) -> list[Held]:
    """The addresses an interface is to have. New ones have no message yet."""
    base = theirs(entry, seen)
    if item is None:
        return base
    kept = [held for held in base if held.address.ip not in item.absent]
    there = {held.address.ip for held in kept}
    return [*(Held(address, b"") for address in item.present if address.ip not in there), *kept]


class _Interface:
    """One interface on its way to other addresses."""

    def __init__(self, ip: IPRoute, ledger: Ledger, name: str, seen: Observed, entry: Entry | None) -> None:
        self.ip, self.ledger, self.name, self.seen = ip, ledger, name, seen
        self.known = entry is not None
        self.entry = entry if entry is not None else Entry(seen.index, former=list(seen.held))

    def become(self, item: HostAddresses | None) -> None:
        """To what is wanted of it, or back to what the administrator has (None)."""
        entry = self.entry
        base = theirs(entry if self.known else None, self.seen)
        goal = _goal(item, entry if self.known else None, self.seen)
        now = {held.address.ip for held in self.seen.held}
        there = {held.address.ip for held in goal}
        new = [held for held in goal if held.address.ip not in now]
        gone = [held for held in self.seen.held if held.address.ip not in there]
        settled = not new and not gone and not entry.routes
        if settled and (item is not None or (not self.known)):
            return
        # What the administrator added since belongs to what he has; what he removed does not.
        entry.former = base
        entry.added |= {held.address.ip for held in new if not held.message}
        entry.removed |= {held.address.ip for held in gone} & {held.address.ip for held in base}
        for family in _FAMILIES.values():
            known = {messages.same_route(route) for route in entry.routes}
            routes = messages.routes_of(self.ip, family, self.seen.index)
            entry.routes += [route for route in routes if messages.same_route(route) not in known]
        self._write()
        for held in new:
            self._add(held)
        lost = {held.address.ip.packed for held in gone}
        self._exchange_sources(item, lost)
        for held in gone:
            self._delete(held)
        # Where secondary addresses are not promoted, the kernel took more than was asked for.
        left = {held.address.ip for held in self._now()}
        for held in goal:
            if held.address.ip not in left:
                self._add(held)
        if item is None:
            self._put_in_order(base)
        self._restore_routes(item, lost)
        entry.routes = []
        if item is None:
            self.ledger.set_host_addresses(self.name, None)
            return
        entry.removed = {held.address.ip for held in base if held.address.ip in item.absent}
        entry.added &= there
        self._write()

    def _write(self) -> None:
        self.ledger.set_host_addresses(self.name, self.entry)

    def _add(self, held: Held) -> None:
        try:
            if held.message:
                self._add_as_it_was(held)
            else:
                self._add_new(held.address)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    def _add_new(self, address: HostAddress) -> None:
        packed = address.ip.packed
        flags = _NODAD if address.version == 6 else 0
        head = bytes([_FAMILIES[address.version], address.network.prefixlen, flags, 0])
        content = head + self.seen.index.to_bytes(4, _ORDER) + _attribute(1, packed) + _attribute(2, packed)
        if address.version == 6 and self.name == _LOOPBACK:
            # Deprecated: answers leave from it, new connections of the server itself do not.
            times = b"".join(value.to_bytes(4, _ORDER) for value in (0, _FOREVER, 0, 0))
            content += _attribute(_IFA_CACHEINFO, times)
        if address.version == 4 and address.network.prefixlen < 31:
            assert isinstance(address.network.broadcast_address, IPv4Address)
            content += _attribute(4, address.network.broadcast_address.packed)
        messages.send(messages.RTM_NEWADDR, messages.CREATE | messages.EXCLUSIVE, content)

    def _add_as_it_was(self, held: Held) -> None:
        """Without waiting for duplicate address detection: it was on this very interface."""
        flags = _flags(held.message)
        eager = _with_flags(held.message, flags | _NODAD) if held.address.version == 6 else held.message
        messages.send(messages.RTM_NEWADDR, messages.CREATE | messages.EXCLUSIVE, eager)
        if eager != held.message:
            messages.send(messages.RTM_NEWADDR, messages.REPLACE, held.message)

    def _delete(self, held: Held) -> None:
        try:
            messages.send(messages.RTM_DELADDR, 0, held.message)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    def _exchange_sources(self, item: HostAddresses | None, lost: set[bytes]) -> None:
        """Routes from a VIP become routes from a DIP; on the way back those that are there still become theirs."""
        entry = self.entry
        if item is None:
            there = {messages.same_route(route) for route in self._routes()}
            for theirs_, ours in entry.exchanged:
                if messages.same_route(ours) in there:
                    messages.add_route(theirs_, messages.REPLACE)
            return
        dedicated = {address.version: address.ip.packed for address in reversed(item.present)}
        leaving = {address.packed for address in item.absent} | lost
        own = {messages.same_route(ours): number for number, (_, ours) in enumerate(entry.exchanged)}
        fresh = []
        for route in self._routes():
            source = messages.source_of(route)
            if source is None or source not in leaving or self._is_made_for_an_address(route):
                continue
            instead = dedicated.get(4 if len(source) == 4 else 6)
            if instead is None:
                continue
            fresh.append(messages.with_source(route, instead))
            number = own.get(messages.same_route(route))
            if number is None:
                entry.exchanged.append((route, fresh[-1]))
            else:
                entry.exchanged[number] = (entry.exchanged[number][0], fresh[-1])
        if fresh:
            self._write()
        for route in fresh:
            messages.add_route(route, messages.REPLACE)

    def _is_made_for_an_address(self, route: bytes) -> bool:
        """The kernel makes the route to an address's network, unless the address says that somebody else does."""
        no_prefix_route = any(_flags(held.message) & 0x200 for held in self.entry.former)
        return messages.made_by_itself(route) and not no_prefix_route

    def _routes(self) -> list[bytes]:
        return [
            route for family in _FAMILIES.values() for route in messages.routes_of(self.ip, family, self.seen.index)
        ]

    def _put_in_order(self, base: list[Held]) -> None:
        """The first address of a network is the one that connections leave from, so the order is part of what was."""
        for version, family in _FAMILIES.items():
            want = [held for held in base if held.address.version == version]
            have = [held for held in self._now() if held.address.version == version]
            if [held.address for held in want] == [held.address for held in have]:
                continue
            self.entry.removed |= {held.address.ip for held in want}  # they come back even if this ends here
            self._write()
            for held in have:
                self._delete(held)
            # IPv6 lists the newest first.
            for held in want if family == socket.AF_INET else reversed(want):
                self._add(held)

    def _now(self) -> tuple[Held, ...]:
        seen = observe(self.ip, [self.name]).get(self.name)
        return seen.held if seen is not None else ()

    def _restore_routes(self, item: HostAddresses | None, lost: set[bytes]) -> None:
        """Adds what got lost while the addresses changed, nearer routes first."""
        ours = {messages.same_route(own): theirs_ for theirs_, own in self.entry.exchanged}
        theirs_ = {messages.same_route(route): own for route, own in self.entry.exchanged}
        there = {messages.same_route(route) for route in self._routes()}
        instead = ours if item is None else theirs_
        for route in sorted(self.entry.routes, key=messages.scope_of, reverse=True):
            meant = instead.get(messages.same_route(route), route)
            if messages.same_route(meant) in there or self._is_made_for_an_address(meant):
                continue
            if messages.source_of(meant) in lost:
                continue  # it was a route from an address that is gone for good
            try:
                messages.add_route(meant, messages.EXCLUSIVE)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
        if item is None:
            self.entry.exchanged = []


_ORDER: Any = "little" if socket.htons(1) != 1 else "big"


def _attribute(kind: int, value: bytes) -> bytes:
    return (4 + len(value)).to_bytes(2, _ORDER) + kind.to_bytes(2, _ORDER) + value + bytes(-len(value) % 4)


def _flags(message: bytes) -> int:
    if not message:
        return 0
    found = messages.attribute(message, messages.ADDRESS_HEADER, _IFA_FLAGS)
    return int.from_bytes(found, _ORDER) if found is not None else message[2]


def _with_flags(message: bytes, flags: int) -> bytes:
    kept = [part for part in messages.attributes(message, messages.ADDRESS_HEADER) if part[0] != _IFA_FLAGS]
    head = message[:2] + bytes([flags & 0xFF]) + message[3 : messages.ADDRESS_HEADER]
    return head + b"".join(_attribute(*part) for part in (*kept, (_IFA_FLAGS, flags.to_bytes(4, _ORDER))))
