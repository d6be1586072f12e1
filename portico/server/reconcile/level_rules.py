"""The packet filter's part of the two levels of access: what passes before a user has authenticated. Pure.

A set of client addresses opens the intranet. Its members have timeouts, so that it closes by itself when nobody looks
after it; a table without members lets nobody further than the management servers. What NAT64 translates is decided in
the gateway, which still knows the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

from portico.server.reconcile.wanted import TUNNEL, LevelFilter

SET: Final = "users"
"""Addresses of clients whose users have authenticated."""

Expression = dict[str, Any]
_ANSWERS: Final[list[Expression]] = [
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
    {"match": {"op": "==", "left": {"ct": {"key": "direction"}}, "right": "reply"}},
]
"""Only the direction that answers: what a client opened itself ends with what its user was allowed."""
Rule = tuple[str, list[Expression], str]


@dataclass(frozen=True, order=True)
class Member:
    """A client's address, and the seconds (at least 1) after which the kernel takes it out."""

    address: IPv6Address
    seconds: int


def from_clients(wanted: LevelFilter) -> Iterator[Rule]:
    """The rules before those that allow the intranet, for packets of clients over IPv6."""
    chain = "from_clients"
    yield chain, [*_ANSWERS, {"accept": None}], "answers to what the intranet opened"
    if wanted.management:
        yield chain, [_address("daddr", _one_or_set(wanted.management)), {"accept": None}], "management servers"
    yield chain, [_address("saddr", f"@{SET}", "!="), {"counter": None}, {"drop": None}], "no user has authenticated"


def among_clients() -> Iterator[Rule]:
    """The rules before the one that lets clients reach each other."""
    other = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": TUNNEL}}
    yield "from_clients", [other, *_ANSWERS, {"accept": None}], "answers to another client"
    closed = _address("saddr", f"@{SET}", "!=")
    yield "from_clients", [other, closed, {"counter": None}, {"drop": None}], "no user has authenticated here"


def from_translator(wanted: LevelFilter) -> Iterator[Rule]:
    """The same for what NAT64 translated: the gateway has refused what this client may not reach yet."""
    if wanted.hosts:
        match = {
            "match": {
                "op": "==",
                "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                "right": _one_or_set(wanted.hosts),
            }
        }
        yield "from_translator", [match, {"accept": None}], "management servers"


def make_set(family: str, table: str, members: Sequence[Member]) -> list[dict[str, Any]]:
    """The commands that make the set in a new table."""
    made = {"family": family, "table": table, "name": SET, "type": "ipv6_addr", "flags": ["timeout"]}
    return [{"add": {"set": made}}, *_add(family, table, members)]


def replace(family: str, table: str, members: Sequence[Member]) -> list[dict[str, Any]]:
    """The commands that give the set other members."""
    return [{"flush": {"set": {"family": family, "table": table, "name": SET}}}, *_add(family, table, members)]


def without_members(item: dict[str, Any]) -> dict[str, Any]:
    """An object of a listing; the set without what is in it, which changes all the time."""
    found = item.get("set")
    if not isinstance(found, dict) or found.get("name") != SET:
        return item
    return {"set": {key: value for key, value in found.items() if key != "elem"}}


def members(item: dict[str, Any]) -> list[str] | None:
    """The addresses in the set, when the object of a listing is the set."""
    found = item.get("set")
    if not isinstance(found, dict) or found.get("name") != SET:
        return None
    values = [entry.get("elem", {}).get("val") if isinstance(entry, dict) else entry for entry in found.get("elem", ())]
    return [str(value) for value in values]


def _add(family: str, table: str, members: Sequence[Member]) -> list[dict[str, Any]]:
    if not members:
        return []
    elements = [{"elem": {"val": str(member.address), "timeout": member.seconds}} for member in members]
    return [{"add": {"element": {"family": family, "table": table, "name": SET, "elem": elements}}}]


def _address(field: str, right: object, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": {"payload": {"protocol": "ip6", "field": field}}, "right": right}}


def _one_or_set(addresses: Sequence[object]) -> object:
    return str(addresses[0]) if len(addresses) == 1 else {"set": [str(address) for address in addresses]}
