"""Looks that take long: each runs in the background at its own interval, and what it saw last is part of observations.

A feature adds its own: a type for what is seen, and a probe in `PROBES` that makes one. Heuristics get it with
`Observations.extra(TheType)`. A probe that fails or takes too long keeps what it saw before for three intervals; then
nothing is known (None), which heuristics say as Unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portico.server.health.backup_probe import look_at_backups
from portico.server.health.boot_probe import look_at_network_configuration
from portico.server.health.dns_probe import ask_dns_servers

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.health")

KEPT_INTERVALS = 3
FIRST_SECONDS = 6.0
UNCONFIGURED_INTERVAL = 1.0
"""Seconds until settings are looked for again."""


@dataclass(frozen=True)
class Probe:
    """A look.

    Attributes:
        interval: seconds from the end of one to the beginning of the next.
        timeout: seconds after which it is given up.
        look: what is seen; None when there is nothing to look at.
    """

    name: str
    interval: float
    timeout: float
    look: Callable[[Agent], Awaitable[Any]]


PROBES: list[Probe] = [
    Probe("dns servers", interval=20.0, timeout=30.0, look=ask_dns_servers),
    Probe("backups", interval=20.0, timeout=10.0, look=look_at_backups),
    Probe("network configuration", interval=60.0, timeout=30.0, look=look_at_network_configuration),
]


class Probes:
    """Runs all probes; gives what they saw by type."""

    def __init__(self, agent: Agent, probes: list[Probe] | None = None) -> None:
        self._agent = agent
        self._probes = list(PROBES if probes is None else probes)
        self._seen: dict[str, tuple[float, Any]] = {}
        self._all = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for probe in self._probes:
                group.create_task(self._repeat(probe), name=f"probe {probe.name}")

    async def first(self) -> None:
        """Waits until each probe looked once, for some seconds at most: a start is no reason to know nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await self._all.wait()

    def seen(self) -> dict[type[Any], Any]:
        """The last look of each probe that is not too old."""
        now = time.monotonic()
        found: dict[type[Any], Any] = {}
        for probe in self._probes:
            at, value = self._seen.get(probe.name, (0.0, None))
            if value is not None and now - at <= KEPT_INTERVALS * probe.interval + probe.timeout:
                found[type(value)] = value
        return found

    async def _repeat(self, probe: Probe) -> None:
        trouble = ""
        while True:
            try:
                async with asyncio.timeout(probe.timeout):
                    value = await probe.look(self._agent)
                self._seen[probe.name] = (time.monotonic(), value)
                if len(self._seen) == len(self._probes):
                    self._all.set()
                trouble = ""
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                if text != trouble:
                    log.warning("probe=%r failed: %s", probe.name, text)
                trouble = text
            await asyncio.sleep(probe.interval if self._agent.platform.settings is not None else UNCONFIGURED_INTERVAL)
