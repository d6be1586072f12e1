"""The agent and its connectivity assistant: what each needs of the other."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import Any, Final, Protocol

from portico.client import device
from portico.client.assistant.assistant import Assistant, Connection, Outlook, Ports
from portico.client.assistant.revoked import RevocationList
from portico.client.assistant.revoked import parse as parse_revoked
from portico.client.assistant.surroundings import Surroundings, look
from portico.client.assistant.technologies import Name
from portico.client.identity import ClientFiles, ClientSettings
from portico.client.status import Failure, Status, Substatus
from portico.errors import PorticoError
from portico.location.reach import trusting
from portico.naming.nrpt import Table

log = logging.getLogger("portico.client.assistance")

PORTAL_CODES: Final = (0x8009_0325, 0x800B_010F, 0x2F78)
"""Errors of the tunnel when somebody else answers: an untrusted issuer, another name, no HTTP."""


@dataclass(frozen=True)
class Line:
    """The tunnel as the agent sees it."""

    said: tuple[Status, Substatus]
    up: bool
    failure: Failure | None
    level: str = ""
    authentication: str = ""


class Agent(Protocol):
    """What is needed of it."""

    files: ClientFiles

    def line(self) -> Line: ...
    def client_settings(self) -> ClientSettings: ...
    def resolvers(self) -> tuple[str, ...]: ...
    def problem(self, text: str) -> None: ...
    async def bring_up(self) -> None: ...
    async def hang_up(self) -> None: ...


class IpHttps:
    """The one way in that is built. See `technologies.Way`."""

    device = device.INTERFACE

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def bring_up(self) -> None:
        await self._agent.bring_up()

    async def take_down(self) -> None:
        await self._agent.hang_up()

    def obstacle(self) -> str | None:
        line = self._agent.line()
        if line.up:
            return None
        return f"{line.failure.text} ({line.failure.hexadecimal})" if line.failure is not None else ""


class Assistance:
    """Makes the assistant and answers its questions. See `assistant.Host`."""

    def __init__(self, agent: Agent, trust: str) -> None:
        self._agent = agent
        self._trust = trust
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.assistant = Assistant(self._outlook(), {Name.IPHTTPS: IpHttps(agent)}, self, Ports(self._look))

    def renew(self) -> None:
        """Takes up the newest settings and the newest revocation list."""
        self.assistant.renew(self._outlook())

    def connection(self) -> Connection:
        line = self._agent.line()
        failure = line.failure
        portal = ""
        if not line.up and failure is not None and failure.code in PORTAL_CODES:
            portal = f"{failure.text} ({failure.hexadecimal})"
        limited = ""
        if line.level == "Machine" and line.authentication not in ("", "none"):
            limited = "this computer's user has not logged in: portico client login"
        return Connection(line.said, portal, limited)

    def rules(self) -> Table:
        return self._agent.client_settings().table()

    def problem(self, text: str) -> None:
        self._agent.problem(text)

    async def _look(self) -> Surroundings:
        return await asyncio.to_thread(look, device.INTERFACE, self._agent.resolvers())

    def _outlook(self) -> Outlook:
        settings = self._agent.client_settings().assistant
        whose = settings.nls_trust if settings is not None else "server"
        if whose not in self._contexts:
            context = trusting(self._trust)
            if whose == "system":
                context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._contexts[whose] = context
        return Outlook(settings, self._contexts[whose], self._revoked())

    def _revoked(self) -> RevocationList | None:
        text = self._agent.files.revoked()
        if text is None:
            return None
        try:
            return parse_revoked(text, self._trust)
        except PorticoError as error:  # it came from the server, and a new enrolment may have another CA
            log.warning("%s", error)
            return None


def as_status(assistance: Assistance | None) -> dict[str, Any] | None:
    """The report in its JSON form; None while there is no assistant."""
    return assistance.assistant.report().as_dict() if assistance is not None else None
