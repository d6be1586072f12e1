"""Everything that load balancing does to the kernel of one server: observe, plan, apply in the one safe order, undo.

Order matters twice. A VIP comes to the loopback device only when the kernel is silent about it and the filter stands.
In takeover the source mask stands before the interface gets the cluster MAC: one frame with that source, and the switch
has learned where "it" is.

Everything here blocks (netlink, nftables, files), except `own`, `renew` and `change_clients`, which take well under 1
ms.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_interface
from pathlib import Path
from typing import Literal

from pyroute2 import IPRoute

from portico.balancing.nlb import bpf, libbpf, links, mac, nft, ruleset
from portico.balancing.nlb.choose import Choice, Preference, choose
from portico.balancing.nlb.ledger import Ledger
from portico.balancing.nlb.links import AddressOnLink, Link
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned
from portico.balancing.nlb.presence import Presence
from portico.errors import PorticoError, Unavailable

log = logging.getLogger("portico.nlb")

LOOPBACK = "lo"
SYSCTLS = Path("/proc/sys")


@dataclass(frozen=True)
class Change:
    """One thing to do to the kernel, named so that an administrator recognises it."""

    action: Literal["add", "remove", "set"]
    subject: str
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        values = f": {self.before} -> {self.after}" if self.after is not None else ""
        return f"{self.action} {self.subject}{values}"


@dataclass
class State:
    """What was observed."""

    links: dict[str, Link] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    filter: bool = False
    listening: frozenset[str] = frozenset()


class Balancing:
    """Load balancing in the kernel of this server.

    Attributes:
        choice: the filter in use and why; None before `apply`.
        presences: the open sockets by interface, for the agent's loop.
    """

    def __init__(self, ledger_path: Path, preference: Preference = "automatic") -> None:
        self.ledger = Ledger(ledger_path)
        self.preference: Preference = preference
        self.choice: Choice | None = None
        self.presences: dict[str, Presence] = {}

    def observe(self, plan: BalancingPlan) -> State:
        """The state of everything that is wanted. Raises Unavailable."""
        with links.netlink() as ip:
            found = links.observe(ip, {LOOPBACK, *(nic.interface for nic in plan.nics)})
        sysctls = {}
        for name in _sysctls(plan):
            try:
                sysctls[name] = (SYSCTLS / name).read_text().strip()
            except OSError:
                continue
        present = self.choice is not None and self.choice.filter.present()
        return State(found, sysctls, present, frozenset(self.presences))

    def plan(self, plan: BalancingPlan, state: State) -> list[Change]:
        """What differs, in the order in which it is put right. Pure."""
        changes = [
            Change("set", f"sysctl {name}", state.sysctls.get(name), value)
            for name, value in _sysctls(plan).items()
            if state.sysctls.get(name) != value
        ]
        if not state.filter:
            changes.append(Change("add", f"filter {self.choice.name if self.choice else '(to be chosen)'}"))
        for nic in plan.nics:
            link = state.links.get(nic.interface)
            if link is None:
                changes.append(Change("add", f"interface {nic.interface}"))
                continue
            changes += [Change("add", f"address {dip} on {nic.interface}") for dip in _missing_dips(nic, link)]
            changes += [Change("remove", f"address {item} on {nic.interface}") for item in _vips_on(nic, link)]
            if nic.takeover and link.mac != nic.cluster_mac:
                changes.append(Change("set", f"MAC of {nic.interface}", mac.text(link.mac), mac.text(nic.cluster_mac)))
            if nic.interface not in state.listening:
                changes.append(Change("add", f"answers for the VIPs on {nic.interface}"))
        loopback = state.links[LOOPBACK].addresses if LOOPBACK in state.links else frozenset()
        changes += [Change("add", f"address {vip} on {LOOPBACK}") for vip in _loopback(plan) if vip not in loopback]
        return changes

    def apply(self, plan: BalancingPlan, owned: Owned, clients: Collection[IPv6Address] = ()) -> list[Change]:
        """Makes the kernel what the plan says and starts the lease; returns what was done. Applying what is already so
        replaces the filter in place and does nothing else.

        Raises:
            PorticoError: the first thing that failed, named; what was done before it stays, and the next call goes on.
        """
        state = self.observe(plan)
        missing = [nic.interface for nic in plan.nics if nic.interface not in state.links]
        if missing:
            raise Unavailable(
                f"Cannot balance load on {missing[0]}",
                why="there is no such interface",
                resolution="Correct the settings, or bring the interface up: ip link",
            )
        changes = self.plan(plan, state)
        self._drop_presences(plan)
        for name, value in _sysctls(plan).items():
            self._set(name, value, state.sysctls.get(name))
        if self.choice is None:
            self.choice = self._choose(plan)
        for nic in plan.nics:
            self.ledger.remember("filter", nic.interface)
        self.choice.filter.install(plan, owned, clients)
        with links.netlink() as ip:
            for nic in plan.nics:
                self._addresses(ip, nic, state.links)
            self._restore_macs(ip, {nic.interface for nic in plan.nics if nic.takeover})
            for nic in plan.nics:
                link = state.links[nic.interface]
                if nic.takeover and link.mac != nic.cluster_mac:
                    self.ledger.remember("mac", nic.interface, mac.text(link.mac))
                    links.set_mac(ip, link, nic.cluster_mac)
        self._drop_former(plan)
        for nic in plan.nics:
            if nic.interface not in self.presences:
                self.presences[nic.interface] = Presence(nic, kernel_answers=self.choice.filter.answers)
        return changes

    def announce(self) -> None:
        """Tells every network where the VIPs are; one server of the cluster is enough."""
        for presence in self.presences.values():
            presence.announce()

    def undo(self, *, give_back: bool = True) -> list[str]:
        """Removes everything that was made and puts back what was changed; returns what failed, in words.

        `give_back` puts VIPs back on the interfaces they were taken from: right when load balancing ends, wrong when
        this server stops and others go on, because it would answer for them with a MAC of its own.
        """
        failures: list[str] = []
        for presence in self.presences.values():
            presence.leave()
            presence.close()
        self.presences.clear()
        with _collect(failures), links.netlink() as ip:
            self._restore_macs(ip, set())
            self._undo_addresses(ip, failures, give_back)
        with _collect(failures):
            self._remove_filters()
        failures += self._undo_sysctls()
        return failures

    def _choose(self, plan: BalancingPlan) -> Choice:
        choice = choose(self.preference, made_clsact=lambda name: self.ledger.remember("clsact", name))
        # What an agent before this one left, should it have used the other.
        if choice.filter.answers:
            _remove_tables()
        else:
            _detach(nic.interface for nic in plan.nics)
        return choice

    def _addresses(self, ip: IPRoute, nic: NicPlan, found: dict[str, Link]) -> None:
        link = found[nic.interface]
        for dip in _missing_dips(nic, link):
            self.ledger.remember("added", f"{dip} {nic.interface}")
            links.add_address(ip, link, dip)
        # First there, then gone from here: routes may name a VIP as their source.
        for vip in nic.vips:
            address = ip_interface(vip)
            if address not in found[LOOPBACK].addresses:
                self.ledger.remember("added", f"{address} {LOOPBACK}")
                links.add_address(ip, found[LOOPBACK], address)
        for item in _vips_on(nic, link):
            if item.version == 4:
                # Or the kernel takes the network's other addresses away with the first one.
                self._set(promote := f"net/ipv4/conf/{nic.interface}/promote_secondaries", "1", _read(promote))
            self.ledger.remember("moved", f"{item} {nic.interface}", links.saved_addresses(link))
            links.remove_address(ip, link, item)

    def _drop_former(self, plan: BalancingPlan) -> None:
        """Addresses and settings of an earlier plan that this one does not have."""
        wanted = {f"{vip} {LOOPBACK}" for vip in _loopback(plan)}
        wanted |= {f"{dip} {nic.interface}" for nic in plan.nics for dip in nic.dips}
        with links.netlink() as ip:
            names = {entry.split()[1] for entry in self.ledger.entries("added")}
            found = links.observe(ip, names)
            for entry in self.ledger.entries("added"):
                if entry not in wanted:
                    text, name = entry.split()
                    if name in found:
                        links.remove_address(ip, found[name], ip_interface(text))
                    self.ledger.forget("added", entry)

    def _drop_presences(self, plan: BalancingPlan) -> None:
        """Closes sockets that listen for another plan."""
        wanted = {nic.interface: nic for nic in plan.nics}
        for name, presence in list(self.presences.items()):
            if wanted.get(name) != presence.nic:
                presence.leave()
                presence.close()
                del self.presences[name]

    def _restore_macs(self, ip: IPRoute, keep: set[str]) -> None:
        entries = {name: former for name, former in self.ledger.entries("mac").items() if name not in keep}
        found = links.observe(ip, set(entries))
        for name, former in entries.items():
            if name in found:
                links.set_mac(ip, found[name], mac.parse(former))
            self.ledger.forget("mac", name)

    def _undo_addresses(self, ip: IPRoute, failures: list[str], give_back: bool) -> None:
        kinds = ("added", "moved") if give_back else ("added",)
        entries = [(kind, entry) for kind in kinds for entry in self.ledger.entries(kind)]
        found = links.observe(ip, {LOOPBACK, *(entry.split()[1] for _, entry in entries)})
        # Addresses come back before others go: routes need one to stand on.
        for kind, entry in sorted(entries, key=lambda item: item[0], reverse=True):
            text, name = entry.split()
            with _collect(failures):
                if name in found:
                    address: AddressOnLink = ip_interface(text)
                    if kind == "moved":
                        links.restore_address(found[name], address, self.ledger.entries(kind)[entry])
                    else:
                        links.remove_address(ip, found[name], address)
                self.ledger.forget(kind, entry)

    def _remove_filters(self) -> None:
        if self.choice is not None:
            self.choice.filter.remove()
            self.choice = None
        # What an agent that died has left.
        interfaces = self.ledger.entries("filter")
        _detach(interfaces)
        _remove_tables()
        for name in interfaces:
            self.ledger.forget("filter", name)
        for name in self.ledger.entries("clsact"):
            with links.netlink() as ip:
                found = links.observe(ip, {name})
                if name in found and not links.has_filters(ip, found[name].index):
                    libbpf.remove_clsact(found[name].index)
            self.ledger.forget("clsact", name)

    def _set(self, name: str, value: str, now: str | None) -> None:
        if now == value:
            return
        if now is not None:
            self.ledger.remember("sysctl", name, [now, value])
        _write(name, value)

    def _undo_sysctls(self) -> list[str]:
        failures: list[str] = []
        for name, (before, ours) in reversed(list(self.ledger.entries("sysctl").items())):
            now = _read(name)
            if now is not None and now != ours:
                log.warning("sysctl=%s value=%r was changed by somebody else and stays", name, now)
            elif now is not None:
                with _collect(failures):
                    _write(name, before)
                if failures:
                    continue
            self.ledger.forget("sysctl", name)
        return failures


def _remove_tables() -> None:
    former = nft.open_nftables()
    try:
        former.run(ruleset.removal())
    finally:
        former.close()


def _detach(interfaces: Iterable[str]) -> None:
    try:
        bpf.detach_all(interfaces)
    except Unavailable as error:
        # Without the library nothing of ours can have been attached by this installation.
        log.info("libbpf=%r", str(error))


def _sysctls(plan: BalancingPlan) -> dict[str, str]:
    """The kernel neither answers nor asks in the name of an address that is on another interface, the loopback
    device."""
    values = {}
    for nic in plan.nics:
        if nic.has(4):
            values[f"net/ipv4/conf/{nic.interface}/arp_ignore"] = "1"
            values[f"net/ipv4/conf/{nic.interface}/arp_announce"] = "2"
    return values


def _loopback(plan: BalancingPlan) -> list[AddressOnLink]:
    return [ip_interface(vip) for nic in plan.nics for vip in nic.vips]


def _missing_dips(nic: NicPlan, link: Link) -> list[AddressOnLink]:
    return [dip for dip in nic.dips if dip not in link.addresses]


def _vips_on(nic: NicPlan, link: Link) -> list[AddressOnLink]:
    """VIPs that are still the interface's own addresses."""
    return [item for item in sorted(link.addresses, key=str) if item.ip in nic.vips]


def _read(name: str) -> str | None:
    try:
        return (SYSCTLS / name).read_text().strip()
    except OSError:
        return None


def _write(name: str, value: str) -> None:
    try:
        (SYSCTLS / name).write_text(f"{value}\n")
    except OSError as error:
        raise Unavailable(
            f"Cannot set {name} to {value}",
            why=error.strerror or str(error),
            resolution="It needs root, and a kernel (or container) that offers and does not forbid this setting",
        ) from None


@contextmanager
def _collect(failures: list[str]) -> Iterator[None]:
    try:
        yield
    except PorticoError as error:
        failures.append(str(error))
