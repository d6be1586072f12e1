"""Keeps what came from the server current: the certificate, the settings, the revocation list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from portico.certificates.issue import Identity
from portico.certificates.renewal import is_due
from portico.client import enrol
from portico.client.assistant.revoked import parse as parse_revoked
from portico.client.identity import ClientFiles, ClientSettings, Proxy
from portico.errors import PorticoError

log = logging.getLogger("portico.client.currency")

LOOK_AGAIN: Final = 3600.0
"""Seconds between looks at the server's settings and the certificate's age."""
RETRY: Final = (60.0, 3600.0)
"""The first and the longest wait after a renewal that failed."""


@dataclass(frozen=True)
class Access:
    """How the server is asked, and as whom.

    Attributes:
        renew_before_days: what is left of the certificate when it is renewed.
        expected: the server may be expected to answer: there is a tunnel, or this computer is inside.
    """

    identity: Identity
    trust: str
    proxy: Proxy | None
    settings: ClientSettings
    renew_before_days: int
    expected: bool


class Agent(Protocol):
    """What is needed of it."""

    files: ClientFiles

    def access(self) -> Access: ...
    async def renew(self) -> None: ...
    async def adopt(self, settings: ClientSettings) -> None: ...
    def adopt_revoked(self) -> None: ...


class Currency:
    """The work in the background."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.problem = ""
        """Why the certificate is not renewed though it should be."""
        self.came_up = asyncio.Event()
        """Set when a tunnel comes up: the settings may be new."""

    async def keep(self) -> None:
        """Looks now and then, until cancelled."""
        failures = 0
        while True:
            access = self._agent.access()
            due = is_due(access.identity.certificate, access.renew_before_days, datetime.now(UTC))
            try:
                if due:
                    await self._agent.renew()
                if access.expected:
                    await self._refresh()
                failures, self.problem = 0, ""
            except PorticoError as error:
                failures += 1
                log.warning("%s", error)
                if due:
                    self.problem = f"The certificate is not renewed: {error}"
            wait = min(RETRY[0] * 2.0 ** min(failures - 1, 10), RETRY[1]) if failures else LOOK_AGAIN
            # A tunnel that comes up is a reason to look. Not all clients at the same moment.
            # Not wait_for: it forgets a cancellation that comes together with the event (Python before 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self.came_up.wait()
                self.came_up.clear()
                await asyncio.sleep(random.uniform(0.5, 5.0))  # noqa: S311

    async def _refresh(self) -> None:
        """Raises PorticoError."""
        access = self._agent.access()
        asked = (access.identity, access.trust, access.settings.url, access.proxy)
        settings = await asyncio.to_thread(enrol.fetch_settings, *asked)
        if settings != access.settings:
            log.info("settings revision=%d before=%d", settings.revision, access.settings.revision)
            await self._agent.adopt(settings)
        revoked = await asyncio.to_thread(enrol.fetch_revoked, *asked)
        if revoked is not None and take_revoked(self._agent.files, revoked, access.trust):
            self._agent.adopt_revoked()


def take_revoked(files: ClientFiles, pem: str, trust: str) -> bool:
    """Keeps a revocation list when it is newer than the one that is there; whether it was.

    Raises:
        InvalidInput: code CRL_DAMAGED or CRL_FOREIGN; the one that is there stays.
        Unavailable: code FILE_NOT_WRITTEN.
    """
    new, old = parse_revoked(pem, trust), files.revoked()
    if old is not None:
        with contextlib.suppress(PorticoError):  # one that is damaged, or of a CA before, is replaced
            if parse_revoked(old, trust).number >= new.number:
                return False
    files.save_revoked(pem)
    return True
