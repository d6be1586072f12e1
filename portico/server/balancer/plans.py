"""From settings and secrets to what the cluster protocol and the data plane are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Final

from portico.balancing.nlb.plan import (
    ALL_PORTS,
    EVERY_PROTOCOL,
    SLOTS_PER_BUCKET,
    BalancingPlan,
    NicPlan,
    Owned,
    Rule,
    Share,
)
from portico.cluster.config import UNSPECIFIED, Affinity, Key, MemberConfig, Mode, Path, PortRule, Protocol
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.errors import InvalidInput
from portico.server.balancer.kept import from_bitmap
from portico.server.cluster_secrets import ClusterSecrets
from portico.settings.document import load_data
from portico.settings.effective import Effective, effective
from portico.settings.load_balancing import LEASE_HEARTBEATS, ClusterServer, LoadBalancing
from portico.settings.load_balancing import PortRule as PortRuleSetting
from portico.settings.localise import single_interface
from portico.settings.model import Settings

PORT: Final = 2504
"""UDP, between the servers' internal DIPs; IANA's number for Windows load balancing (wlbs)."""

_MODES: Final[Mapping[str, Any]] = {"unicast": "unicast", "multicast": "multicast", "igmp_multicast": "igmp"}

HostAddress = IPv4Interface | IPv6Interface
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Assignment:
    """Everything the balancer's process works by.

    Attributes:
        local: the settings as this machine reads them (`portico.settings.localise`).
        own: this server's entry in `balancing`.
    """

    local: Settings
    values: Effective
    balancing: LoadBalancing
    own: ClusterServer
    revision: int
    secrets: ClusterSecrets

    @property
    def interfaces(self) -> tuple[tuple[str, bool], ...]:
        """Interface and whether it is the Internet's side."""
        server = self.local.server
        if single_interface(self.local):
            return ((server.internal_interface, False),)
        return ((server.internet_interface, True), (server.internal_interface, False))

    @property
    def names(self) -> dict[int, str]:
        """Server names by host id."""
        return {server.priority: server.name for server in self.balancing.servers}

    def dedicated(self, server: ClusterServer) -> Address | None:
        """A server's address for heartbeats: its first internal DIP."""
        addresses = server.internal_dedicated_addresses or server.internet_dedicated_addresses
        return addresses[0].ip if addresses else None

    def as_config(self) -> dict[str, Any]:
        """JSON data for the process; `from_config` of it is equal. Holds secrets."""
        return {
            "settings": self.local.as_data(),
            "revision": self.revision,
            "secrets": {
                "cluster_id": self.secrets.cluster_id,
                "keys": [[number, secret.hex()] for number, secret in self.secrets.keys],
                "seed": self.secrets.seed,
            },
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Assignment:
        """Raises InvalidInput when something is missing; SettingsRefused when the document is none."""
        try:
            secrets = config["secrets"]
            keys = tuple((int(number), bytes.fromhex(secret)) for number, secret in secrets["keys"])
            known = ClusterSecrets(str(secrets["cluster_id"]), keys, int(secrets["seed"]))
            revision = int(config["revision"])
            document = config["settings"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("The balancer cannot be configured", why=f"{type(error).__name__}: {error}") from None
        return assignment(load_data(document), revision, known)


def assignment(local: Settings, revision: int, secrets: ClusterSecrets) -> Assignment:
    """Puts it together.

    Raises:
        InvalidInput: the document has no load balancing, or not this server in it.
    """
    balancing = local.load_balancing
    own = balancing.server(local.server.name) if balancing is not None else None
    if balancing is None or own is None:
        raise InvalidInput(
            "There is nothing to balance",
            why=f"load_balancing names no server {local.server.name}",
            resolution="Enable load balancing first: portico lb enable",
        )
    return Assignment(local, effective(local), balancing, own, revision, secrets)


def _ordered(balancing: LoadBalancing) -> list[PortRuleSetting]:
    """Rules for one address before those for all: the first that fits decides."""
    return sorted(balancing.port_rules, key=lambda rule: rule.virtual_address == "all")


def _vip(rule: PortRuleSetting) -> Address | None:
    return None if isinstance(rule.virtual_address, str) else rule.virtual_address


def member_config(told: Assignment) -> MemberConfig:
    """What the cluster protocol is told.

    Raises:
        InvalidInput: the settings cannot be run; `verify` says so earlier.
    """
    balancing, own = told.balancing, told.own
    paths = [Path(f"layer 2, {'Internet' if outside else 'internal'}", True) for _, outside in told.interfaces]
    paths.append(Path("udp, internal", False))
    rules = [
        PortRule(
            ports=(rule.first_port, rule.last_port),
            protocol=Protocol(rule.protocol),
            vip=_vip(rule),
            mode=Mode(rule.mode),
            affinity=Affinity(rule.affinity),
            extended_affinity=60.0 * rule.timeout_minutes,
        )
        for rule in _ordered(balancing)
    ]
    cluster = next((a.ip for a in balancing.virtual_addresses if isinstance(a.ip, IPv4Address)), UNSPECIFIED)
    dedicated = told.dedicated(own)
    return MemberConfig(
        cluster_id=told.secrets.cluster_id,
        host_id=own.priority,
        members=frozenset(server.priority for server in balancing.servers),
        paths=tuple(paths),
        keys=tuple(Key(number, secret) for number, secret in told.secrets.keys),
        rules=tuple(rules),
        revision=told.revision,
        weight=own.weight,
        cluster_address=cluster,
        host_address=dedicated if isinstance(dedicated, IPv4Address) else UNSPECIFIED,
        period_ms=balancing.heartbeat_milliseconds,
        miss=balancing.missed_heartbeats,
        lease=min(LEASE_HEARTBEATS, balancing.missed_heartbeats - 1),
        nics=tuple(interface for interface, _ in told.interfaces),
    )


def balancing_plan(told: Assignment, macs: Mapping[str, bytes]) -> BalancingPlan:
    """What the data plane is told.

    Args:
        macs: each interface's own hardware address.

    Raises:
        InvalidInput: the settings cannot be run; `verify` says so earlier.
    """
    balancing = told.balancing
    rules = [
        Rule(
            vip=_vip(rule),
            protocols=_protocols(rule),
            ports=(rule.first_port, rule.last_port),
            mode=rule.mode,
            affinity=rule.affinity,
            linger=60.0 * rule.timeout_minutes,
        )
        for rule in _ordered(balancing)
    ]
    return BalancingPlan(
        nics=tuple(nic_plan(told, interface, outside, macs[interface]) for interface, outside in told.interfaces),
        rules=tuple(rules),
        seed=told.secrets.seed,
        lease_ms=balancing.heartbeat_milliseconds * min(LEASE_HEARTBEATS, balancing.missed_heartbeats - 1),
        client_prefix=told.values.client_prefix,
        server_prefix=told.values.link_prefix if balancing.client_addresses == "per-server" else None,
    )


def _protocols(rule: PortRuleSetting) -> frozenset[Any]:
    """What has no ports goes with a rule for all of them."""
    if rule.protocol != "both":
        return frozenset({rule.protocol})
    everything = (rule.first_port, rule.last_port) == ALL_PORTS
    return EVERY_PROTOCOL if everything else frozenset({"tcp", "udp"})


def nic_plan(told: Assignment, interface: str, outside: bool, mac: bytes) -> NicPlan:
    """One interface of it. Raises InvalidInput: it has no VIP, or an address is a VIP and a DIP."""
    balancing, own = told.balancing, told.own
    if single_interface(told.local):
        virtual, dedicated = balancing.virtual_addresses, own.dedicated_addresses
    elif outside:
        virtual, dedicated = balancing.internet_virtual_addresses, own.internet_dedicated_addresses
    else:
        virtual, dedicated = balancing.internal_virtual_addresses, own.internal_dedicated_addresses
    behind: tuple[IPv6Network, ...] = ()
    if not outside and told.values.dns64_address is not None and told.local.dns64.accept_interface:
        behind = (IPv6Network((told.values.dns64_address, 128)),)
    return NicPlan(
        interface=interface,
        side="external" if outside else "internal",
        mac=mac,
        vips=tuple(dict.fromkeys(address.ip for address in virtual)),
        dips=tuple(dict.fromkeys(dedicated)),
        mode=_MODES[balancing.mode],
        priority=own.priority,
        takeover=balancing.takeover,
        behind=behind,
    )


def owned(ownership: Ownership, kept: frozenset[int] = frozenset()) -> Owned:
    """The cluster's picture in the data plane's words; its default rule comes first, the data plane's last.

    Args:
        kept: slots of buckets that this server gave away and that stay with it.
    """
    default, *rules = ownership.rules
    foreign = from_bitmap(ownership.foreign_slots)
    shares = [_share(rule, kept, foreign) for rule in (*rules, default)]
    return Owned(ownership.version, tuple(shares[:-1]), shares[-1])


def _share(rule: RuleOwnership, kept: frozenset[int], foreign: frozenset[int]) -> Share:
    dirty, quiet = rule.dirty - rule.owned, rule.quiet & rule.owned
    held = [slot for slot in kept if slot // SLOTS_PER_BUCKET in dirty]
    held += [slot for slot in foreign if slot // SLOTS_PER_BUCKET in quiet]
    return Share(owned=rule.owned, dirty=dirty, quiet=quiet, held=frozenset(held))
