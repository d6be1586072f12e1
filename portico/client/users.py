"""The user of this computer: logs in at the server through the agent, which has the computer's own certificate."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import Body, FastAPI

from portico.errors import PorticoError

log = logging.getLogger("portico.client.users")

LOOK: Final = 300.0
"""Seconds between looks at what the server grants; what ends is known by its time."""
LOOK_UNUSED: Final = 3600.0
"""The same where no user has to log in."""

AskServer = Callable[[str, str, dict[str, str] | None], Awaitable[dict[str, Any]]]
"""Method, what is behind `/portico/v1/user`, and the body. Raises PorticoError."""


@dataclass(frozen=True)
class Level:
    """What this computer reaches: `Machine` is the management servers, `User` the intranet; empty while unknown.

    Times in seconds since the epoch.
    """

    level: str = ""
    authentication: str = ""
    user: str = ""
    since: float | None = None
    until: float | None = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Level:
        """From the server's answer; nonsense becomes unknown."""
        grant = answer.get("grant")
        grant = grant if isinstance(grant, dict) else {}
        began, until = grant.get("began"), grant.get("until")
        return cls(
            str(answer.get("level", ""))[:20],
            str(answer.get("authentication", ""))[:20],
            str(grant.get("user", ""))[:200],
            float(began) if isinstance(began, int | float) else None,
            float(until) if isinstance(until, int | float) else None,
        )

    def at(self, now: float) -> Level:
        """What is left of it at a time."""
        if self.until is None or now < self.until:
            return self
        return Level("Machine", self.authentication)


class User:
    """What the agent knows about the user."""

    def __init__(self, ask: AskServer, linked: Callable[[], bool]) -> None:
        self._ask = ask
        self._linked = linked
        self.known = Level()

    async def look(self) -> dict[str, Any]:
        """Asks the server. Raises PorticoError."""
        return self._taken(await self._ask("GET", "", None))

    async def challenge(self) -> dict[str, Any]:
        """What a user's key has to sign. Raises PorticoError."""
        return await self._ask("GET", "/challenge", None)

    async def provider(self) -> dict[str, Any]:
        """Where the user gets a token. Raises PorticoError."""
        return await self._ask("GET", "/provider", None)

    async def login(self, fields: dict[str, str]) -> dict[str, Any]:
        """Raises PorticoError: the server's own words."""
        return self._taken(await self._ask("POST", "/login", fields))

    async def logout(self) -> dict[str, Any]:
        """Raises PorticoError."""
        return self._taken(await self._ask("POST", "/logout", {}))

    async def keep(self) -> None:
        """Looks now and then while there is a tunnel."""
        while True:
            wait = 1.0
            if self._linked():
                wait = LOOK
                try:
                    await self.look()
                    wait = LOOK_UNUSED if self.known.authentication == "none" else LOOK
                except PorticoError as error:
                    log.info("the user's level is not known: %s", error)
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311

    def _taken(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.known = Level.of(answer)
        return answer


class HasUser(Protocol):
    """What the control socket needs of the agent."""

    user: User


def offer(app: FastAPI, agent: HasUser) -> None:
    """Adds `GET /v1/user`, `/v1/user/challenge`, `/v1/user/provider`, `POST /v1/user/login`, `/v1/user/logout`."""

    @app.get("/v1/user")
    async def user() -> dict[str, Any]:
        return await agent.user.look()

    @app.get("/v1/user/challenge")
    async def challenge() -> dict[str, Any]:
        return await agent.user.challenge()

    @app.get("/v1/user/provider")
    async def provider() -> dict[str, Any]:
        return await agent.user.provider()

    @app.post("/v1/user/login")
    async def login(fields: dict[str, str] = Body()) -> dict[str, Any]:  # noqa: B008
        return await agent.user.login(fields)

    @app.post("/v1/user/logout")
    async def logout() -> dict[str, Any]:
        return await agent.user.logout()
