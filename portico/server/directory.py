"""The list of remote computers in pages: connected ones first, then by name.

A page reads the certificates of the clients that it shows. Tunnels are known to the gateways alone, so the first page
of a walk asks every server for its own, and the pages after it go by what was answered then: a client that connects in
the middle of a walk is neither listed twice nor left out.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from portico.certificates.listing import bad_cursor, client_names, client_rows, client_total
from portico.certificates.store import CertificateStore
from portico.server.clients import Client, ClientState, clients, session_name
from portico.server.credentials import now_utc

KEPT: Final = 30.0
"""Seconds that the pages of a walk may go by the tunnels of its first page."""

EXAMINED: Final = 1000
"""Clients looked at for one page when only some states are wanted; a page may then be short, or empty, and not the
last."""

_CONNECTED: Final = "connected"
_OTHERS: Final = "enrolled"


@dataclass(frozen=True)
class Page:
    """Some of the clients.

    Attributes:
        next: the cursor of the page after this one; None when there is none.
        total: all clients there are, whatever was asked for.
    """

    clients: list[Client]
    next: str | None
    total: int


@dataclass(frozen=True)
class _Tunnels:
    """The tunnels at one moment, by the name of their client."""

    at: float
    by_name: Mapping[str, list[dict[str, Any]]]
    names: list[str]
    foreign: int
    """How many of the names have no certificate of the built-in CA."""


class Directory:
    """The list of one server.

    Args:
        store: the certificates; None while they cannot be read.
        sessions: the tunnels of all servers; raises PorticoError.
        seen: name to when its last tunnel came up or went down.
    """

    def __init__(
        self,
        store: Callable[[], CertificateStore | None],
        sessions: Callable[[], Awaitable[list[dict[str, Any]]]],
        seen: Mapping[str, float],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._seen = seen
        self._tunnels: _Tunnels | None = None

    async def page(self, *, after: str | None = None, limit: int, state: ClientState | None = None) -> Page:
        """The clients behind a cursor, at most `limit`.

        Raises:
            InvalidInput: code CURSOR_INVALID.
            PorticoError: a gateway or the certificates cannot be read.
        """
        part, _, name = after.partition(":") if after is not None else (_CONNECTED, "", "")
        if part not in (_CONNECTED, _OTHERS):
            raise bad_cursor()
        tunnels = await self._walk(new=after is None)
        return await asyncio.to_thread(self._page, tunnels, part, name, limit, state)

    async def _walk(self, *, new: bool) -> _Tunnels:
        kept = self._tunnels
        if kept is not None and not new and time.monotonic() - kept.at < KEPT:
            return kept
        by_name: dict[str, list[dict[str, Any]]] = {}
        for session in await self._sessions():
            by_name.setdefault(session_name(session), []).append(session)
        self._tunnels = found = await asyncio.to_thread(self._gather, by_name)
        asyncio.get_running_loop().call_later(KEPT, self._forget, found)
        return found

    def _gather(self, by_name: dict[str, list[dict[str, Any]]]) -> _Tunnels:
        store = self._store()
        ours = {row.name for row in client_rows(store, list(by_name))} if store is not None else set()
        return _Tunnels(time.monotonic(), by_name, sorted(by_name), len(by_name) - len(ours))

    def _forget(self, tunnels: _Tunnels) -> None:
        if self._tunnels is tunnels:
            self._tunnels = None

    def _page(self, tunnels: _Tunnels, part: str, after: str, limit: int, state: ClientState | None) -> Page:
        store = self._store()
        found: list[Client] = []
        following: str | None = None
        wants_others = store is not None and state is not ClientState.CONNECTED
        if part == _CONNECTED and state in (None, ClientState.CONNECTED):
            begin = bisect.bisect_right(tunnels.names, after) if after else 0
            names = tunnels.names[begin : begin + limit]
            found = self._clients(store, names, tunnels)
            if begin + limit < len(tunnels.names):
                following = f"{_CONNECTED}:{names[-1]}"
            elif len(found) == limit and wants_others:
                following = f"{_OTHERS}:"
        if following is None and wants_others and len(found) < limit:
            assert store is not None
            others, following = self._others(
                store, tunnels, after if part == _OTHERS else "", limit - len(found), state
            )
            found += others
        total = tunnels.foreign + (client_total(store) if store is not None else 0)
        return Page(found, following, total)

    def _others(
        self, store: CertificateStore, tunnels: _Tunnels, after: str, room: int, state: ClientState | None
    ) -> tuple[list[Client], str | None]:
        """Clients that are not connected. Looks at a bounded number of names, whatever fits."""
        looked_at = max(room, EXAMINED) if state is not None else room
        names = client_names(store, after=after, limit=looked_at + 1)
        more = len(names) > looked_at
        found: list[Client] = []
        for client in self._clients(store, [n for n in names[:looked_at] if n not in tunnels.by_name], tunnels):
            if state in (None, client.state):
                if len(found) == room:
                    return found, f"{_OTHERS}:{found[-1].name}"
                found.append(client)
        return found, f"{_OTHERS}:{names[looked_at - 1]}" if more else None

    def _clients(self, store: CertificateStore | None, names: list[str], tunnels: _Tunnels) -> list[Client]:
        rows = client_rows(store, names) if store is not None else []
        sessions = [session for name in names for session in tunnels.by_name.get(name, ())]
        return clients(rows, sessions, self._seen, now_utc())
