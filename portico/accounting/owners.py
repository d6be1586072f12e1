"""Which client had which address of the tunnel at which time. Pure.

Bindings are reported with the client's address. Whose address it was is known from the tunnel's identity; before the
report arrives the tunnel may have ended, or another client may have taken the address over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

REMEMBERED: Final = 100_000
"""Addresses of which a former owner is kept; the ones that were seen longest ago are forgotten first."""

_FORMER = 4


@dataclass(frozen=True)
class Owner:
    """A tunnel. `name` and `serial` are of its client certificate, None without one."""

    session: int
    peer: str
    name: str | None
    serial: str | None


class Owners:
    """Follows the gateway's events `session_up`, `session_address` and `session_down`.

    Attributes:
        keep_former: whether an address stays known after its tunnel ended. Only a log of bindings asks for those, and
            they take memory: with clients that come and go, a hundred times as much as the living.
    """

    def __init__(self, limit: int = REMEMBERED, *, keep_former: bool = False) -> None:
        self.keep_former = keep_former
        self._limit = limit
        self._sessions: dict[int, tuple[Owner, list[str]]] = {}
        self._addresses: OrderedDict[str, list[tuple[float, Owner]]] = OrderedDict()

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes an event; others than the three are ignored.

        Raises:
            KeyError, TypeError, ValueError: it is not what the gateway sends.
        """
        name = event.get("event")
        if name == "session_up":
            identity = event.get("identity") or {}
            number = int(event["session"])
            owner = Owner(number, str(event.get("peer", "")), identity.get("subject"), identity.get("serial"))
            self._sessions[number] = owner, []
        elif name == "session_address":
            found = self._sessions.get(int(event["session"]))
            if found is not None:
                owner, addresses = found
                self._learn(str(event["address"]), float(event["at"]), owner)
                if event["address"] not in addresses:
                    addresses.append(str(event["address"]))
                    del addresses[:-_FORMER]
        elif name == "session_down":
            self._end(int(event["session"]))

    def sessions(self) -> set[int]:
        """The tunnels that are taken to be open."""
        return set(self._sessions)

    def ended(self, sessions: Iterable[int]) -> None:
        """These are open no more, though no event said so: the gateway drops events that nobody fetches in time."""
        for number in sessions:
            self._end(number)

    def forget_sessions(self) -> None:
        """The gateway started anew and counts its tunnels from the beginning."""
        self.ended(list(self._sessions))

    def _end(self, number: int) -> None:
        owner, addresses = self._sessions.pop(number, (None, []))
        if self.keep_former:
            return
        for address in addresses:
            history = self._addresses.get(address)
            # Another tunnel may have the address by now.
            if history is not None and history[-1][1] == owner:
                del self._addresses[address]

    def of(self, address: str, at: float) -> Owner | None:
        """Whose address it was at a time (seconds since the epoch); the first one known for a time before it."""
        history = self._addresses.get(address)
        if not history:
            return None
        return next((owner for since, owner in reversed(history) if since <= at), history[0][1])

    def _learn(self, address: str, at: float, owner: Owner) -> None:
        history = self._addresses.setdefault(address, [])
        if not history or history[-1][1] != owner:
            history.append((at, owner))
            del history[:-_FORMER]
        self._addresses.move_to_end(address)
        while len(self._addresses) > self._limit:
            self._addresses.popitem(last=False)
