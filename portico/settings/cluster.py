"""Changes of the cluster as edits of the document: the first server, further ones, none any more. Pure.

Nothing is verified here; the document goes through `verify` like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface

from portico.errors import Conflict, InvalidInput, NotFound
from portico.settings.addresses import AddressPlan
from portico.settings.cluster_store import ClusterStore
from portico.settings.facts import Facts
from portico.settings.load_balancing import ClusterServer, LoadBalancing, Mode
from portico.settings.localise import localise, virtual_addresses
from portico.settings.model import Settings

HostAddress = IPv4Interface | IPv6Interface


def enable(
    settings: Settings,
    facts: Facts,
    *,
    internet_dedicated: Sequence[HostAddress],
    internal_dedicated: Sequence[HostAddress] = (),
    internet_virtual: Sequence[HostAddress] | None = None,
    internal_virtual: Sequence[HostAddress] | None = None,
    mode: Mode = "unicast",
) -> Settings:
    """This server as the first of a cluster (`Set-RemoteAccessLoadBalancer`).

    Its addresses become the virtual ones, so that clients and routers find the cluster where they found the server, and
    it gets the dedicated ones. Its other addresses, in networks without a dedicated one, stay its own.

    Args:
        facts: the interfaces as the administrator has them.
        internal_dedicated: on a server with a single interface all may be given as Internet addresses.
        internet_virtual, internal_virtual: None takes the existing addresses.

    Raises:
        Conflict: code LB_ENABLED; load balancing is on already.
        InvalidInput: code LB_NO_ADDRESSES; there is nothing to make virtual addresses of.
    """
    if settings.load_balancing is not None:
        raise Conflict(
            "Load balancing is enabled already",
            why=f"the servers are: {', '.join(server.name for server in settings.load_balancing.servers)}",
            resolution="Look at it with: portico lb show",
            code="LB_ENABLED",
        )
    server = settings.server
    single = server.internet_interface == server.internal_interface
    if single:
        internal_dedicated = tuple(dict.fromkeys([*internet_dedicated, *internal_dedicated]))
        internet_dedicated = ()
        if internet_virtual is not None or internal_virtual is not None:
            internal_virtual = tuple(dict.fromkeys([*(internet_virtual or ()), *(internal_virtual or ())]))
        internet_virtual = ()
    elif not internal_dedicated:
        raise InvalidInput(
            "The internal interface gets no dedicated address",
            why=f"{server.internal_interface} is on the intranet, and its addresses become virtual too",
            resolution="Give one with --internal-dedicated-address; only a server with a single interface needs none",
            code="LB_NO_ADDRESSES",
        )
    if internet_virtual is None:
        internet_virtual = _existing(settings, facts, server.internet_interface, internet_dedicated)
    if internal_virtual is None:
        internal_virtual = _existing(settings, facts, server.internal_interface, internal_dedicated)
    first = ClusterServer(
        name=server.name,
        priority=1,
        internet_dedicated_addresses=list(internet_dedicated),
        internal_dedicated_addresses=list(internal_dedicated),
        server_prefix_index=0,
    )
    section = LoadBalancing(
        mode=mode,
        internet_virtual_addresses=list(internet_virtual),
        internal_virtual_addresses=list(internal_virtual),
        servers=[first],
    )
    return settings.model_copy(update={"load_balancing": section})


def disable(settings: Settings, facts: Facts) -> Settings:
    """This server alone again, with the virtual addresses as its own. The others are no servers any more.

    Args:
        facts: the interfaces as the administrator has them.

    Raises:
        NotFound: code LB_DISABLED or NOT_IN_CLUSTER.
        InvalidInput: code LB_VIP_NOT_OWN; the VIPs would be on no machine.
    """
    balancing = _balancing(settings)
    local = localise(settings, facts.own_name if facts.own_name is not None else settings.server.name)
    if facts.interfaces is not None:
        present = {address.ip for interface in facts.interfaces.values() for address in interface.addresses}
        lost = [vip for vip in balancing.virtual_addresses if vip.ip not in present]
        if lost:
            on_internal = lost[0] in balancing.internal_virtual_addresses
            name = local.server.internal_interface if on_internal else local.server.internet_interface
            raise InvalidInput(
                f"{local.server.name} cannot take the virtual addresses as its own",
                why=f"{', '.join(str(vip.ip) for vip in lost)} was not an address of this machine before",
                resolution=f"Do this on the server that had it, or give it to this one and repeat this: "
                f"ip addr add {lost[0]} dev {name}",
                code="LB_VIP_NOT_OWN",
            )
    server = settings.server.model_copy(
        update={
            "name": local.server.name,
            "internet_interface": local.server.internet_interface,
            "internal_interface": local.server.internal_interface,
        }
    )
    return settings.model_copy(update={"server": server, "load_balancing": None, "store": ClusterStore()})


def set_mode(settings: Settings, mode: Mode) -> Settings:
    """Another way to reach all servers with one frame (`Set-NlbCluster -OperationMode`). Raises NotFound."""
    return _with(settings, _balancing(settings).model_copy(update={"mode": mode}))


def add_server(settings: Settings, server: ClusterServer) -> Settings:
    """One more server. A server prefix of its own is chosen when it has none: the lowest that is free.

    Raises:
        NotFound: code LB_DISABLED.
        Conflict: code LB_SERVER_EXISTS.
        InvalidInput: code LB_FULL; no server prefix is free.
    """
    balancing = _balancing(settings)
    if balancing.server(server.name) is not None:
        raise Conflict(
            f"{server.name} is a server of the cluster already",
            why="its name is in load_balancing.servers",
            resolution=f"Take it out first: portico lb remove {server.name}",
            code="LB_SERVER_EXISTS",
        )
    if server.server_prefix_index is None:
        index = _free({other.prefix_index for other in balancing.servers}, range(32))
        server = server.model_copy(update={"server_prefix_index": index})
    return _with(settings, balancing.model_copy(update={"servers": [*balancing.servers, server]}))


def free_priority(settings: Settings) -> int:
    """The lowest priority that no server has. Raises NotFound, InvalidInput."""
    return _free({server.priority for server in _balancing(settings).servers}, range(1, 33))


def remove_server(settings: Settings, name: str) -> Settings:
    """Without that server. The section `server` names the first of those that are left.

    Raises:
        NotFound: code LB_DISABLED or NOT_IN_CLUSTER.
        InvalidInput: code LB_LAST_SERVER.
    """
    balancing = _balancing(settings)
    localise(settings, name)
    left = [server for server in balancing.servers if server.name != name]
    if not left:
        raise InvalidInput(
            f"{name} is the only server of the cluster",
            why="without it nobody would answer",
            resolution="End load balancing: portico lb disable",
            code="LB_LAST_SERVER",
        )
    changed = _with(settings, balancing.model_copy(update={"servers": left}))
    if settings.server.name != name:
        return changed
    heir = settings.server.model_copy(update={"name": left[0].name})
    return changed.model_copy(update={"server": heir})


def _with(settings: Settings, balancing: LoadBalancing) -> Settings:
    return settings.model_copy(update={"load_balancing": balancing})


def _balancing(settings: Settings) -> LoadBalancing:
    if settings.load_balancing is None:
        raise NotFound(
            "Load balancing is not enabled",
            why="this server serves alone",
            resolution="Enable it: portico lb enable --internet-dedicated-address ADDRESS/LENGTH",
            code="LB_DISABLED",
        )
    return settings.load_balancing


def _existing(settings: Settings, facts: Facts, name: str, dedicated: Sequence[HostAddress]) -> tuple[HostAddress, ...]:
    """The addresses of an interface in the networks of the dedicated ones, but none of the tunnel's.

    A dedicated address with another length still finds the network it was meant for; the rules say what is wrong.
    """
    interface = facts.interface(name)
    if not dedicated:
        return ()
    own = _tunnel_addresses(settings)
    found = [
        address
        for address in (interface.addresses if interface is not None else ())
        if address.ip not in own
        and address.ip not in {dip.ip for dip in dedicated}
        and any(dip.version == address.version and dip.ip in address.network for dip in dedicated)
    ]
    if not found:
        present = ", ".join(map(str, interface.addresses)) if interface is not None else "there is no such interface"
        raise InvalidInput(
            f"{name} has no address that could become a virtual one",
            why=f"none of its addresses ({present or 'none'}) is in the network of {dedicated[0]}",
            resolution="Give dedicated addresses in the networks of the existing ones, with the same prefix length",
            code="LB_NO_ADDRESSES",
        )
    return tuple(found)


def _tunnel_addresses(settings: Settings) -> set[object]:
    organisation = settings.deployment.organisation_prefix
    found: set[object] = {settings.dns64.address}
    if organisation.prefixlen == 48:
        found.add(AddressPlan.of(organisation).dns64)
    return found


def _free(taken: set[int], numbers: range) -> int:
    for number in numbers:
        if number not in taken:
            return number
    raise InvalidInput(
        "The cluster is full", why=f"all of {len(numbers)} are taken", resolution="Remove a server", code="LB_FULL"
    )


def consequences(before: Settings, after: Settings) -> list[tuple[str, str, bool]]:
    """What a change of the cluster does, in words: (path, text, whether clients must redial)."""
    path = "load_balancing"
    was, now = before.load_balancing, after.load_balancing
    if was is None and now is not None:
        return [*_enabled(path, now, after)]
    if was is not None and now is None:
        kept = ", ".join(map(str, virtual_addresses(before)))
        found = [(path, f"{kept} become addresses of {after.server.name} alone again; its DIPs go", False)]
        others = [server.name for server in was.servers if server.name != after.server.name]
        if others:
            found.append((path, f"{', '.join(others)} no longer serve; their clients redial", True))
        found.append((path, "NAT64 translates to another address; its TCP and UDP connections break", False))
        return found
    if was is None or now is None:
        return []
    return [*_changed(path, was, now)]


def _enabled(path: str, now: LoadBalancing, after: Settings) -> list[tuple[str, str, bool]]:
    found = []
    for vip in dict.fromkeys(now.virtual_addresses):
        found.append((path, f"existing address {vip.ip} becomes a VIP: every server has it, on lo", False))
    for server in now.servers:
        mine = ", ".join(str(dip.ip) for dip in dict.fromkeys(server.dedicated_addresses))
        found.append((path, f"{mine} become the DIPs of {server.name}, on its interfaces", False))
    found += _routes(path, now, after)
    found.append((path, "NAT64 translates to the internal DIP; its TCP and UDP connections break", False))
    return found


def _routes(path: str, now: LoadBalancing, after: Settings) -> list[tuple[str, str, bool]]:
    """Only IPv6 routers have a way to clients; an intranet without IPv6 reaches them through NAT64."""
    router = next((vip.ip for vip in now.internal_virtual_addresses if vip.version == 6), None)
    organisation = after.deployment.organisation_prefix
    if router is None or organisation.prefixlen != 48:
        return []
    prefix = after.ip_https.client_prefix or AddressPlan.of(organisation).client_cluster
    return [(path, f"intranet routers must route {prefix} to {router}", False)]


def _changed(path: str, was: LoadBalancing, now: LoadBalancing) -> list[tuple[str, str, bool]]:
    found = []
    if was.mode != now.mode:
        text = "the VIPs get another MAC address; switches and routers learn it anew, which may take them seconds"
        found.append((f"{path}.mode", text, False))
    if was.client_addresses != now.client_addresses:
        found.append((f"{path}.client_addresses", "clients of all servers but one get new addresses", True))
    if {vip.ip for vip in was.virtual_addresses} != {vip.ip for vip in now.virtual_addresses}:
        text = "clients and routers find the cluster at the new VIPs only; DNS must name them"
        found.append((path, text, True))
    former, present = {s.name: s for s in was.servers}, {s.name: s for s in now.servers}
    for name in former.keys() - present.keys():
        found.append((f"{path}.servers", f"{name} no longer serves; its clients redial and reach the others", True))
    for name in present.keys() - former.keys():
        found.append((f"{path}.servers", f"{name} joins and takes its share of new clients", False))
    for name in sorted(former.keys() & present.keys()):
        if former[name].dedicated_addresses != present[name].dedicated_addresses:
            text = f"the DIPs of {name} change; its NAT64 connections and its own break"
            found.append((f"{path}.servers", text, False))
        if former[name].state != present[name].state:
            leaves = former[name].state == "started"
            text = f"{name} is to be {present[name].state}" + ("; its clients reach the others" if leaves else "")
            found.append((f"{path}.servers", text, leaves))
    return found
