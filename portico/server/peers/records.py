"""Records of certificates, revocations, ticket keys and the shared state: kept equal on all servers.

Each server reads the logs of the others as soon as it hears of something new there, at the latest with the next
greeting. Whoever changed something tells the others at once and waits until they have read it, so that a revocation
closes tunnels everywhere before the administrator has his answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from portico.certificates import replication
from portico.certificates.tickets import TICKET_KEYS, TicketKey, save_tickets
from portico.errors import PorticoError
from portico.server.cluster_secrets import ClusterState
from portico.server.peers import messages
from portico.server.peers.links import Link

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

TELL_SECONDS = 5.0
MAXIMUM_PAGES = 10_000


class Records:
    """What of one server's certificates the others know, and the other way round."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._pulling: dict[str, asyncio.Lock] = {}

    def greeting(self) -> dict[str, Any]:
        """What is newest here, for the other servers."""
        credentials = self._peers.credentials
        found: dict[str, Any] = {"tickets": tickets_digest(credentials.tickets)}
        try:
            found["log"], found["number"] = replication.newest(credentials.usable_store())
        except PorticoError:
            found["log"], found["number"] = "", 0  # damaged records are told by the status, and nobody reads them
        return found

    def page(self, log_id: str, after: int) -> dict[str, Any]:
        """Changes of this server's log. Raises PorticoError."""
        return replication.changes(self._peers.credentials.usable_store(), log_id, after).as_data()

    async def pull(self, link: Link, said: dict[str, Any]) -> None:
        """Reads what another server has and this one has not. Raises PorticoError."""
        lock = self._pulling.setdefault(link.name, asyncio.Lock())
        async with lock:
            new = await self._pull_log(link, said)
            if said.get("tickets") != tickets_digest(self._peers.credentials.tickets):
                new = await self._pull_tickets(link) or new
        if new:
            await self._peers.refresh_gateway()

    async def _pull_log(self, link: Link, said: dict[str, Any]) -> bool:
        name, number = messages.text(said, "log"), messages.number(said, "number")
        store = self._peers.credentials.usable_store()
        after = await asyncio.to_thread(replication.position, store, name)
        new = False
        for _ in range(MAXIMUM_PAGES):
            if after >= number:
                break
            data = await link.caller.get("/v1/records", log=name, after=after)
            page = replication.Page.from_data(data)
            new = await asyncio.to_thread(replication.take_over, store, page) or new
            if page.log != name or (page.number <= after and page.more):
                break  # its records were put back from a backup meanwhile; the next greeting says so
            after = page.number
            if not page.more:
                break
        return new

    async def _pull_tickets(self, link: Link) -> bool:
        data = await link.caller.get("/v1/tickets")
        if not isinstance(data, dict):
            raise messages.malformed("it is not an object")
        theirs = ticket_keys(messages.items(data, "keys", limit=TICKET_KEYS))
        return await asyncio.to_thread(self._peers.take_tickets, theirs)

    async def tell(self, what: str) -> None:
        """Has every server that can be reached read what is new here; returns when they have, or in `TELL_SECONDS`."""
        greeting = await self._peers.catching_up.greeting()
        found = await self._peers.links.each(
            self._peers.links.reachable(),
            lambda link: link.caller.post("/v1/changed", greeting, seconds=TELL_SECONDS),
        )
        for name, result in found.items():
            if isinstance(result, PorticoError):
                log.warning("server=%s was not told of %s: %s", name, what, result)


def tickets_digest(keys: tuple[TicketKey, ...]) -> str:
    """Tells whether two servers have the same ticket keys, and nothing about the keys."""
    digest = hashlib.sha256(b"portico ticket keys")
    for key in keys:
        digest.update(hashlib.sha256(key.key).digest())
    return digest.hexdigest()


def merge_tickets(own: tuple[TicketKey, ...], others: tuple[TicketKey, ...]) -> tuple[TicketKey, ...]:
    """The newest of both, the same on every server whoever asks whom. Pure."""
    every = {key.key: key for key in (*own, *others)}
    ordered = sorted(every.values(), key=lambda key: (key.created, key.key), reverse=True)
    return tuple(ordered[:TICKET_KEYS])


def ticket_data(keys: tuple[TicketKey, ...]) -> list[dict[str, str]]:
    """Ticket keys as they travel. Secret."""
    return [{"key": key.key.hex(), "created": key.created.isoformat()} for key in keys]


def ticket_keys(data: list[Any]) -> tuple[TicketKey, ...]:
    """Ticket keys that travelled. Raises InvalidInput."""
    found = []
    for item in data:
        try:
            key, created = bytes.fromhex(item["key"]), datetime.fromisoformat(item["created"])
        except (ValueError, LookupError, TypeError):
            raise messages.malformed("a ticket key is malformed") from None
        if len(key) != 32 or created.tzinfo is None:
            raise messages.malformed("a ticket key has a wrong length")
        found.append(TicketKey(key, created))
    return tuple(found)


def keep_tickets(peers: Peers, theirs: tuple[TicketKey, ...]) -> bool:
    """Takes newer ticket keys over. Raises PorticoError when they cannot be written."""
    credentials = peers.credentials
    merged = merge_tickets(credentials.tickets, theirs)
    if merged == credentials.tickets:
        return False
    save_tickets(credentials.directory, merged)
    credentials.tickets = merged
    return True


def merge_states(own: ClusterState, other: ClusterState) -> ClusterState:
    """Which of two states holds: the higher version. Two of one version, made at once, become one of both. Pure.

    A member that one of them took out stays out all the same: it is in no document any more.
    """
    if other.version != own.version:
        return other if other.version > own.version else own
    if other == own:
        return own
    first, second = sorted((own, other), key=lambda state: (state.keys[0].since, state.keys[0].key))
    members = {**first.members, **second.members}
    return ClusterState(second.version + 1, second.cluster_id, second.seed, second.keys, members)
