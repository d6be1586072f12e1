"""A document of one machine for another: other names of interfaces, other addresses. Pure, on the document's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from portico.errors import InvalidInput

INTERFACES = frozenset({"internet_interface", "internal_interface", "accept_interface"})
"""Settings that name interfaces."""


@dataclass
class Moves:
    """What is called otherwise on the new machine, and how often each was found."""

    interfaces: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.interfaces or self.addresses)


def parse_moves(interfaces: Sequence[str], addresses: Sequence[str]) -> Moves:
    """From `old=new` each. Raises InvalidInput (MAPPING_INVALID)."""
    return Moves(_pairs(interfaces), {_address(old): _address(new) for old, new in _pairs(addresses).items()})


def move(data: dict[str, Any], moves: Moves) -> dict[str, Any]:
    """The document's data with other names and addresses.

    Raises:
        InvalidInput: code MAPPING_UNUSED; the document has no such interface or address.
    """
    used: set[str] = set()
    moved = _moved(data, "", moves, used)
    unused = [old for old in (*moves.interfaces, *moves.addresses) if old not in used]
    if unused:
        raise InvalidInput(
            f"The settings of the backup do not have {', '.join(unused)}",
            why="there is nothing to map",
            resolution="Look at them: portico restore FILE --dry-run --json, or leave the mapping out",
            code="MAPPING_UNUSED",
        )
    assert isinstance(moved, dict)
    return moved


def _moved(value: Any, key: str, moves: Moves, used: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _moved(item, str(name), moves, used) for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, key, moves, used) for item in value]
    if not isinstance(value, str):
        return value
    if key in INTERFACES:
        if value in moves.interfaces:
            used.add(value)
        return moves.interfaces.get(value, value)
    host, slash, length = value.partition("/")
    try:
        known = str(ip_address(host))
    except ValueError:
        return value
    if known not in moves.addresses:
        return value
    used.add(known)
    return f"{moves.addresses[known]}{slash}{length}"


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        old, sign, new = (part.strip() for part in text.partition("="))
        if not sign or not old or not new or old in found:
            raise InvalidInput(
                f"'{text}' maps nothing",
                why="it is not old=new, or there are two for one name",
                resolution="Write it as --map eth0=ens3, or --address 10.0.0.2=10.0.0.5",
                code="MAPPING_INVALID",
            )
        found[old] = new
    return found


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidInput(
            f"'{text}' is no address", resolution="Write it as --address 10.0.0.2=10.0.0.5", code="MAPPING_INVALID"
        ) from None
