"""Portico's nftables table, `inet portico`, replaced as a whole in one transaction. No other table is touched.

Stateless wherever the settings allow it: a `ct` expression makes the kernel track every packet of the machine, so it
appears only when somebody may answer but not ask (restricted destinations, or no manage-out).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import groupby
from typing import Any

from portico.errors import Unavailable
from portico.server.reconcile import level_rules, location_rules
from portico.server.reconcile.wanted import NAT64_MARK, TRANSLATOR, TUNNEL, Change, Filter, Pool, StaticPort

FAMILY = "inet"
TABLE = "portico"

Expression = dict[str, Any]

_NEVER_FROM_CLIENTS = (IPv4Network("127.0.0.0/8"), IPv4Network("169.254.0.0/16"), IPv4Network("224.0.0.0/3"))
"""Loopback, link-local (cloud metadata services) and multicast are no intranet destinations."""

_ICMPV6 = 58
"""By number: nft looks names of protocols up in /etc/protocols, which a small installation (no netbase) lacks."""
_ACCEPT: Expression = {"accept": None}
_DROP: Expression = {"drop": None}
_COUNTER: Expression = {"counter": None}
_ESTABLISHED: Expression = {
    "match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}
}

# Bits from the start of an ICMP error to fields of the IPv4 packet it quotes (8 bytes of ICMP, then a header without
# options; RFC 792).
_QUOTED_VERSION, _QUOTED_PROTOCOL, _QUOTED_SOURCE, _QUOTED_PORT, _QUOTED_ECHO_ID = 64, 136, 160, 224, 256


def _match(left: Expression, right: object, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str, right: object, op: str = "==") -> Expression:
    return _match({"meta": {"key": key}}, right, op)


def _header(protocol: str, name: str, right: object, op: str = "==") -> Expression:
    return _match({"payload": {"protocol": protocol, "field": name}}, right, op)


def _quoted(offset: int, length: int, right: object) -> Expression:
    return _match({"payload": {"base": "th", "offset": offset, "len": length}}, right)


def _networks(networks: Sequence[IPv4Network | IPv6Network]) -> object:
    prefixes = [{"prefix": {"addr": str(n.network_address), "len": n.prefixlen}} for n in networks]
    return prefixes[0] if len(prefixes) == 1 else {"set": prefixes}


def _set(values: Sequence[object]) -> object:
    return values[0] if len(values) == 1 else {"set": list(values)}


def _ports(pool: Pool) -> object:
    return pool.first if pool.first == pool.last else {"range": [pool.first, pool.last]}


def _drop(*matches: Expression) -> list[Expression]:
    return [*matches, _COUNTER, _DROP]


def _accept(*matches: Expression) -> list[Expression]:
    return [*matches, _ACCEPT]


def rules(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    """Every rule as (chain, expressions, comment), in order. Pure."""
    yield from _edge(wanted)
    yield from location_rules.rules(wanted.location, wanted.outside, wanted.pools)
    yield from _input(wanted)
    yield from _forward(wanted)
    yield from _from_clients(wanted)
    yield from _to_clients(wanted)
    if wanted.pools:
        yield from _steering(wanted)
        yield from _from_translator(wanted)
        yield from _to_translator(wanted)


def _edge(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    if wanted.single_interface:
        return
    ours = _networks(wanted.own_prefixes)
    comment = "nothing of ours on the Internet interface"
    for chain, key in (("edge_in", "iifname"), ("edge_out", "oifname")):
        for name in ("saddr", "daddr"):
            matches = (_meta(key, wanted.internet_interface), _header("ip6", name, ours))
            yield chain, _drop(*matches), comment


def _input(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    yield "input", _drop(_meta("iifname", TRANSLATOR)), "the translator never talks to the server itself"
    if wanted.dns64_address is not None:
        asking: Expression = {"set": ["lo", TUNNEL, *wanted.dns64_interfaces]}
        foreign = (_meta("iifname", asking, "!="), _header("ip6", "daddr", str(wanted.dns64_address)))
        for protocol in ("udp", "tcp"):
            yield "input", _drop(*foreign, _header(protocol, "dport", 53)), "DNS64 is not for others"
    clients = _meta("iifname", TUNNEL)
    yield "input", _accept(clients, _meta("l4proto", _ICMPV6)), "neighbour discovery, ping, errors"
    if wanted.dns64_address is not None:
        for protocol in ("udp", "tcp"):
            address = _header("ip6", "daddr", str(wanted.dns64_address))
            yield "input", _accept(clients, address, _header(protocol, "dport", 53)), "DNS64"
    flags = _match({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, {"|": ["syn", "ack"]}]}, "syn", "!=")
    yield "input", _accept(clients, flags), "answers to the server's own connections"
    yield "input", _drop(clients), "clients reach nothing else of the server"


def _forward(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    yield "forward", [_meta("iifname", TUNNEL), {"goto": {"target": "from_clients"}}], "client to intranet"
    yield "forward", [_meta("oifname", TUNNEL), {"goto": {"target": "to_clients"}}], "intranet to client"
    if wanted.pools:
        yield "forward", [_meta("iifname", TRANSLATOR), {"goto": {"target": "from_translator"}}], "NAT64 to intranet"
        yield "forward", [_meta("oifname", TRANSLATOR), {"goto": {"target": "to_translator"}}], "intranet to NAT64"
    if wanted.other_clients is not None:
        others = _header("ip6", "daddr", _networks([wanted.other_clients]))
        yield "forward", _drop(others), "clients of other servers, which see this packet too"
    if 6 in wanted.closed:
        yield "forward", _drop(_meta("nfproto", "ipv6")), "the machine forwarded no IPv6 before"
    if 4 in wanted.closed:
        matches = (_meta("nfproto", "ipv4"), _meta("iifname", wanted.internal_interface))
        yield "forward", _drop(*matches), "the internal interface forwarded no IPv4 before"


def _from_clients(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    chain = "from_clients"
    yield chain, _drop(_meta("nfproto", "ipv4")), "the tunnel carries IPv6 only"
    yield chain, _drop(_header("ip6", "saddr", _networks([wanted.client_prefix]), "!=")), "not a client's address"
    if wanted.client_to_client and wanted.levels is not None:
        yield from level_rules.among_clients()
    verdict = _accept if wanted.client_to_client else _drop
    yield chain, verdict(_meta("oifname", TUNNEL)), "client to client"
    yield chain, _drop(_meta("oifname", TRANSLATOR)), "the translator takes nothing from the kernel's IPv6"
    if not wanted.single_interface:
        yield chain, _drop(_meta("oifname", wanted.internet_interface)), "never out to the Internet"
    if wanted.levels is not None:
        yield from level_rules.from_clients(wanted.levels)
    if wanted.destinations is None:
        yield chain, _accept(), "all of the intranet"
        return
    yield chain, _accept(_ESTABLISHED), "answers to the intranet"
    inside = [network for network in wanted.destinations if network.version == 6]
    if inside:
        yield chain, _accept(_header("ip6", "daddr", _networks(inside))), "the intranet the settings allow"
    yield chain, _drop(), "not allowed by the settings"


def _to_clients(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    chain = "to_clients"
    if not wanted.single_interface:
        yield chain, _drop(_meta("iifname", wanted.internet_interface)), "never in from the Internet"
    yield chain, _drop(_meta("iifname", TRANSLATOR)), "the translator speaks IPv4 only"
    if wanted.sources is None:
        yield chain, _accept(), "manage-out from all of the intranet"
        return
    yield chain, _accept(_ESTABLISHED), "answers to clients"
    if wanted.sources:
        yield chain, _accept(_header("ip6", "saddr", _networks(wanted.sources))), "manage-out the settings allow"
    yield chain, _drop(), "no manage-out from here"


def _steering(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    """Marks what answers NAT64; `rules` leads marked packets to the translator.

    In the output hook too: the server's own ICMP errors about translated packets (no neighbour, packet too big) go to
    its own address, that is to the translator.
    """
    mark: Expression = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": NAT64_MARK}}
    outside = [] if wanted.single_interface else [_meta("iifname", wanted.internet_interface, "!=")]
    # Only the first fragment of a datagram has ports. A tproxy expression anywhere makes the kernel reassemble IPv4
    # before this hook (nf_defrag_ipv4_enable), without tracking connections; the rule itself matches nothing, because
    # its hook sees packets before anything marks them.
    never = [_meta("mark", NAT64_MARK), _header("udp", "dport", 0), _meta("nfproto", "ipv4")]
    yield "steer_in", [*never, {"tproxy": {"family": "ip", "port": 1}}], "reassemble fragments first"
    for address, answers, quotes in _steered(wanted):
        to_pool = _header("ip", "daddr", str(address))
        error = _match(
            {"payload": {"protocol": "icmp", "field": "type"}},
            {"set": ["destination-unreachable", "time-exceeded", "parameter-problem"]},
        )
        quoted = [to_pool, error, _quoted(_QUOTED_VERSION, 8, 0x45), _quoted(_QUOTED_SOURCE, 32, int(address))]
        errors = [[*quoted, *quote] for quote in quotes]
        for matches in (*([to_pool, *answer] for answer in answers), *errors):
            yield "steer_in", [*outside, *matches, mark], "answer to NAT64"
        for matches in errors:
            yield "steer_out", [*matches, mark], "our own error about a translated packet"


def _steered(wanted: Filter) -> Iterator[tuple[IPv4Address, list[list[Expression]], list[list[Expression]]]]:
    """What goes to the translator, of each address: packets to it, and ICMP errors that quote packets from it."""
    for pool in wanted.pools:
        ports = _ports(pool)
        answers = [[_header(protocol, "dport", ports)] for protocol in ("tcp", "udp")]
        answers.append([_header("icmp", "type", "echo-reply"), _header("icmp", "id", ports)])
        transport = [_quoted(_QUOTED_PROTOCOL, 8, {"set": [6, 17]}), _quoted(_QUOTED_PORT, 16, ports)]
        yield pool.address, answers, [transport, [_quoted(_QUOTED_PROTOCOL, 8, 1), _quoted(_QUOTED_ECHO_ID, 16, ports)]]
    for (address, protocol), group in groupby(_outside_pools(wanted), lambda static: (static.address, static.protocol)):
        single = _set([static.port for static in group])
        number = 6 if protocol == "tcp" else 17
        quote = [_quoted(_QUOTED_PROTOCOL, 8, number), _quoted(_QUOTED_PORT, 16, single)]
        yield address, [[_header(protocol, "dport", single)]], [quote]


def _outside_pools(wanted: Filter) -> list[StaticPort]:
    """Static ports that no range of the pool covers, in order."""
    return sorted(
        static
        for static in set(wanted.statics)
        if not any(p.address == static.address and p.first <= static.port <= p.last for p in wanted.pools)
    )


def _from_translator(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    chain = "from_translator"
    yield chain, _drop(_meta("nfproto", "ipv6")), "the translator speaks IPv4 only"
    source = _set(sorted({*(str(pool.address) for pool in wanted.pools), *(str(s.address) for s in wanted.statics)}))
    yield chain, _drop(_header("ip", "saddr", source, "!=")), "not an address of the pool"
    yield chain, _drop(_meta("oifname", TUNNEL)), "the tunnel carries IPv6 only"
    if not wanted.single_interface:
        yield chain, _drop(_meta("oifname", wanted.internet_interface)), "never out to the Internet"
    yield chain, _drop(_header("ip", "daddr", _networks(_NEVER_FROM_CLIENTS))), "no intranet destination"
    if wanted.levels is not None:
        yield from level_rules.from_translator(wanted.levels)
    if wanted.destinations is None:
        yield chain, _accept(), "all of the intranet"
        return
    if wanted.statics:
        yield chain, _accept(_ESTABLISHED, _match({"ct": {"key": "direction"}}, "reply")), "answers to the intranet"
    inside = [network for network in wanted.destinations if network.version == 4]
    if inside:
        yield chain, _accept(_header("ip", "daddr", _networks(inside))), "the intranet the settings allow"
    yield chain, _drop(), "not allowed by the settings"


def _to_translator(wanted: Filter) -> Iterator[tuple[str, list[Expression], str]]:
    chain = "to_translator"
    if not wanted.single_interface:
        yield chain, _drop(_meta("iifname", wanted.internet_interface)), "never in from the Internet"
    yield chain, _drop(_meta("iifname", TUNNEL)), "the tunnel's packets are diverted before the kernel"
    yield chain, _drop(_meta("mark", NAT64_MARK, "!=")), "only answers to NAT64"
    if wanted.openers is not None:
        # A dynamic port is only ever an answer to a client. A static one is open to hosts that were asked nothing.
        for (address, protocol), group in groupby(sorted(set(wanted.statics)), lambda s: (s.address, s.protocol)):
            ports = _header(protocol, "dport", _set([static.port for static in group]))
            static = (_header("ip", "daddr", str(address)), ports)
            yield chain, _accept(*static, _ESTABLISHED), "answers to clients"
            if wanted.openers:
                yield chain, _accept(*static, _header("ip", "saddr", _networks(wanted.openers))), "manage-out allowed"
            yield chain, _drop(*static), "no manage-out from here"
    yield chain, _accept(), "answers to NAT64"


def render(wanted: Filter, users: Sequence[level_rules.Member] = ()) -> dict[str, Any]:
    """The transaction for `nft -j -f -`: the table goes and comes back whole, between two packets. Pure.

    Args:
        users: clients whose users have authenticated; they stay in while the table is replaced.
    """
    table = {"family": FAMILY, "name": TABLE}
    commands: list[dict[str, Any]] = [
        {"add": {"table": table}},
        {"delete": {"table": table}},
        {"add": {"table": table}},
    ]
    hooks: dict[str, tuple[str, str, int] | None] = {
        "edge_in": ("filter", "prerouting", -300),
        "edge_out": ("filter", "postrouting", 0),
        "input": ("filter", "input", 0),
        "forward": ("filter", "forward", 0),
        "from_clients": None,
        "to_clients": None,
    }
    if wanted.pools:
        hooks |= {
            "steer_in": ("filter", "prerouting", -150),
            "steer_out": ("route", "output", -150),
            "from_translator": None,
            "to_translator": None,
        }
    for name, hook in hooks.items():
        chain: dict[str, Any] = {"family": FAMILY, "table": TABLE, "name": name}
        if hook is not None:
            chain |= {"type": hook[0], "hook": hook[1], "prio": hook[2], "policy": "accept"}
        commands.append({"add": {"chain": chain}})
    if wanted.levels is not None:
        commands += level_rules.make_set(FAMILY, TABLE, users)
    for name, expressions, comment in rules(wanted):
        rule = {"family": FAMILY, "table": TABLE, "chain": name, "expr": expressions, "comment": comment}
        commands.append({"add": {"rule": rule}})
    return {"nftables": commands}


def normalise(listing: dict[str, Any]) -> list[str]:
    """A listing without handles and counter values, one text per object, comparable with another one."""
    return [
        json.dumps(_bare(level_rules.without_members(item)), sort_keys=True)
        for item in listing.get("nftables", [])
        if "metainfo" not in item
    ]


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: None if key == "counter" and isinstance(child, dict) else _bare(child)
            for key, child in value.items()
            if key != "handle"
        }
    return [_bare(child) for child in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Table:
    """The table as the kernel has it.

    Attributes:
        objects: normalised; None when there is no table.
        users: addresses of clients that the intranet is open for.
    """

    objects: list[str] | None = None
    users: frozenset[str] = frozenset()


def observe() -> Table:
    """Raises Unavailable: nft is missing or does not work."""
    done = _nft(["-j", "list", "table", FAMILY, TABLE])
    if done.returncode != 0:
        if "No such file or directory" in done.stderr:
            return Table()
        raise _failed("list the table", done.stderr)
    try:
        listing = json.loads(done.stdout)
        users = next((found for item in listing["nftables"] if (found := level_rules.members(item)) is not None), [])
        return Table(normalise(listing), frozenset(users))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise _failed("list the table", f"unexpected output: {error}") from None


def plan(installed: list[str] | None, state: list[str] | None) -> list[Change]:
    """Compares with what the kernel showed right after the last installation (None: never installed).

    The kernel's own listing is the reference because nft prints rules in forms of its own.
    """
    name = f"{FAMILY} {TABLE}"
    if state is None:
        return [Change("nftables", "add", f"table {name}")]
    if installed is None:
        return [Change("nftables", "set", f"table {name}", "unknown content", "as the settings want it")]
    changes = [Change("nftables", "remove", f"in {name}: {_short(item)}") for item in state if item not in installed]
    changes += [Change("nftables", "add", f"in {name}: {_short(item)}") for item in installed if item not in state]
    if not changes and state != installed:
        changes = [Change("nftables", "set", f"table {name}", "another order of rules", "as the settings want it")]
    return changes


def plan_users(given: Iterable[str], lasting: Iterable[str], state: Table) -> list[Change]:
    """Who is in the set and was not let in, and who was and is not.

    Args:
        given: addresses that were given to the kernel and may still be there.
        lasting: those of them whose time is not over.
    """
    name = f"in {FAMILY} {TABLE}: element"
    foreign, missing = sorted(state.users - set(given)), sorted(set(lasting) - state.users)
    changes = [Change("nftables", "remove", f"{name} {address} of set {level_rules.SET}") for address in foreign]
    return changes + [Change("nftables", "add", f"{name} {address} of set {level_rules.SET}") for address in missing]


def apply(wanted: Filter, users: Sequence[level_rules.Member] = ()) -> list[str]:
    """Replaces the table and returns what the kernel shows then.

    Raises:
        Unavailable: nft refuses; the table is as it was.
    """
    done = _nft(["-j", "-f", "-"], json.dumps(render(wanted, users)))
    if done.returncode != 0:
        raise _failed("install the table", done.stderr)
    return observe().objects or []


def set_users(users: Sequence[level_rules.Member]) -> None:
    """Makes these the clients whose users have authenticated, in one transaction.

    Raises:
        Unavailable: nft refuses, for one because there is no such set; it is as it was.
    """
    done = _nft(["-j", "-f", "-"], json.dumps({"nftables": level_rules.replace(FAMILY, TABLE, users)}))
    if done.returncode != 0:
        raise _failed("change the users of", done.stderr)


def undo() -> None:
    """Removes the table."""
    done = _nft(["-f", "-"], f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n")
    if done.returncode != 0:
        raise _failed("remove the table", done.stderr)


def _short(item: str) -> str:
    data = json.loads(item)
    for kind in ("rule", "chain", "set", "table"):
        if kind in data:
            body = data[kind]
            if kind == "rule":
                text = body.get("comment") or json.dumps(body.get("expr"))
                return f"rule of chain {body.get('chain')} ({text[:120]})"
            return f"{kind} {body.get('name')}"
    return item[:120]


def _nft(arguments: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise Unavailable(
            "Cannot manage the packet filter", why="nft is not installed", resolution="apt-get install nftables"
        )
    try:
        return subprocess.run(
            [program, *arguments], input=text, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed("run nft", str(error)) from None


def _failed(what: str, why: str) -> Unavailable:
    return Unavailable(
        f"Cannot {what} {FAMILY} {TABLE}",
        why=" ".join(why.split())[:500],
        resolution="It needs root (CAP_NET_ADMIN) and a kernel with nf_tables; look with: nft list table inet portico",
    )
