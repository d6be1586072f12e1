"""Remote computers of this server and its cluster: who is enrolled, who is connected, closing and revoking."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico.certificates.listing import client_rows
from portico.certificates.revocation import revoke, revoke_foreign
from portico.errors import NotFound, PorticoError
from portico.files import read_file, write_file
from portico.server.clients import Client, ClientState, clients, session_name
from portico.server.credentials import now_utc
from portico.server.directory import Directory, Page

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.server")

SEEN_NAME = "seen.json"
PAGE = 1000
"""Remote computers looked at together by who wants them all."""


class Roster:
    """The remote computers, and when each was last seen."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seen = read_seen(agent.state / SEEN_NAME)
        self._directory = Directory(lambda: agent.credentials.store, self._everywhere, self._seen)

    async def page(self, *, after: str | None = None, limit: int, state: ClientState | None = None) -> Page:
        """A part of the list of all remote computers. Raises as `Directory.page`."""
        return await self._directory.page(after=after, limit=limit, state=state)

    async def clients(self) -> AsyncIterator[Client]:
        """Every remote computer that was enrolled or is connected, to whichever server of the cluster."""
        page = await self.page(limit=PAGE)
        while True:
            for client in page.clients:
                yield client
            if page.next is None:
                return
            page = await self.page(after=page.next, limit=PAGE)

    async def client(self, name: str) -> Client:
        """Raises NotFound."""
        sessions = [session for session in await self._everywhere() if session_name(session) == name]
        store = self._agent.credentials.store
        rows = await asyncio.to_thread(client_rows, store, [name]) if store else []
        for client in clients(rows, sessions, self._seen, now_utc()):
            return client
        raise NotFound(
            f"There is no client {name}",
            why="no certificate was issued to it and it is not connected",
            resolution="List them with: portico clients list",
        )

    async def _everywhere(self) -> list[dict[str, Any]]:
        """The tunnels of every server of the cluster."""
        sessions = await self.sessions()
        if self._agent.peers.state is not None:
            sessions = [{**session, "server": self._agent.peers.own_name} for session in sessions]
            sessions += await self._agent.peers.sessions()
        return sessions

    async def disconnect(self, name: str) -> int:
        """Closes a client's tunnels; it may dial again. Raises NotFound."""
        await self.client(name)
        closed = await self.disconnect_here(name) + await self._agent.peers.disconnect(name)
        log.info("client=%r disconnected=%d", name, closed)
        return closed

    async def revoke(self, *, name: str | None, serial: str | None, reason: str) -> tuple[list[str], int]:
        """Revokes certificates and closes their tunnels at once.

        Returns:
            The serial numbers revoked just now, and how many tunnels were closed.

        Raises:
            NotFound, InvalidInput: nothing was revoked.
            Unavailable: it is stored, but the gateway could not be told; it will be before it serves again.
        """
        sessions = await self.sessions()
        store = self._agent.credentials.usable_store()
        try:
            done = await asyncio.to_thread(
                lambda: revoke(store, name=name, serial=serial, reason=reason, now=now_utc())
            )
            serials = [record.serial for record in done]
        except NotFound:
            serials = await asyncio.to_thread(self._revoke_foreign, sessions, name, serial, reason)
            if not serials:
                raise
        log.warning("revoked=%r name=%r reason=%s", serials, name, reason)
        async with self._agent.transactions.lock:
            # A change in flight holds a list of revoked certificates without these.
            await self._agent.platform.refresh()
        closed = await self._close_revoked()
        before, after = len(sessions), len(await self.sessions())
        await self._agent.peers.changed()
        await asyncio.to_thread(self._agent.credentials.write_crl, now_utc())
        return serials, max(closed, before - after, 0)

    def _revoke_foreign(
        self, sessions: list[dict[str, Any]], name: str | None, serial: str | None, reason: str
    ) -> list[str]:
        """Certificates of imported CAs have no record; a living tunnel says which one is meant."""
        done = []
        for session in sessions:
            identity = _identity(session)
            if identity is None or not (session_name(session) == name or identity[1] == serial):
                continue
            if revoke_foreign(
                self._agent.credentials.usable_store(),
                issuer_sha256=identity[0],
                serial=identity[1],
                name=session_name(session),
                reason=reason,
                now=now_utc(),
            ):
                done.append(identity[1])
        return done

    # For the other servers

    async def refresh_revoked(self) -> int:
        """Gives the gateway what other servers revoked or rotated; returns how many tunnels were closed for it."""
        async with self._agent.transactions.lock:
            await self._agent.platform.refresh()
        return await self._close_revoked()

    async def _close_revoked(self) -> int:
        gone = {(entry.issuer_sha256, entry.serial) for entry in self._agent.credentials.revoked}
        doomed = [int(s["session"]) for s in await self.sessions() if _identity(s) in gone]
        return await self._agent.platform.gateway.disconnect(doomed)

    async def disconnect_here(self, name: str) -> int:
        """Closes a client's tunnels on this server; it may dial again."""
        return await self._agent.platform.gateway.disconnect(
            [int(s["session"]) for s in await self.sessions() if session_name(s) == name]
        )

    # When they were seen

    async def sessions(self) -> list[dict[str, Any]]:
        """The tunnels of this server. Raises PorticoError when the gateway does not answer."""
        owners = self._agent.translation.accounting.owners
        # Those that come up while the gateway answers are not in its answer.
        known = owners.sessions()
        sessions: list[dict[str, Any]] = await self._agent.platform.gateway.sessions()
        owners.ended(known - {int(session["session"]) for session in sessions})
        now = time.time()
        for session in sessions:
            self._seen[session_name(session)] = now
        return sessions

    async def note_seen(self) -> None:
        """Keeps who is connected now over a restart. Never fails."""
        try:
            await self.sessions()
        except PorticoError:
            return
        await asyncio.to_thread(self.write_seen)

    def write_seen(self) -> None:
        """Never fails: it is only what the administrator is shown."""
        newest = sorted(self._seen.items(), key=lambda item: item[1])[-100_000:]
        try:
            write_file(self._agent.state / SEEN_NAME, json.dumps(dict(newest)).encode())
        except PorticoError as error:
            log.warning("%s", error)


def _identity(session: dict[str, Any]) -> tuple[str, str] | None:
    identity = session.get("identity")
    if not isinstance(identity, dict):
        return None
    return str(identity.get("issuer_sha256")), str(identity.get("serial"))


def read_seen(path: Path) -> dict[str, float]:
    """Name to when it was last connected, seconds since the epoch. Damage loses it and is logged."""
    try:
        return {str(name): float(at) for name, at in json.loads(read_file(path, limit=64 << 20)).items()}
    except NotFound:
        return {}
    except (PorticoError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        log.warning("file=%s cannot be read, when clients were last seen is forgotten: %s", path, error)
        return {}
