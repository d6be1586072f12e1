"""Keeping the machine as the settings in force say: drift, health, and what goes stale by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portico.errors import PorticoError
from portico.server.credentials import now_utc
from portico.server.reconcile.monitor import Monitor

if TYPE_CHECKING:
    from portico.server.agent import Agent
    from portico.server.transactions import Transactions

log = logging.getLogger("portico.server")

LOOK_INTERVAL = 3.0
"""Seconds between looks at the kernel when netlink reports nothing: sysctls change silently."""
UPKEEP_INTERVAL = 60.0
CRL_INTERVAL = 24 * 3600.0
RETRY_INTERVAL = 1.0
REMEMBERED_DRIFT = 100
HEALTH_INTERVAL = 0.1
GATEWAY_PATIENCE = 1.5
"""Seconds for which a gateway may be away before its server's clients are sent to others."""


@dataclass
class Drift:
    """Something else changed what Portico manages. Times in seconds since the epoch."""

    at: float
    changes: list[str]
    repaired: bool
    error: str | None = None


class Upkeep:
    """What runs as long as the agent does.

    Attributes:
        drifts: what differed lately, oldest first.
        drifting: what differs now and is not repaired (`drift: report`, or the repair failed).
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.drifts: deque[Drift] = deque(maxlen=REMEMBERED_DRIFT)
        self.drifting: list[str] = []
        self._look = asyncio.Event()
        self._monitor = Monitor(self._look.set)

    @property
    def _in_force(self) -> Transactions:
        return self._agent.transactions

    def open(self) -> None:
        """Listens to the kernel from now on."""
        self._monitor.start()
        self._agent.platform.files.open()

    def close(self) -> None:
        self._monitor.stop()
        self._agent.platform.files.close()

    async def watch(self) -> None:
        """Looks when the kernel reports something, and now and then."""
        while True:
            # Not wait_for: it forgets a cancellation that comes together with the event (Python before 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._look.wait()
            self._look.clear()
            async with self._in_force.lock:
                await self.look()
            if self._in_force.problem is not None or self.drifting:
                await asyncio.sleep(RETRY_INTERVAL)  # what cannot be put right would be tried on every message

    async def look(self) -> None:
        """Compares the machine with the settings in force; repairs or reports, by name."""
        settings = self._agent.platform.settings
        if self._in_force.problem is not None or settings is None:
            self._agent.platform.files.forget()
            if self._in_force.problem is not None:
                await self._in_force.begin()
            return
        try:
            changes = await self._agent.platform.drift()
        except PorticoError as error:
            log.warning("drift cannot be looked for: %s", error)
            return
        names = [str(change) for change in changes]
        if not names:
            self.drifting = []
            return
        if settings.drift == "report":
            if names != self.drifting:
                log.warning("drift=reported changes=%r", names)
                self.drifts.append(Drift(time.time(), names, False))
            self.drifting = names
            return
        error_text: str | None = None
        try:
            await self._agent.platform.repair()
        except PorticoError as error:
            error_text = str(error)
        if error_text is None or names != self.drifting:
            log.warning("drift=%s changes=%r", "repaired" if error_text is None else "not repaired", names)
            self.drifts.append(Drift(time.time(), names, error_text is None, error_text))
        self.drifting = [] if error_text is None else names

    async def watch_health(self) -> None:
        """Tells the other servers when clients cannot be served here. A gateway that is being replaced can wait: its
        clients wait in the listeners' backlog, and would lose more by moving."""
        platform, balancer = self._agent.platform, self._agent.balancer
        broken_since: float | None = None
        while True:
            await asyncio.sleep(HEALTH_INTERVAL)
            why = "" if platform.gateway.running else "the gateway does not run"
            if platform.settings is None:
                problem = self._in_force.problem
                why = str(problem) if problem is not None else "there are no settings in force"
            if not why:
                broken_since = None
                await balancer.health(True)
                continue
            now = time.monotonic()
            broken_since = broken_since if broken_since is not None else now
            if now - broken_since >= GATEWAY_PATIENCE or platform.settings is None:
                await balancer.health(False, why)

    async def refresh(self) -> None:
        """Renews what has a date: certificates, keys, the list of revoked certificates."""
        agent, written = self._agent, -CRL_INTERVAL
        while True:
            await asyncio.sleep(UPKEEP_INTERVAL)
            async with self._in_force.lock:
                try:
                    if time.monotonic() - written >= CRL_INTERVAL:
                        await asyncio.to_thread(agent.credentials.write_crl, now_utc())
                        written = time.monotonic()
                    await agent.platform.refresh()
                    settings, revision = agent.platform.settings, self._in_force.revision
                    if settings is not None and revision is not None:
                        # Heartbeat keys rotate without a change of settings.
                        await agent.balancer.apply(settings, revision.number, agent.peers.secrets())
                except PorticoError as error:
                    log.warning("certificates and keys cannot be refreshed: %s", error)
            await agent.roster.note_seen()
