"""What was done to an interface's addresses, as the ledger keeps it on disk."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any

from portico.server.reconcile.wanted import HostAddress

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Held:
    """An address as an interface has it, and the message that makes it so."""

    address: HostAddress
    message: bytes = field(compare=False, repr=False)
    permanent: bool = True


@dataclass
class Entry:
    """What Portico did to one interface, as the ledger keeps it.

    Attributes:
        index: of the interface; another one of the same name is a new interface and nothing was done to it.
        former: the addresses before the first change.
        removed: of those, the ones Portico took away (all of a family while their order is put right).
        added: addresses that are Portico's.
        routes: routes that may be lost while addresses change; empty when they are settled.
        exchanged: routes whose source address is another one now: (theirs, ours).
    """

    index: int
    former: list[Held] = field(default_factory=list)
    removed: set[Address] = field(default_factory=set)
    added: set[Address] = field(default_factory=set)
    routes: list[bytes] = field(default_factory=list)
    exchanged: list[tuple[bytes, bytes]] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "former": [[str(held.address), _text(held.message), held.permanent] for held in self.former],
            "removed": sorted(map(str, self.removed)),
            "added": sorted(map(str, self.added)),
            "routes": [_text(route) for route in self.routes],
            "exchanged": [[_text(theirs), _text(ours)] for theirs, ours in self.exchanged],
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Entry:
        """Raises ValueError, LookupError or TypeError for what `as_data` did not write."""
        return cls(
            index=int(data["index"]),
            former=[Held(ip_interface(text), _bytes(raw), bool(forever)) for text, raw, forever in data["former"]],
            removed={ip_address(text) for text in data["removed"]},
            added={ip_address(text) for text in data["added"]},
            routes=[_bytes(route) for route in data["routes"]],
            exchanged=[(_bytes(theirs), _bytes(ours)) for theirs, ours in data["exchanged"]],
        )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
