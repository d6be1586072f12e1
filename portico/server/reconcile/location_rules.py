"""Packet filter rules for the pages: who reaches the web probe, and that nobody outside reaches the location server.

They come before all other rules of their chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from portico.server.reconcile.wanted import NAT64_MARK, TRANSLATOR, TUNNEL, LocationFilter, Pool

Expression = dict[str, Any]
Rule = tuple[str, list[Expression], str]
Address = IPv4Address | IPv6Address


def rules(wanted: LocationFilter, internet_interface: str | None, pools: tuple[Pool, ...]) -> Iterator[Rule]:
    """The rules.

    Args:
        internet_interface: None on a server with one interface, where inside and outside cannot be told apart here.
        pools: NAT64's; without any there is no translator.
    """
    if internet_interface is not None and wanted.ports:
        for matches in _to(wanted.own, wanted.ports):
            outside = _meta("iifname", internet_interface)
            yield "input", [outside, *matches, {"counter": None}, {"drop": None}], "pages are not for the Internet"
    if wanted.web_probe_port is not None:
        for matches in _to(wanted.own, (wanted.web_probe_port,)):
            yield "input", [_meta("iifname", TUNNEL), *matches, {"accept": None}], "web probe"
        if pools:
            yield from _through_nat64(wanted, wanted.web_probe_port, pools)
    if wanted.nls_port is not None:
        refused: list[Expression] = [{"counter": None}, {"drop": None}]
        for matches in _to(tuple(a for a in wanted.all_servers if a.version == 6), (wanted.nls_port,)):
            yield "from_clients", [*matches, *refused], "the location server is not for clients"
        for matches in _to(tuple(a for a in wanted.all_servers if a.version == 4), (wanted.nls_port,)):
            if pools:
                yield "from_translator", [*matches, *refused], "the location server is not for clients"


def _through_nat64(wanted: LocationFilter, port: int, pools: tuple[Pool, ...]) -> Iterator[Rule]:
    """A client's probe of an IPv4 address of this server comes out of the translator, from the pool; the answer, from
    one own address to another, would stay in the kernel if it were not led back."""
    four = tuple(address for address in wanted.own if address.version == 4)
    for matches in _to(four, (port,)):
        yield "input", [_meta("iifname", TRANSLATOR), *matches, {"accept": None}], "web probe through NAT64"
    mark: Expression = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": NAT64_MARK}}
    for pool in pools:
        for address in four:
            answer = [
                _header("ip", "saddr", str(address)),
                _header("ip", "daddr", str(pool.address)),
                _header("tcp", "sport", port),
                _header("tcp", "dport", pool.first if pool.first == pool.last else {"range": [pool.first, pool.last]}),
            ]
            yield "steer_out", [*answer, mark], "answer of the web probe to NAT64"


def _to(addresses: tuple[Address, ...], ports: tuple[int, ...]) -> Iterator[list[Expression]]:
    """Matches for TCP to these, a list for each family that has any."""
    for version, protocol in ((4, "ip"), (6, "ip6")):
        chosen = sorted(str(address) for address in addresses if address.version == version)
        if chosen:
            yield [_header(protocol, "daddr", _set(chosen)), _header("tcp", "dport", _set(list(ports)))]


def _set(values: list[Any]) -> object:
    return values[0] if len(values) == 1 else {"set": values}


def _meta(key: str, right: object) -> Expression:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}


def _header(protocol: str, name: str, right: object) -> Expression:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": name}}, "right": right}}
