"""Administrators across servers: one set of credentials, and any server answers for another one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portico.administration.roles import Principal, Role
from portico.errors import NotFound, PorticoError, Unavailable
from portico.server.peers import messages
from portico.server.peers.caller import PeerUnreachable
from portico.server.peers.links import Link

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

ASK_SECONDS = 120.0
MAXIMUM_BODY = 4 << 20
MAXIMUM_TARGET = 8000


@dataclass(frozen=True)
class Asking:
    """A request to the API of another server, in the name of somebody whom this server recognised."""

    principal: Principal
    method: str
    target: str
    body: str

    def as_data(self) -> dict[str, Any]:
        return {
            "principal": self.principal.as_dict(),
            "method": self.method,
            "target": self.target,
            "body": self.body,
        }

    @classmethod
    def from_data(cls, data: dict[str, Any], sender: str) -> Asking:
        """What another server asks; its word is taken for who asks, as it has every key of the cluster anyway.

        Raises:
            InvalidInput: code MESSAGE_MALFORMED, ROLE_UNKNOWN.
        """
        said = messages.section(data, "principal")
        method = messages.text(data, "method", limit=10)
        target = messages.text(data, "target", limit=MAXIMUM_TARGET)
        body = data.get("body")
        kind = messages.text(said, "kind")
        if not target.startswith("/") or not target.isascii() or not isinstance(body, str) or len(body) > MAXIMUM_BODY:
            raise messages.malformed("the request is none")
        if kind not in ("local", "certificate", "token", "session", "oidc"):
            raise messages.malformed("nobody asks")
        principal = Principal(
            name=messages.text(said, "name"),
            kind=kind,  # type: ignore[arg-type]  # it is one of them
            role=Role.parse(messages.text(said, "role")),
            address=f"{messages.text(said, 'address')} by {sender}",
            id=str(said.get("id", ""))[:256],
        )
        return cls(principal, method, target, body)


@dataclass(frozen=True)
class Answered:
    status: int
    content_type: str
    body: str


Api = Callable[[Asking], Awaitable[Answered]]


class Administration:
    """What servers do for each other's administrators.

    Attributes:
        api: answers as this server's API; None while there is none.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._one = asyncio.Lock()
        self.api: Api | None = None

    def greeting(self) -> dict[str, Any]:
        """What is newest here, for the other servers; where the audit log ends, so that they can witness it."""
        access = self._peers.host.access
        try:
            number, digest = access.audit.head()
        except PorticoError:
            number, digest = 0, ""
        return {"access": access.digest(), "audit": [number, digest], "users": self._peers.host.users.digest()}

    async def pull(self, link: Link, said: dict[str, Any]) -> None:
        """Takes up another server's credentials when they differ. Raises PorticoError."""
        await self._pull_users(link, said)
        access = self._peers.host.access
        theirs = said.get("access")
        if not isinstance(theirs, str) or not theirs or theirs == access.digest():
            return
        async with self._one:
            data = await link.caller.get("/v1/access")
            await asyncio.to_thread(access.take_over, data)

    async def _pull_users(self, link: Link, said: dict[str, Any]) -> None:
        users = self._peers.host.users
        theirs = said.get("users")
        if not isinstance(theirs, str) or theirs == users.digest():
            return
        async with self._one:
            data = await link.caller.get("/v1/users")
            await asyncio.to_thread(users.take_over, data)

    def witnesses(self) -> dict[str, list[Any]]:
        """Where this server last heard that each other one's audit log ends: name to [number, hash]."""
        return {link.name: link.said["audit"] for link in self._peers.links.all() if "audit" in link.said}

    async def heard_of(self) -> dict[str, tuple[int, str]]:
        """Where the other servers say that this one's audit log ends."""
        found = await self._peers.links.each(
            self._peers.links.reachable(), lambda link: link.caller.get("/v1/audit/witness")
        )
        known: dict[str, tuple[int, str]] = {}
        for name, data in found.items():
            said = data.get(self._peers.own_name) if isinstance(data, dict) else None
            if isinstance(said, list) and len(said) == 2 and isinstance(said[0], int) and said[0] > 0:
                known[name] = (said[0], str(said[1]))
        return known

    async def ask(self, server: str, asking: Asking) -> Answered:
        """The answer of another server's API.

        Raises:
            NotFound: there is no such server. PeerUnreachable: it does not answer.
        """
        link = self._peers.links.get(server)
        if link is None:
            raise NotFound(
                f"There is no server {server[:63]}",
                why="the cluster has no other server of this name",
                resolution="List them with: portico lb servers",
                code="NO_SUCH_SERVER",
            )
        data = await link.caller.post("/v1/api", asking.as_data(), seconds=ASK_SECONDS)
        body = data.get("body") if isinstance(data, dict) else None
        if not isinstance(body, str):
            raise messages.malformed("the answer is none")
        return Answered(messages.number(data, "status"), messages.text(data, "content_type"), body)

    async def each(self, principal: Principal, target: str) -> dict[str, Any]:
        """The answers of every other server to a GET: what is in them, or the PorticoError that came instead."""

        async def one(link: Link) -> Any:
            if not link.reachable:
                raise _silent(link.name)
            answered = await self.ask(link.name, Asking(principal, "GET", target, ""))
            if answered.status != 200:
                raise _silent(link.name)
            return json.loads(answered.body)

        return await self._peers.links.each(self._peers.links.all(), one)

    async def answer(self, data: dict[str, Any], sender: str) -> dict[str, Any]:
        """Answers for another server. Raises PorticoError."""
        asking = Asking.from_data(data, sender)
        if self.api is None:
            raise Unavailable("This server has no API now", why="it starts or stops", resolution="Try again")
        return vars(await self.api(asking))


def _silent(name: str) -> PorticoError:
    return PeerUnreachable(
        f"The server {name} does not answer",
        why="the other servers do not reach it",
        resolution="Look whether it runs: portico server status, there",
    )
