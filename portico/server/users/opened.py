"""Which client addresses the intranet is open for: the tunnels that are up, against the grants. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from portico.server.reconcile.level_rules import Member
from portico.server.users.grants import Grant, Machine


@dataclass
class _Tunnel:
    machine: Machine | None
    addresses: set[IPv6Address] = field(default_factory=set)


class Tunnels:
    """The tunnels of one server, from the gateway's events; corrected by its list now and then."""

    def __init__(self) -> None:
        self._tunnels: dict[int, _Tunnel] = {}
        self._owners: dict[IPv6Address, int] = {}

    def __len__(self) -> int:
        return len(self._tunnels)

    def event(self, event: Mapping[str, Any]) -> bool:
        """Takes an event; whether it may change what is open.

        Raises:
            LookupError, ValueError, TypeError: it is nonsense.
        """
        match event.get("event"):
            case "session_up":
                self._tunnels[int(event["session"])] = _Tunnel(machine_of(event.get("identity")))
            case "session_address":
                self._learned(int(event["session"]), IPv6Address(event["address"]))
            case "session_down":
                self._gone(int(event["session"]))
            case "gateway_started":
                self._tunnels.clear()
                self._owners.clear()
            case _:
                return False
        return True

    def replace(self, sessions: Iterable[Mapping[str, Any]]) -> None:
        """Takes the gateway's own list."""
        self._tunnels = {
            int(session["session"]): _Tunnel(
                machine_of(session.get("identity")), {IPv6Address(a) for a in session.get("addresses", ())}
            )
            for session in sessions
        }
        self._owners = {a: number for number, tunnel in self._tunnels.items() for a in tunnel.addresses}

    def opened(self, active: Mapping[Machine, Grant], now: float) -> list[Member]:
        """The addresses that the intranet is open for, and for how long."""
        return sorted(
            Member(address, max(1, math.ceil(grant.until - now)))
            for tunnel in self._tunnels.values()
            if tunnel.machine is not None and (grant := active.get(tunnel.machine)) is not None
            for address in tunnel.addresses
            if not address.is_link_local
        )

    def _gone(self, number: int) -> None:
        tunnel = self._tunnels.pop(number, None)
        for address in tunnel.addresses if tunnel is not None else ():
            if self._owners.get(address) == number:
                del self._owners[address]

    def _learned(self, number: int, address: IPv6Address) -> None:
        # An address has one owner: the gateway has just said who.
        before = self._tunnels.get(self._owners.get(address, -1))
        if before is not None:
            before.addresses.discard(address)
        if number in self._tunnels:
            self._tunnels[number].addresses.add(address)
            self._owners[address] = number


def machine_of(identity: Any) -> Machine | None:
    """The computer that a certificate names; None without one."""
    if not isinstance(identity, Mapping) or not identity.get("subject") or not identity.get("issuer_sha256"):
        return None
    return (str(identity["issuer_sha256"]), str(identity["subject"]))
