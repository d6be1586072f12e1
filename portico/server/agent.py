"""The server's agent: owns the parts of one server, starts and stops them, and says how it is.

What it does with them has rooms of its own: `transactions` has the settings in force and changes them, `upkeep` keeps
the machine as they say, `roster` knows the remote computers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from portico import __version__
from portico.administration.access import Access
from portico.connected import Door
from portico.errors import PorticoError
from portico.files import private_directory
from portico.server.backup.schedule import Backups
from portico.server.balancer.boots import BOOT_NAME, Boots
from portico.server.balancer.handle import Balancer
from portico.server.credentials import Credentials, now_utc
from portico.server.enrolment import Enrolment
from portico.server.facts import Prober
from portico.server.gateway import Gateway, Request, Response
from portico.server.health.service import Health
from portico.server.inbox import Inbox
from portico.server.location.location import Location
from portico.server.machine import Machine
from portico.server.peers.peers import Peers
from portico.server.platform import Platform
from portico.server.progress import Progress
from portico.server.roster import Roster
from portico.server.transactions import ApplyFailed, Outcome, Transactions
from portico.server.translation import Translation
from portico.server.upkeep import Drift, Upkeep
from portico.server.users.users import Users
from portico.settings.effective import Effective
from portico.settings.model import Settings
from portico.settings.store import Revision

__all__ = ["Agent", "ApplyFailed", "Outcome"]

log = logging.getLogger("portico.server")

PROGRESS_NAME = "revisions.json"


class Agent:
    """One server's agent.

    Args:
        state: the directory of everything that outlives a restart.
        logs: the directory of records that others may collect; None is one below `state`.
        door: where the gateway of the unit connects; None starts gateways as children of this process.
        balancer_door: where the balancer of the unit connects; None starts it under the agent's account.
        store_door: where the etcd of the unit connects; None starts it under the agent's account.
        probe: asks the link who has an address, before it is taken as a dedicated one. The unit's balancer does it when
            there is one.

    Raises:
        Unavailable: the directory cannot be made.
    """

    def __init__(
        self,
        state: Path,
        logs: Path | None = None,
        *,
        door: Door | None = None,
        balancer_door: Door | None = None,
        store_door: Door | None = None,
        location_door: Door | None = None,
        probe: Prober | None = None,
    ) -> None:
        self.state = private_directory(state)
        self.credentials = Credentials.open(state)
        self.transactions = transactions = Transactions(self)
        self.upkeep = upkeep = Upkeep(self)
        self.roster = roster = Roster(self)
        self.platform = Platform(state, self.credentials, self._answer, self._spawn, self._reported, door)
        boots = Boots(state / BOOT_NAME)
        gateway = self.platform.gateway
        self.balancer = Balancer(gateway.sessions, gateway.disconnect, self._spawn, boots, balancer_door)
        asking = probe if balancer_door is None else self.balancer.ask_link
        self.machine = Machine(state, self.credentials, self.platform.kernel, asking)
        self.translation = Translation(self.platform, logs if logs is not None else state / "log", roster.sessions)
        self.inbox = Inbox(state / "accounting", lambda: self.platform.settings, gateway.sessions)
        self.progress = Progress(state / PROGRESS_NAME)
        self.enrolment = Enrolment(self.credentials, self._current, now_utc)
        self.started = time.time()
        self.access = Access(
            state, logs if logs is not None else state / "log", lambda: self.platform.settings, self._tell, now_utc
        )
        self.users = Users(self)
        self.enrolment.users = self.users.routes
        self.peers = Peers(self, self._spawn, store_door=store_door)
        self.balancer.heard = self.peers.heard
        self.health = Health(self)
        self.peers.own_health = self.health.own_data
        self.backups = Backups(self)
        self.location = Location(self, state, self.peers.leads, location_door)
        self._tasks: set[asyncio.Task[None]] = set()
        # What the API, the other servers and the gateway ask of the agent is done in its rooms.
        self.store, self.check, self.change = transactions.store, transactions.check, transactions.change
        self.rollback, self.follow, self.leave = transactions.rollback, transactions.follow, transactions.leave
        self.clients, self.client, self.clients_page = roster.clients, roster.client, roster.page
        self.disconnect, self.disconnect_here = roster.disconnect, roster.disconnect_here
        self.revoke, self.refresh_revoked = roster.revoke, roster.refresh_revoked
        self.own_sessions = roster.sessions
        self.look = upkeep.look

    @property
    def gateway(self) -> Gateway:
        return self.platform.gateway

    @property
    def revision(self) -> Revision | None:
        """What is in force."""
        return self.transactions.revision

    @property
    def problem(self) -> PorticoError | None:
        """Why nothing, or not everything, is served."""
        return self.transactions.problem

    @property
    def drifts(self) -> deque[Drift]:
        return self.upkeep.drifts

    @property
    def drifting(self) -> list[str]:
        return self.upkeep.drifting

    # Life

    async def start(self) -> None:
        """Serves from the last applied revision, then takes up a newer one that was stored but not applied.

        Never fails because of the settings or the machine: `problem` says what is wrong, and it is tried again.

        Raises:
            Unavailable: the other units cannot connect, as the agent's own unit is wrong.
        """
        if self.gateway.door is not None:
            self.gateway.door.open()
        self.balancer.open()
        self.location.open()
        self.upkeep.open()
        await self.peers.start()
        async with self.transactions.lock:
            await self.transactions.begin()
        self._spawn(self.upkeep.watch())
        self._spawn(self.upkeep.refresh())
        self._spawn(self.upkeep.watch_health())
        self._spawn(self.translation.accounting.run())
        self._spawn(self.inbox.run())
        self._spawn(self.health.run())
        self._spawn(self.location.run())
        self._spawn(self.users.run())
        self._spawn(self.backups.run())

    async def stop(self) -> list[str]:
        """Stops serving and leaves no trace in the kernel; returns what could not be removed, in words."""
        self.upkeep.close()
        await self.peers.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.location.stop()
        await self.balancer.stop()
        failures = await self.platform.stop()
        if self.gateway.door is not None:
            self.gateway.door.close()
        self.balancer.close()
        await self.translation.accounting.stop()
        await self.inbox.stop()
        self.roster.write_seen()
        await self.access.close()
        self.credentials.close()
        self.transactions.close()
        return failures

    async def command(self, name: str, *, by: str) -> None:
        """start, stop, drain, suspend or resume of this server. Raises as `Balancer.command`."""
        log.info("command=%r by=%s", name, by)
        await self.balancer.command(name)

    # Status

    async def status(self) -> dict[str, Any]:
        """Everything `portico server status` shows. Never raises because something is broken: it says what."""
        store = self.transactions.opened
        damage = (store.damage if store is not None else None) or self.peers.keeper.read_only()
        values = self.platform.values
        try:
            sessions: int | None = len(await self.roster.sessions())
            counters = await self.platform.gateway.stats()
        except PorticoError:
            sessions, counters = None, {}
        return {
            "version": __version__,
            "started": self.started,
            "serving": self.problem is None and self.platform.gateway.running,
            "problem": self.problem.as_dict() if self.problem is not None else None,
            "revision": self.revision.number if self.revision is not None else None,
            "settings_read_only": store is None or store.read_only or self.peers.keeper.read_only() is not None,
            "settings_damage": str(damage) if damage is not None else None,
            "url": values.url if values is not None else None,
            "gateway": self.platform.gateway.status(),
            "balancer": self.balancer.process(),
            "sessions": sessions,
            "counters": counters,
            "drifting": self.drifting,
            "drifts": [vars(drift) for drift in reversed(self.drifts)],
            "warnings": [
                error.as_dict()
                for error in (
                    self.transactions.unwritten,
                    self.transactions.interrupted.problem,
                    self.peers.farewell.problem(),
                    self.translation.accounting.problem(),
                    self.inbox.problem(),
                    *self.credentials.warnings.values(),
                    *self.access.problems(),
                    self.users.problem,
                )
                if error is not None
            ],
            "revisions": self.progress.as_list()[:10],
            "cluster": self.peers.status(),
            "location": self.location.status(),
        }

    # Small things

    def _current(self) -> tuple[Settings, Effective, int] | None:
        settings, values = self.platform.settings, self.platform.values
        if settings is None or values is None or self.revision is None:
            return None
        return settings, values, self.revision.number

    def _reported(self, event: dict[str, Any]) -> None:
        self.translation.event(event)
        self.balancer.gateway_event(event)
        self.inbox.event(event)
        self.users.event(event)

    async def _tell(self) -> None:
        await self.peers.changed()

    async def _answer(self, request: Request) -> Response:
        return await self.peers.answer(request)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("a background task failed")
