"""What the data plane of one server is told, as data. Pure.

`BalancingPlan` changes with the settings, `Owned` with every convergence, the set of clients with every session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

from portico.balancing.nlb import mac
from portico.errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Mode = Literal["unicast", "multicast", "igmp"]
Affinity = Literal["none", "single", "network"]
Protocol = Literal["tcp", "udp", "other"]
Acceptance = Literal["filter", "promiscuous"]

BUCKETS = 60
SLOTS_PER_BUCKET = 64
SLOTS = BUCKETS * SLOTS_PER_BUCKET
"""A bucket changes hands slot by slot where sessions have no beginning that a packet shows (UDP, ESP)."""

MAX_RULES = 32
MAX_VIPS = 64
MAX_SERVERS = 32
MAX_CLIENTS = 262_144
MAX_LINGER = 14_400.0

SESSION_IDLE = 120
"""Seconds without a packet after which a session without an end (UDP, ESP) is over: a NAT may forget it then (RFC 4787
section 4.3)."""

ALL_PORTS = (0, 65_535)
EVERY_PROTOCOL: frozenset[Protocol] = frozenset({"tcp", "udp", "other"})

IKE_PORT = 500
"""ESP has no ports. It follows the rule for IKE, so that both packets of a client meet on one server."""


@dataclass(frozen=True)
class Rule:
    """A port rule. The first one that fits decides.

    Attributes:
        vip: the address it is about; None is every VIP.
        protocols: "other" is everything without ports except ESP: ICMP echo, 6to4 (41).
        ports: first and last destination port, inclusive.
        mode: multiple hosts and single host differ only in who owns the buckets; disabled drops.
        affinity: what of the client is hashed: address and port, address, or /24 (IPv4) and /64 (IPv6).
        linger: seconds for which clients of a slot come back to the server they had, when its bucket has moved and that
            server lives (extended affinity); 0: new connections go to the new owner at once.
    """

    vip: Address | None = None
    protocols: frozenset[Protocol] = EVERY_PROTOCOL
    ports: tuple[int, int] = ALL_PORTS
    mode: Literal["multiple", "single", "disabled"] = "multiple"
    affinity: Affinity = "single"
    linger: float = 0.0

    def __post_init__(self) -> None:
        first, last = self.ports
        if not 0 <= self.linger <= MAX_LINGER or (self.linger and self.affinity == "none"):
            raise _refused(
                "a port rule",
                f"an affinity timeout of {self.linger:g} s with affinity {self.affinity}",
                f"Use 0 to {MAX_LINGER:g} s, and affinity single or network",
            )
        if not 0 <= first <= last <= 65_535:
            raise _refused("a port rule", f"ports {first} to {last} are no range", "Give 0 <= first <= last <= 65535")
        if not self.protocols:
            raise _refused("a port rule", "it names no protocol", "Name tcp, udp or other")


@dataclass(frozen=True)
class NicPlan:
    """One network interface under load balancing.

    Attributes:
        interface: its name.
        side: external carries clients, internal also carries what the intranet sends to clients.
        mac: its own hardware address, 6 bytes, as it was before load balancing.
        vips: the first IPv4 one (or the first, when there is none) names the cluster MAC.
        dips: this server's dedicated addresses with their prefix lengths; put on the interface where they are missing.
        own: other addresses of this server alone, those the administrator gave it. Link-local ones need no mention.
        priority: the host priority, 1 to 32; names the masked source in takeover.
        takeover: unicast only. The interface itself gets the cluster MAC and its frames leave with a masked source,
            for hypervisors that deliver only what a virtual NIC has registered.
        acceptance: how the interface is made to hear the cluster MAC: an entry in its filter, or promiscuous mode.
        behind: destinations without neighbour discovery that are routed to a VIP and that any server can serve, judged
            by source like a VIP (the DNS64 address).
    """

    interface: str
    side: Literal["external", "internal"]
    mac: bytes
    vips: tuple[Address, ...]
    dips: tuple[IPv4Interface | IPv6Interface, ...] = ()
    own: tuple[Address, ...] = ()
    mode: Mode = "unicast"
    priority: int = 1
    takeover: bool = False
    acceptance: Acceptance = "filter"
    behind: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        what = f"load balancing on {self.interface}"
        if not self.vips:
            raise _refused(what, "it has no VIP", "Give at least one VIP")
        if len(self.vips) + len(self.behind) > MAX_VIPS:
            raise _refused(what, f"there are more than {MAX_VIPS} VIPs", "Use fewer")
        if len(self.mac) != 6:
            raise _refused(what, "its hardware address is not 6 bytes", "Only Ethernet interfaces can be balanced")
        if both := set(self.vips) & set(self.dedicated):
            address = min(map(str, both))
            raise _refused(what, f"{address} is a VIP and the server's own", "An address is a VIP or a DIP, never both")
        if not 1 <= self.priority <= MAX_SERVERS:
            raise _refused(what, f"the host priority {self.priority} is out of range", f"Use 1 to {MAX_SERVERS}")
        if self.takeover and self.mode != "unicast":
            raise _refused(what, f"takeover means nothing in {self.mode} mode", "Use it with unicast")

    @property
    def primary(self) -> Address:
        """The VIP that names the cluster MAC."""
        return next((vip for vip in self.vips if vip.version == 4), self.vips[0])

    @property
    def dedicated(self) -> tuple[Address, ...]:
        """Every address that is this server's alone."""
        return (*(dip.ip for dip in self.dips), *self.own)

    @property
    def cluster_mac(self) -> bytes:
        return mac.cluster_mac(self.mode, self.primary)

    @property
    def source_mac(self) -> bytes:
        """What the frames of this server carry as their source, so that no switch learns the cluster MAC."""
        return mac.masked_source(self.priority, self.primary) if self.takeover else self.mac

    def has(self, version: int) -> bool:
        """Whether anything of an address family is balanced here."""
        return any(item.version == version for item in (*self.vips, *self.behind))


@dataclass(frozen=True)
class BalancingPlan:
    """Everything that the settings decide.

    Attributes:
        rules: in order of precedence; what no rule covers goes to the default host.
        seed: the cluster's secret 32-bit seed of the hash. A stranger who knows it can aim at one server.
        lease_ms: how long this server serves without hearing from its agent.
        session_idle: seconds without a packet after which a slot has no UDP or ESP session any more.
        client_prefix: the clients' addresses; None when there are no tunnels.
        server_prefix: this server's /64 of it when each server has its own; None when clients keep their addresses and
            the set of held clients decides.
        max_clients: the most that the set holds.
    """

    nics: tuple[NicPlan, ...]
    rules: tuple[Rule, ...]
    seed: int
    lease_ms: int = 300
    session_idle: int = SESSION_IDLE
    client_prefix: IPv6Network | None = None
    server_prefix: IPv6Network | None = None
    max_clients: int = MAX_CLIENTS

    def __post_init__(self) -> None:
        what = "this plan of load balancing"
        if not 0 <= self.seed < 1 << 32:
            raise _refused(what, "the seed is not a 32-bit number", "Make a new one")
        if not 20 <= self.lease_ms <= 60_000:
            raise _refused(what, f"a lease of {self.lease_ms} ms", "Use 20 to 60000 ms")
        if not 1 <= self.session_idle <= 86_400:
            raise _refused(what, f"sessions of {self.session_idle} s", "Use 1 to 86400 s")
        if len(self.rules) > MAX_RULES:
            raise _refused(what, f"there are {len(self.rules)} port rules", f"Use at most {MAX_RULES}")
        if len({nic.interface for nic in self.nics}) != len(self.nics):
            raise _refused(what, "an interface is named twice", "Name each once")
        if not 1 <= self.max_clients <= 1 << 24:
            raise _refused(what, f"{self.max_clients} clients at most", "Use 1 to 16777216")
        if self.server_prefix is not None and (
            self.client_prefix is None or not self.server_prefix.subnet_of(self.client_prefix)
        ):
            raise _refused(what, f"{self.server_prefix} is not part of the client prefix", "Use a /64 of it")

    @property
    def default_rule(self) -> int:
        """The number under which `Owned` holds what no rule covers."""
        return len(self.rules)

    def lingers(self, rule: int) -> float:
        """The seconds of a rule's extended affinity, by its number; the default's are 0."""
        return self.rules[rule].linger if rule < len(self.rules) else 0.0

    def records(self, nic: NicPlan) -> bool:
        """Whether slots in use are noted on an interface. Clients' sessions come from outside; questions to DNS64 are
        over when they are answered."""
        return nic.side == "external" or len(self.nics) == 1


def _buckets(values: Collection[int], limit: int = BUCKETS) -> frozenset[int]:
    found = frozenset(values)
    if any(not 0 <= value < limit for value in found):
        raise InvalidInput(
            "Cannot take an assignment of buckets",
            why=f"{sorted(found)[0]} to {sorted(found)[-1]} is not within 0 to {limit - 1}",
            resolution="This is a fault of the cluster's assignment; report it",
        )
    return found


@dataclass(frozen=True)
class Share:
    """What this server does with the 60 buckets of one rule.

    Attributes:
        owned: new flows start here.
        dirty: moved away from a server that lives (this one): TCP connections that are here stay, nothing new.
        quiet: owned and taken from a server that lives: TCP packets of connections unknown here are the former owner's
            and are dropped silently. A dead server's buckets are owned and not quiet: the stack answers them with RST.
        held: slots of dirty or quiet buckets whose sessions without a beginning (UDP, ESP) are still with the former
            owner. Both servers must be told the same.
    """

    owned: frozenset[int] = frozenset()
    dirty: frozenset[int] = frozenset()
    quiet: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("owned", "dirty", "quiet"):
            object.__setattr__(self, name, _buckets(getattr(self, name)))
        object.__setattr__(self, "held", _buckets(self.held, SLOTS))
        if self.owned & self.dirty or self.quiet - self.owned:
            raise InvalidInput(
                "Cannot take an assignment of buckets",
                why="a bucket is owned and dirty, or quiet and not owned",
                resolution="This is a fault of the cluster's assignment; report it",
            )

    @classmethod
    def all(cls) -> Share:
        return cls(owned=frozenset(range(BUCKETS)))

    def verdicts(self) -> Iterator[tuple[int, int, Verdict]]:
        """(first slot, last slot, verdict), neighbours with one verdict joined; slots that are dropped are left out."""
        start, current = 0, None
        for bucket in range(BUCKETS):
            base = bucket * SLOTS_PER_BUCKET
            plain, held = self._of(bucket)
            if self.splits(bucket):
                slots = [(s, held if s in self.held else plain) for s in range(base, base + SLOTS_PER_BUCKET)]
            else:
                slots = [(base, plain)]
            for slot, verdict in slots:
                if verdict != current:
                    if current is not None:
                        yield start, slot - 1, current
                    start, current = slot, verdict
        if current is not None:
            yield start, SLOTS - 1, current

    def splits(self, bucket: int) -> bool:
        """Whether slots of a bucket have different verdicts."""
        plain, held = self._of(bucket)
        base = bucket * SLOTS_PER_BUCKET
        return plain != held and any(slot in self.held for slot in range(base, base + SLOTS_PER_BUCKET))

    def verdict(self, slot: int) -> Verdict | None:
        """What happens to packets of a slot; None is dropped."""
        plain, held = self._of(slot // SLOTS_PER_BUCKET)
        return held if slot in self.held else plain

    def _of(self, bucket: int) -> tuple[Verdict | None, Verdict | None]:
        """The verdicts of a bucket's slots: of ordinary ones, of held ones."""
        if bucket in self.quiet:
            return "quiet", "quiet_held"
        if bucket in self.owned:
            return "own", "own"
        if bucket in self.dirty:
            return "dirty", "dirty_held"
        return None, None


Verdict = Literal["own", "dirty", "dirty_held", "quiet", "quiet_held"]
"""
own: everything is accepted.
dirty: TCP of connections that are here; nothing else.
dirty_held: the same, and everything that is not TCP.
quiet: TCP that begins, or of connections that are here; everything that is not TCP.
quiet_held: the same TCP, nothing else.
Under a rule with extended affinity TCP of held slots is as everything else: dirty_held accepts it, quiet_held does not.
"""


@dataclass(frozen=True)
class Owned:
    """One version of who owns what, as this server sees it: a share for each rule, and one for what no rule covers."""

    version: int
    rules: tuple[Share, ...]
    default: Share = field(default_factory=Share)

    @property
    def default_host(self) -> bool:
        return bool(self.default.owned)

    def shares(self, plan: BalancingPlan) -> Sequence[Share]:
        """The shares by rule number, the default's last.

        Raises:
            InvalidInput: they are of another plan.
        """
        if len(self.rules) != len(plan.rules):
            raise InvalidInput(
                "Cannot take an assignment of buckets",
                why=f"it is for {len(self.rules)} port rules and there are {len(plan.rules)}",
                resolution="The cluster's members work with different settings; wait until all have the same revision",
            )
        return (*self.rules, self.default)


NOTHING = Share()


def _refused(what: str, why: str, resolution: str) -> InvalidInput:
    return InvalidInput(f"Cannot take {what}", why=why, resolution=resolution)
