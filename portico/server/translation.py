"""NAT64 and DNS64 as an administrator sees them: what is bound now, what was, what DNS64 answers and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, Literal

from portico.accounting.binding_search import Found, Wanted, search
from portico.errors import Conflict, InvalidInput, NotFound, Unavailable
from portico.naming.explain import explain
from portico.server.bindings import BindingAccounting
from portico.server.clients import session_name
from portico.server.platform import Platform
from portico.settings.effective import Effective
from portico.settings.model import Settings
from portico.supervisor import ChildError

Table = Literal["sessions", "bindings"]

PAGE: Final = 1000
MAXIMUM_PAGE: Final = 5000
"""Rows of one answer: more would not fit a line of the channel to the gateway."""

QUERIES: Final = 4
"""DNS queries of administrators at one time."""


class Translation:
    """Over the gateway and the log of one server.

    Args:
        directory: of the binding log.
        sessions: the tunnels that are up.
    """

    def __init__(
        self, platform: Platform, directory: Path, sessions: Callable[[], Awaitable[list[dict[str, Any]]]]
    ) -> None:
        self.accounting = BindingAccounting(directory, self._held)
        self._platform = platform
        self._sessions = sessions
        self._asking = asyncio.Semaphore(QUERIES)

    def event(self, event: dict[str, Any]) -> None:
        """Takes what the gateway reports."""
        if event.get("event") == "gateway_started":
            self.accounting.gateway_started()
        else:
            self.accounting.event(event)

    async def applied(self, settings: Settings, values: Effective) -> None:
        """Takes the settings that are in force now."""
        await self.accounting.configure(
            enabled=settings.nat64.log_bindings and bool(values.nat64_mappings),
            retention_days=settings.nat64.binding_log_retention_days,
            statics=values.static_bindings,
        )

    async def table(
        self,
        table: Table,
        *,
        limit: int,
        after: str | None = None,
        client: str | None = None,
        protocol: str | None = None,
        port: int | None = None,
        destination: str | None = None,
    ) -> dict[str, Any]:
        """A page of NAT64's sessions or bindings.

        Args:
            after: what the page before gave as `next`.
            client: its IPv6 address or its name; a name stands for all addresses of its tunnels.

        Returns:
            `{table: [...], "next": text or None, "total": all there are, whatever is asked for}`; each row has the
            client's name as `name`.

        Raises:
            Conflict: NAT64 is disabled.
            NotFound: there is no such client.
            InvalidInput: `after` is not what a page gave.
        """
        self._enabled("nat64")
        addresses: list[str | None] = [None] if client is None else [*await self._addresses(client)]
        at, cursor = _cursor(after, len(addresses))
        asked = {"protocol": protocol, "port": port}
        if table == "sessions":
            asked["destination"] = destination
        rows: list[dict[str, Any]] = []
        total = 0
        while at < len(addresses) and len(rows) < limit:
            page = await self._ask(
                f"nat64_{table}",
                filter={"limit": limit - len(rows), "after": cursor, "client": addresses[at], **asked},
            )
            rows += page.get(table, [])
            total, cursor = int(page.get("total", 0)), page.get("next")
            at += cursor is None
        more = cursor is not None or at < len(addresses)
        now = time.time()
        for row in rows:
            owner = self.accounting.owners.of(str(row["client"]), now)
            row["name"] = owner.name if owner is not None else None
        return {table: rows, "next": f"{at}:{cursor or ''}" if more else None, "total": total}

    async def nat64_stats(self) -> dict[str, Any]:
        """Counters of NAT64, its limits and pool, and how the log does."""
        settings, values = self._enabled("nat64")
        counters = (await self._stats()).get("nat64")
        nat64 = settings.nat64
        return {
            "counters": counters if isinstance(counters, dict) else {},
            "pool": [str(entry) for entry in values.nat64_pool],
            "prefix_mapping": [str(mapping) for mapping in values.nat64_mappings],
            "max_bindings": nat64.max_bindings,
            "max_sessions": nat64.max_sessions or 2 * nat64.max_bindings,
            "log": await asyncio.to_thread(self.accounting.status),
        }

    async def dns64_stats(self) -> dict[str, Any]:
        """Counters of DNS64 and its upstream servers."""
        _, values = self._enabled("dns64")
        counters = (await self._stats()).get("dns64")
        return {
            "counters": counters if isinstance(counters, dict) else {},
            "address": str(values.dns64_address),
            "prefix_mapping": [str(mapping) for mapping in values.dns64_mappings],
        }

    async def dns64_flush(self, name: str | None, *, tree: bool) -> int:
        """Forgets cached answers: all, those of a name, or those of a name and everything below it; how many."""
        self._enabled("dns64")
        found = await self._ask("dns64_flush", query={"name": name, "tree": tree})
        return int(found.get("removed", 0))

    async def dns64_query(self, name: str, kind: str, *, dnssec: bool, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
        """Asks DNS64 as a client would, and says how the answer came to be."""
        settings, values = self._enabled("dns64")
        async with self._asking:
            answer = await self._ask(
                "dns64_query",
                timeout=timeout + 5.0,
                query={"name": name, "type": kind, "dnssec": dnssec, "timeout": timeout},
            )
        return {**answer, **explain(settings, values, name, kind, answer)}

    async def log(self, wanted: Wanted, *, offset: int, limit: int) -> dict[str, Any]:
        """Bindings that existed at a time, from the log.

        Raises:
            Conflict: code BINDING_LOG_OFF; nothing is written down, and nothing was.
            Unavailable, LimitReached: as `search`.
        """
        directory = self.accounting.log.directory
        found: Found = await asyncio.to_thread(search, directory, wanted)
        if found.covers is None and not self.accounting.enabled:
            raise Conflict(
                "There is no log of bindings",
                why="nat64.log_bindings is false, and nothing was written before",
                resolution="Switch it on: portico settings set nat64.log_bindings=true; it tells of what happens then",
                code="BINDING_LOG_OFF",
            )
        page = found.intervals[offset : offset + limit]
        return {
            "bindings": [asdict(interval) for interval in page],
            "total": len(found.intervals),
            "lost": found.lost,
            "covers": found.covers,
            "enabled": self.accounting.enabled,
        }

    def _enabled(self, part: Literal["nat64", "dns64"]) -> tuple[Settings, Effective]:
        settings, values = self._platform.settings, self._platform.values
        if settings is None or values is None:
            raise Unavailable(
                "Nothing is in force yet",
                why="this server has not applied any settings",
                resolution="Look at: portico server status",
            )
        if getattr(settings, part).state == "disabled":
            raise Conflict(
                f"{part.upper()} is disabled",
                why=f"{part}.state is disabled in the settings in force",
                resolution=f"Enable it: portico settings set {part}.state=enabled",
                code=f"{part.upper()}_DISABLED",
            )
        return settings, values

    async def _stats(self) -> Mapping[str, Any]:
        if not self._platform.gateway.running:
            raise Unavailable(
                "The gateway does not run",
                why="it is being restarted, or the server does not serve",
                resolution="Look at: portico server status",
            )
        return await self._platform.gateway.stats()

    async def _ask(self, op: str, *, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:  # noqa: ASYNC109
        try:
            return await self._platform.gateway.ask(op, timeout=timeout, **fields)
        except ChildError as error:
            raise InvalidInput(
                "The gateway cannot answer this", why=error.why, resolution="Correct what is asked for"
            ) from None

    async def _addresses(self, client: str) -> list[str]:
        """The addresses that NAT64 knows a client by."""
        try:
            return [str(IPv6Address(client))]
        except ValueError:
            pass
        found = [session for session in await self._sessions() if session_name(session) == client]
        addresses = [
            str(a) for session in found for a in session.get("addresses", []) if not str(a).startswith("fe80:")
        ]
        if not addresses:
            raise NotFound(
                f"There is no client {client} with an address",
                why="no tunnel of this name is up" if not found else "its tunnel has no address yet",
                resolution="Look at: portico clients list; the IPv6 address finds bindings that outlived a tunnel",
            )
        return addresses

    async def _held(self) -> AsyncIterator[list[dict[str, Any]]]:
        cursor: str | None = None
        while True:
            page = await self._ask("nat64_bindings", filter={"limit": MAXIMUM_PAGE, "after": cursor})
            yield page.get("bindings", [])
            cursor = page.get("next")
            if cursor is None:
                return


def _cursor(text: str | None, addresses: int) -> tuple[int, str | None]:
    """Which of the addresses, and the gateway's own cursor within it."""
    if text is None:
        return 0, None
    number, colon, inner = text.partition(":")
    if not (colon and number.isdecimal() and len(number) < 6 and int(number) <= addresses):
        raise InvalidInput(
            "This is no place in the list", why=f"{text[:80]!r} is not what a page gave as 'next'", code="BAD_CURSOR"
        )
    return int(number), inner or None
