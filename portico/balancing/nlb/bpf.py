"""The fast filter: the eBPF program of bpf/nlb.c on each interface, driven through its maps.

The layouts here are those of nlb.c. A change of ownership fills the generation of shares that is not in use, then one
write of eight bytes takes it into use.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from socket import if_nametoindex

from portico.balancing.nlb import libbpf
from portico.balancing.nlb.filter import Counters, HeldClients
from portico.balancing.nlb.plan import (
    ALL_PORTS,
    BUCKETS,
    EVERY_PROTOCOL,
    IKE_PORT,
    MAX_CLIENTS,
    MAX_RULES,
    SLOTS,
    SLOTS_PER_BUCKET,
    Address,
    BalancingPlan,
    NicPlan,
    Owned,
    Rule,
    Share,
)
from portico.errors import Conflict, Unavailable

OBJECT = Path(__file__).parent / "bpf" / "nlb.o"

_ANY_VIP, _NO_VIP = 0xFFFFFFFF, 0xFFFFFFFE
_VIP, _BEHIND, _OWN = 1, 2, 3
_PROTOCOLS = {"tcp": 1, "udp": 2, "other": 4}
_IKE = 8
_AFFINITIES = {"none": 0, "single": 1, "network": 2}
_FOREIGN, _OWNED, _DIRTY, _QUIET = range(4)
_COUNTERS = (
    *("seen", "accepted", "errors", "kept", "clients", "foreign", "lease", "disabled", "hushed", "elsewhere", "stray"),
    *("arp", "nd"),
)

_SETTINGS = struct.Struct("=6s6sIIBBBBBBBBII16s16s4sII4x16s")
_TARGET = struct.Struct("=II")
_RULE = struct.Struct("=IHHBBBBBB2x")
_KEY = struct.Struct("=I")
_LIVE = struct.Struct("=Q")
_ACTIVITY = struct.Struct(f"={SLOTS}I")


class FastFilter:
    """eBPF at tc ingress. It also answers for the VIPs while the agent is busy, or dead."""

    name = "eBPF"
    answers = True

    def __init__(self, path: Path = OBJECT) -> None:
        """Raises Unavailable: the program cannot be loaded here; says why."""
        if not path.exists():
            raise Unavailable(
                "Cannot use the eBPF filter",
                why=f"{path.name} was not built",
                resolution="make bpf builds it (needs clang and libbpf-dev); packages bring it",
                code="NLB_BPF_MISSING",
            )
        self._path = path
        self._plan: BalancingPlan | None = None
        self._objects: list[tuple[NicPlan, int, libbpf.Object]] = []
        self._clients = HeldClients(0)
        self._generation = 0
        # Whether this kernel takes it is known now, not when the service is needed.
        self._spare = [(MAX_CLIENTS, self._load(MAX_CLIENTS))]
        self._cpus = libbpf.possible_cpus()

    def prepare(self, plan: BalancingPlan) -> None:
        spare = [(size, item) for size, item in self._spare if size == plan.max_clients]
        spare += [(plan.max_clients, self._load(plan.max_clients)) for _ in plan.nics[len(spare) :]]
        self._spare = spare

    def install(self, plan: BalancingPlan, owned: Owned, clients: Collection[IPv6Address] = ()) -> None:
        held = HeldClients(plan.max_clients, clients)
        self.prepare(plan)
        loaded, self._spare = self._spare, []
        fresh: list[tuple[NicPlan, int, libbpf.Object]] = []
        former, generation, self._objects = self._objects, self._generation, fresh
        try:
            for nic, (_, item) in zip(plan.nics, loaded, strict=False):
                fresh.append((nic, _index(nic.interface), item))
                _fill(item, plan, nic)
                item.put_many("clients", [address.packed for address in held.held], b"\1")
            self._write_shares(owned, plan, 0)
            self._generation = 0
            self._extend(plan)
            for nic, index, item in fresh:
                # Filled maps first: the attaching is one exchange of programs between two packets.
                libbpf.attach(index, libbpf.INGRESS, item.program("nlb_ingress"))
                if nic.takeover:
                    libbpf.attach(index, libbpf.EGRESS, item.program("nlb_egress"))
                else:
                    libbpf.detach(index, libbpf.EGRESS)
        except BaseException:
            self._objects, self._generation = former, generation
            _close(fresh)
            raise
        gone = {index for _, index, _ in former} - {index for _, index, _ in fresh}
        for index in gone:
            libbpf.detach(index, libbpf.INGRESS)
            libbpf.detach(index, libbpf.EGRESS)
        _close(former)
        self._plan, self._clients = plan, held

    def own(self, owned: Owned) -> None:
        generation = 1 - self._generation
        self._write_shares(owned, self._installed(), generation)
        self._generation = generation

    def renew(self) -> None:
        self._extend(self._installed())

    def surrender(self) -> None:
        self._installed()
        self._deadline(0)

    def change_clients(self, add: Iterable[IPv6Address] = (), remove: Iterable[IPv6Address] = ()) -> None:
        self._installed()
        new, gone = self._clients.difference(add, remove)
        for _, _, item in self._objects:
            item.delete_many("clients", [address.packed for address in gone])
            item.put_many("clients", [address.packed for address in new], b"\1")
        self._clients.commit(new, gone)

    def counters(self) -> dict[str, Counters]:
        self._installed()
        found = {}
        size = 8 * len(_COUNTERS)
        for nic, _, item in self._objects:
            tallies = struct.iter_unpack(f"={len(_COUNTERS)}Q", item.get("counters", _KEY.pack(0), size * self._cpus))
            found[nic.interface] = Counters(*map(sum, zip(*tallies, strict=True)))
        return found

    def busy(self, rule: int, *, lingering: bool = True) -> frozenset[int]:
        plan = self._installed()
        since = _second() - plan.session_idle
        found = self._active(rule, since)
        if lingering and (linger := plan.lingers(rule)):
            found |= self._active(MAX_RULES + 1 + rule, int(_second() - linger))
        return found

    def present(self) -> bool:
        for nic, index, _ in self._objects:
            points = [libbpf.INGRESS, *([libbpf.EGRESS] if nic.takeover else [])]
            if any(libbpf.attached(index, point) is None for point in points):
                return False
        return bool(self._objects)

    def remove(self) -> None:
        for _, index, _ in self._objects:
            for point in (libbpf.INGRESS, libbpf.EGRESS):
                libbpf.detach(index, point)
        _close(self._objects)
        self._objects, self._plan, self._spare = [], None, []

    def _load(self, clients: int) -> libbpf.Object:
        return libbpf.Object(self._path, {"clients": clients})

    def _write_shares(self, owned: Owned, plan: BalancingPlan, generation: int) -> None:
        shares = [_share(share) for share in owned.shares(plan)]
        for _, _, item in self._objects:
            for rule, value in enumerate(shares):
                item.put("shares", _KEY.pack(generation * (MAX_RULES + 1) + rule), value)
        self._take_into_use(generation)

    def _active(self, which: int, since: int) -> frozenset[int]:
        found: set[int] = set()
        for nic, _, item in self._objects:
            if self._installed().records(nic):
                last = _ACTIVITY.unpack(item.get("activity_of", _KEY.pack(which), _ACTIVITY.size))
                # 0 is never.
                found.update(slot for slot, second in enumerate(last) if second and second >= since)
        return frozenset(found)

    def _take_into_use(self, generation: int) -> None:
        for _, _, item in self._objects:
            item.put("live", _KEY.pack(1), _LIVE.pack(generation | _second() << 32))

    def _extend(self, plan: BalancingPlan) -> None:
        self._take_into_use(self._generation)
        self._deadline(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + plan.lease_ms * 1_000_000)

    def _deadline(self, when: int) -> None:
        for _, _, item in self._objects:
            item.put("live", _KEY.pack(0), _LIVE.pack(when))

    def _installed(self) -> BalancingPlan:
        if self._plan is None:
            raise Conflict("The load-balancing filter is not installed", why="install comes first")
        return self._plan


def detach_all(interfaces: Iterable[str]) -> None:
    """Takes the program off interfaces, whoever attached it. Raises Unavailable."""
    for name in interfaces:
        try:
            index = if_nametoindex(name)
        except OSError:
            continue  # it is gone, and its filters with it
        for point in (libbpf.INGRESS, libbpf.EGRESS):
            libbpf.detach(index, point)


def _fill(item: libbpf.Object, plan: BalancingPlan, nic: NicPlan) -> None:
    client, server = plan.client_prefix, plan.server_prefix
    first4, first6 = (next((vip for vip in nic.vips if vip.version == version), None) for version in (4, 6))
    settings = _SETTINGS.pack(
        nic.cluster_mac,
        nic.source_mac,
        plan.seed,
        len(plan.rules),
        nic.takeover,
        nic.side == "internal",
        server is None,
        bool(nic.behind),
        nic.side == "internal",  # routes lead to these VIPs
        any(rule.ports != ALL_PORTS or rule.affinity == "none" for rule in plan.rules),
        plan.records(nic),
        _whole(plan),
        client.prefixlen if client else 0,
        server.prefixlen if server else 0,
        client.network_address.packed if client else bytes(16),
        server.network_address.packed if server else bytes(16),
        first4.packed if first4 else bytes(4),
        nic.vips.index(first4) if first4 else 0,
        nic.vips.index(first6) if first6 else 0,
        first6.packed if first6 else bytes(16),
    )
    item.put("settings", _KEY.pack(0), settings)
    for address in nic.dedicated:
        item.put("targets", _mapped(address), _TARGET.pack(_OWN, _NO_VIP))
    for number, vip in enumerate(nic.vips):
        item.put("targets", _mapped(vip), _TARGET.pack(_VIP, number))
    for network in nic.behind:
        item.put("behind", _prefix(network), _TARGET.pack(_BEHIND, _NO_VIP))
    # Behind the last one the program finds what no rule covers.
    for number, rule in enumerate((*plan.rules, Rule())):
        item.put("rules", _KEY.pack(number), _rule(rule, number, nic))


def _whole(plan: BalancingPlan) -> bool:
    """Whether the first rule covers everything, and the client's address alone says what becomes of a packet."""
    first = (*plan.rules, Rule())[0]
    return (
        (first.vip, first.ports, first.protocols) == (None, ALL_PORTS, EVERY_PROTOCOL)
        and first.mode != "disabled"
        and first.affinity == "single"
        and not first.linger
    )


def _rule(rule: Rule, number: int, nic: NicPlan) -> bytes:
    vip = _ANY_VIP
    if rule.vip is not None:
        # A VIP of another interface never fits here.
        vip = nic.vips.index(rule.vip) if rule.vip in nic.vips else len(nic.vips)
    first, last = rule.ports
    protocols = sum(_PROTOCOLS[protocol] for protocol in rule.protocols)
    if "udp" in rule.protocols and first <= IKE_PORT <= last:
        protocols |= _IKE
    disabled = rule.mode == "disabled"
    affinity, everything = _AFFINITIES[rule.affinity], rule.ports == ALL_PORTS
    return _RULE.pack(vip, first, last, protocols, disabled, affinity, everything, rule.linger > 0, number)


def _second() -> int:
    """Of the clock that does not jump; what the program notes activity by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000_000


def _share(share: Share) -> bytes:
    states = bytearray(64)
    held = [0] * BUCKETS
    for bucket in range(BUCKETS):
        if bucket in share.quiet:
            states[bucket] = _QUIET
        elif bucket in share.owned:
            states[bucket] = _OWNED
        elif bucket in share.dirty:
            states[bucket] = _DIRTY
    for slot in share.held:
        held[slot // SLOTS_PER_BUCKET] |= 1 << slot % SLOTS_PER_BUCKET
    return bytes(states) + struct.pack(f"={BUCKETS}Q", *held)


def _mapped(address: Address) -> bytes:
    """The key of an address: IPv4 as an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2)."""
    return bytes(10) + b"\xff\xff" + address.packed if isinstance(address, IPv4Address) else address.packed


def _prefix(network: IPv4Network | IPv6Network) -> bytes:
    bits = network.prefixlen + (96 if network.version == 4 else 0)
    return _KEY.pack(bits) + _mapped(network.network_address)


def _index(interface: str) -> int:
    try:
        return if_nametoindex(interface)
    except OSError:
        raise Unavailable(
            f"Cannot balance load on {interface}",
            why="there is no such interface",
            resolution="Correct the settings, or bring the interface up: ip link",
        ) from None


def _close(objects: list[tuple[NicPlan, int, libbpf.Object]]) -> None:
    for _, _, item in objects:
        item.close()
