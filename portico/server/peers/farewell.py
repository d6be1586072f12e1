"""Leaving, on both sides, so that it survives the death of either process.

A server that is told that it was taken out writes that down before it answers, and finishes at its next start. A server
that ends a cluster writes down, before it changes anything, whom it has to tell: afterwards it is reachable for nobody,
and the others would go on with the virtual addresses that are its own from then on. It tells them until they have
answered, or until `PATIENCE` has passed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from portico.errors import NotFound, PorticoError, Unavailable
from portico.files import private_directory, read_file, remove_file, write_file
from portico.server.peers.links import Links
from portico.server.peers.tls import caller_context
from portico.settings.load_balancing import ClusterServer

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

LEFT_NAME = "left.json"
LEAVING_NAME = "leaving.json"
AGAIN = 5.0
"""Seconds between attempts."""
PATIENCE = 7 * 24 * 3600.0
"""Seconds after which servers that never answered are given up; the keys of the cluster go then."""
MAXIMUM_SERVERS = 64


class Departure:
    """The note on a server that was taken out: who said so. It goes when everything else is gone."""

    def __init__(self, state: Path) -> None:
        self._path = state / LEFT_NAME

    def note(self, by: str) -> None:
        """Raises Unavailable."""
        write_file(self._path, json.dumps({"by": by}).encode())

    def begun(self) -> str | None:
        """Who took this server out, while that is not finished."""
        try:
            return str(json.loads(read_file(self._path))["by"])
        except NotFound:
            return None
        except (PorticoError, ValueError, LookupError, TypeError, RecursionError):
            return "another server"  # that the note is there says enough

    def done(self) -> None:
        remove_file(self._path)


class Farewell:
    """Whom this server tells that its cluster ended."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._path = peers.files.directory / LEAVING_NAME
        self._next = 0.0
        self._one = asyncio.Lock()

    def intend(self, servers: Sequence[ClusterServer], own_name: str) -> None:
        """Before the document without load balancing is stored. Raises Unavailable."""
        private_directory(self._path.parent)
        data = [server.model_dump(mode="json") for server in servers if server.name != own_name]
        write_file(self._path, json.dumps({"own_name": own_name, "since": time.time(), "servers": data}).encode())

    def cancel(self) -> None:
        """The document was not stored after all."""
        remove_file(self._path)

    def outstanding(self) -> list[ClusterServer]:
        """Who was not told yet; none when the note cannot be read, as it says nothing then."""
        return self._read()[2]

    def problem(self) -> PorticoError | None:
        """For the status, while somebody was not told."""
        names = [server.name for server in self.outstanding()] if self._peers.state is None else []
        if not names:
            return None
        return Unavailable(
            f"{', '.join(names)} could not be told that load balancing ended",
            why="they did not answer: they have left and the answer was lost, or they still have the virtual "
            "addresses, which are this server's own now",
            resolution="Look there: portico server status. One that still serves: portico server uninstall. This "
            "server goes on asking for a week",
            code="SERVERS_NOT_TOLD",
        )

    async def told(self, names: Collection[str]) -> None:
        """These know it. Removes everything of the cluster once all do. Raises Unavailable."""
        async with self._one:
            await asyncio.to_thread(self._told, names)

    def _told(self, names: Collection[str]) -> None:
        if not self._path.exists():
            return  # all of them were told meanwhile, by the attempt that comes with time
        own_name, since, servers = self._read()
        left = [server for server in servers if server.name not in names]
        if left and time.time() - since < PATIENCE:
            data = [server.model_dump(mode="json") for server in left]
            write_file(self._path, json.dumps({"own_name": own_name, "since": since, "servers": data}).encode())
            return
        if left:
            log.error("given up: %s never heard that the cluster ended", ", ".join(server.name for server in left))
        self._peers.files.remove()

    async def tell(self) -> None:
        """Tells those that are left, every `AGAIN` seconds. Never fails because of them. Raises Unavailable."""
        if time.monotonic() < self._next or not self._path.exists():
            return
        async with self._one:
            self._next = time.monotonic() + AGAIN
            own_name, _, servers = await asyncio.to_thread(self._read)
            told = await tell(self._peers, servers, own_name) if self._path.exists() else []
            await asyncio.to_thread(self._told, told)

    def _read(self) -> tuple[str, float, list[ClusterServer]]:
        try:
            data = json.loads(read_file(self._path))
            servers = [ClusterServer.model_validate(item) for item in data["servers"][:MAXIMUM_SERVERS]]
            return str(data["own_name"]), float(data["since"]), servers
        except NotFound:
            pass
        except (PorticoError, ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("file=%s cannot be read: %s", self._path, type(error).__name__)
        return "", 0.0, []


async def tell(peers: Peers, servers: Sequence[ClusterServer], own_name: str) -> list[str]:
    """Tells servers that they were taken out; returns the names of those that know it."""
    leaving = Links(peers.links.locate)  # the callers of these servers have ended with the former document
    try:
        trust = peers.files.authority().pem
        await leaving.follow(servers, own_name, caller_context(trust, peers.files.member))
        found = await leaving.each(leaving.all(), lambda link: link.caller.post("/v1/leave", {}, seconds=5.0))
    finally:
        await leaving.close()
    told = []
    for name, result in found.items():
        # One that knows this server no longer has left already.
        if isinstance(result, PorticoError) and result.code != "NOT_A_MEMBER":
            log.warning("server=%s was taken out and could not be told: %s", name, result)
        else:
            told.append(name)
    return told
