"""The server's agent: owns the settings in force, changes them as transactions, keeps the machine as they say.

A change is verified, stored as a new revision, applied; when that fails the former settings are applied again, also in
the kernel, and stored as the newest revision, so that what is stored and what is in force never differ for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portico import __version__
from portico.certificates.revocation import revoke, revoke_foreign
from portico.connected import Door
from portico.errors import NotFound, PorticoError, Unavailable
from portico.files import private_directory, read_file, write_file
from portico.server.balancer.boots import BOOT_NAME, Boots
from portico.server.balancer.handle import Balancer
from portico.server.clients import Client, clients, session_name
from portico.server.credentials import Credentials, now_utc
from portico.server.enrolment import Enrolment
from portico.server.facts import Prober
from portico.server.gateway import Gateway, Request, Response
from portico.server.inbox import Inbox
from portico.server.machine import Machine, write_own_name
from portico.server.peers.distribution import Change
from portico.server.peers.peers import Peers
from portico.server.platform import Platform
from portico.server.progress import Progress, Stage
from portico.server.reconcile.monitor import Monitor
from portico.server.translation import Translation
from portico.settings.diff import Difference, compare
from portico.settings.effective import Effective, effective
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused, errors
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, Revision, SettingsStore

log = logging.getLogger("portico.server")

SEEN_NAME = "seen.json"
PROGRESS_NAME = "revisions.json"
LOOK_INTERVAL = 3.0
"""Seconds between looks at the kernel when netlink reports nothing: sysctls change silently."""
UPKEEP_INTERVAL = 60.0
CRL_INTERVAL = 24 * 3600.0
RETRY_INTERVAL = 2.0
REMEMBERED_DRIFT = 100
HEALTH_INTERVAL = 0.1
GATEWAY_PATIENCE = 1.5
"""Seconds for which a gateway may be away before its server's clients are sent to others."""


class ApplyFailed(PorticoError):
    """A change that could not be applied. The former settings are in force again."""

    code = "APPLY_FAILED"


@dataclass(frozen=True)
class Outcome:
    """What a change did, or would do (`revision` None).

    Attributes:
        kernel: what was changed in the kernel, in words.
    """

    revision: Revision | None
    difference: Difference
    problems: list[Problem]
    connected: int
    kernel: list[str] = field(default_factory=list)


@dataclass
class Drift:
    """Something else changed what Portico manages. Times in seconds since the epoch."""

    at: float
    changes: list[str]
    repaired: bool
    error: str | None = None


class Agent:
    """One server's agent.

    Args:
        state: the directory of everything that outlives a restart.
        logs: the directory of records that others may collect; None is one below `state`.
        door: where the gateway of the unit connects; None starts gateways as children of this process.
        balancer_door: where the balancer of the unit connects; None starts it under the agent's account.
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
        probe: Prober | None = None,
    ) -> None:
        self.state = private_directory(state)
        self.credentials = Credentials.open(state)
        self.platform = Platform(state, self.credentials, self._answer, self._spawn, self._reported, door)
        boots = Boots(state / BOOT_NAME)
        gateway = self.platform.gateway
        self.balancer = Balancer(gateway.sessions, gateway.disconnect, self._spawn, boots, balancer_door)
        asking = probe if balancer_door is None else self.balancer.ask_link
        self.machine = Machine(state, self.credentials, self.platform.kernel, asking)
        self.translation = Translation(self.platform, logs if logs is not None else state / "log", self._sessions)
        self.inbox = Inbox(state / "accounting", lambda: self.platform.settings, gateway.sessions)
        self.progress = Progress(state / PROGRESS_NAME)
        self.enrolment = Enrolment(self.credentials, self._current, now_utc)
        self.drifts: deque[Drift] = deque(maxlen=REMEMBERED_DRIFT)
        self.drifting: list[str] = []
        """What differs now and is not repaired (`drift: report`, or the repair failed)."""
        self.problem: PorticoError | None = None
        """Why nothing, or not everything, is served."""
        self.unwritten: PorticoError | None = None
        """Why the settings in force are not in the file that the next start serves from."""
        self.revision: Revision | None = None
        self.started = time.time()
        self._store: SettingsStore | None = None
        self._changing = asyncio.Lock()
        self._look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._monitor = Monitor(self._look.set)
        self._seen = _read_seen(state / SEEN_NAME)
        self.peers = Peers(self, self._spawn)

    @property
    def gateway(self) -> Gateway:
        return self.platform.gateway

    def store(self) -> SettingsStore:
        """The settings store. Raises the PorticoError that keeps it closed."""
        if self._store is None or self._store.read_only:
            try:
                fresh = SettingsStore.open(self.state)
            except PorticoError:
                if self._store is None:
                    raise
            else:
                if self._store is not None:
                    self._store.close()
                self._store = fresh
        return self._store

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
        self._monitor.start()
        await self.peers.start()
        async with self._changing:
            await self._begin()
        self._spawn(self._watch())
        self._spawn(self._upkeep())
        self._spawn(self._watch_health())
        self._spawn(self.translation.accounting.run())
        self._spawn(self.inbox.run())

    async def stop(self) -> list[str]:
        """Stops serving and leaves no trace in the kernel; returns what could not be removed, in words."""
        self._monitor.stop()
        await self.peers.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.balancer.stop()
        failures = await self.platform.stop()
        if self.gateway.door is not None:
            self.gateway.door.close()
        self.balancer.close()
        await self.translation.accounting.stop()
        await self.inbox.stop()
        self._write_seen()
        self.credentials.close()
        if self._store is not None:
            self._store.close()
        return failures

    async def _begin(self) -> None:
        try:
            store = await asyncio.to_thread(self.store)
            applied = await asyncio.to_thread(store.applied)
            latest = await asyncio.to_thread(store.latest)
            if store.damage is not None:
                log.error("settings=read-only why=%r", str(store.damage))
            if applied is None:
                lost = await asyncio.to_thread(store.applied_problem)
                if lost is not None and lost.code != "FILE_MISSING":
                    log.warning("the newest settings serve: %s", lost)
        except PorticoError as error:
            self._trouble(error)
            return
        if (
            self.peers.state is not None
            and latest is not None
            and applied is not None
            and latest.number > applied.number
        ):
            # The other servers have it in force: going through the former one would only show clients two clusters.
            try:
                await self._enforce(latest)
                return
            except PorticoError as error:
                self.progress.note(latest.number, Stage.FAILED, time.time(), error=error)
                latest = applied
        start = applied if applied is not None else latest
        if start is None:
            if self.problem is None or self.problem.code != "NOT_IN_CLUSTER":  # which says more
                self._trouble(_not_installed())
            return
        try:
            await self._enforce(start)
        except PorticoError as error:
            self._trouble(error)
            return
        self.problem = None
        if latest is not None and applied is not None and latest.number > applied.number:
            log.info("revision=%d was stored but not applied; applying it now", latest.number)
            try:
                await self._transition(latest, applied)
            except PorticoError as error:
                log.error("revision=%d %s", latest.number, error)

    # Settings

    async def check(self, settings: Settings, *, resolve: bool = False) -> list[Problem]:
        """Everything wrong with a document on this machine."""
        return await asyncio.to_thread(lambda: self.machine.check(settings, resolve=resolve))

    async def change(
        self,
        settings: Settings,
        *,
        expected: int | None,
        author: str,
        comment: str = "",
        dry_run: bool = False,
        lost: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Verifies, stores and applies a document on all servers, or only says what that would do.

        Args:
            expected: the revision the change was made on; None takes the newest there is.
            lost: servers that the change takes out and that are gone for good.

        Raises:
            SettingsRefused: verification found errors; nothing was stored.
            Conflict: somebody else stored a revision first.
            ApplyFailed: it was stored but could not be applied; the former settings are in force and stored again.
        """
        async with self._changing:
            store = await asyncio.to_thread(self.store)
            latest = await asyncio.to_thread(store.latest)
            former = latest.settings if latest is not None else None
            problems = await self.check(settings)
            if errors(problems):
                raise SettingsRefused("The settings are refused", problems)
            connected = len(await self._sessions())
            difference = compare(former, settings)
            if dry_run:
                return Outcome(None, difference, problems, connected)
            number = latest.number if latest is not None else 0
            before = self.revision
            try:
                async with self.peers.change(latest, settings, lost) as everywhere:
                    revision = await asyncio.to_thread(
                        lambda: store.commit(
                            settings,
                            expected=expected if expected is not None else number,
                            author=author,
                            comment=comment,
                            now=now_utc(),
                        )
                    )
                    self.progress.note(revision.number, Stage.DISTRIBUTED, time.time())
                    kernel = await self._transition(revision, before)
                    if everywhere is not None and before is not None and before.number != revision.number:
                        await self._everywhere(everywhere, revision, before)
            finally:
                await self.peers.changed()
            return Outcome(revision, difference, problems, connected, kernel)

    async def _everywhere(self, change: Change, revision: Revision, former: Revision) -> None:
        """Has the other servers apply what is in force here, or puts the former document back, here first."""
        try:
            await change.apply(revision)
        except PorticoError as error:
            self.progress.note(revision.number, Stage.FAILED, time.time(), error=error)
            back = await self._back_to(former, revision, error)
            raise ApplyFailed(
                f"Revision {revision.number} cannot be applied on all servers; revision {former.number} is in force "
                f"again as revision {back}",
                why=f"{error.what}: {error.why}",
                resolution=error.resolution or "Correct the settings and apply them again",
            ) from error

    async def rollback(self, number: int, *, author: str, dry_run: bool = False) -> Outcome:
        """Makes the document of an earlier revision the newest one. Raises as `change`; NotFound."""
        store = await asyncio.to_thread(self.store)
        settings = (await asyncio.to_thread(store.get, number)).settings
        return await self.change(
            settings, expected=None, author=author, comment=f"restored revision {number}", dry_run=dry_run
        )

    async def _transition(self, revision: Revision, former: Revision | None) -> list[str]:
        """Applies a stored revision, or puts the former one back and says so."""
        self.progress.note(revision.number, Stage.RETRIEVED, time.time())
        try:
            return await self._enforce(revision)
        except PorticoError as error:
            self.progress.note(revision.number, Stage.FAILED, time.time(), error=error)
            if former is None or former.number == revision.number:
                self._trouble(error)
                raise ApplyFailed(
                    f"Revision {revision.number} cannot be applied", why=str(error), resolution=error.resolution
                ) from error
            back = await self._back_to(former, revision, error)
            raise ApplyFailed(
                f"Revision {revision.number} cannot be applied; revision {former.number} is in force again"
                + (f" as revision {back}" if back != former.number else ""),
                why=str(error),
                resolution=error.resolution or "Correct the settings and apply them again",
            ) from error

    async def _back_to(self, former: Revision, failed: Revision, error: PorticoError) -> int:
        number = former.number
        try:
            store = self.store()
            restored = await asyncio.to_thread(
                lambda: store.restore(
                    former.number,
                    expected=failed.number,
                    author="portico",
                    comment=f"rolled back: revision {failed.number} failed: {error.what}",
                    now=now_utc(),
                )
            )
            self.progress.note(restored.number, Stage.DISTRIBUTED, time.time())
            former, number = restored, restored.number
        except PorticoError as problem:
            log.error("revision=%d cannot be stored again: %s", former.number, problem)
        self.progress.rolled_back(failed.number, number)
        try:
            await self._enforce(former)
        except PorticoError as problem:
            self._trouble(problem)
        return number

    async def _enforce(self, revision: Revision) -> list[str]:
        settings = await asyncio.to_thread(self.machine.localise, revision.settings)
        facts = await asyncio.to_thread(self.machine.facts)
        values = _derive(settings, facts)
        changes = await self.platform.apply(settings, values)
        await asyncio.to_thread(self.machine.settle, settings)
        await self.peers.applied(revision.settings)
        await self.balancer.apply(settings, revision.number, self.peers.secrets())
        await self.translation.applied(settings, values)
        store = self.store()
        if not store.read_only:
            try:
                await asyncio.to_thread(store.mark_applied, revision)
                self.unwritten = None
            except PorticoError as error:
                # It is stored and in force; the next start applies it anew from the revisions.
                log.error("%s", error)
                self.unwritten = error
        self.revision, self.problem, self.drifting = revision, None, []
        self.progress.note(revision.number, Stage.APPLIED, time.time())
        for change in changes:
            log.info("kernel=%r", str(change))
        return [str(change) for change in changes]

    # For the other servers

    async def follow(self, revisions: list[Revision]) -> None:
        """Stores and applies what another server of the cluster has, its newest last; empty: what is stored already.

        Raises:
            ApplyFailed: the former document is in force again here, and tried again later.
        """
        async with self._changing:
            store = await asyncio.to_thread(self.store)
            newest = (
                await asyncio.to_thread(store.adopt, revisions) if revisions else await asyncio.to_thread(store.latest)
            )
            former = self.revision
            if newest is None or (former is not None and former.sha256 == newest.sha256 and not revisions):
                return
            self.progress.note(newest.number, Stage.RETRIEVED, time.time())
            try:
                await self._enforce(newest)
            except PorticoError as error:
                self.progress.note(newest.number, Stage.FAILED, time.time(), error=error)
                if former is not None:
                    try:
                        await self._enforce(former)
                    except PorticoError as problem:
                        self._trouble(problem)
                raise ApplyFailed(
                    f"Revision {newest.number} cannot be applied", why=str(error), resolution=error.resolution
                ) from error

    async def leave(self, by: str) -> None:
        """This server was taken out of its cluster: it stops serving and keeps nothing of what it was given."""
        async with self._changing:
            await self.balancer.stop()
            for failure in await self.platform.stop():
                log.error("left behind: %s", failure)
            self.platform.settings = self.platform.values = self.revision = None
            if self._store is not None:
                self._store.close()
                self._store = None
            for path in self.state.glob(f"{DATABASE_NAME}*"):
                path.unlink(missing_ok=True)
            (self.state / APPLIED_NAME).unlink(missing_ok=True)
            write_own_name(self.state, None)
            self.credentials.forget()
            self._trouble(
                Unavailable(
                    "This server was taken out of its cluster",
                    why=f"{by} said so",
                    resolution="Let it join again with a new token: portico lb add NAME, on a server of the cluster",
                    code="NOT_IN_CLUSTER",
                )
            )

    async def refresh_revoked(self) -> int:
        """Gives the gateway what other servers revoked or rotated; returns how many tunnels were closed for it."""
        async with self._changing:
            await self.platform.refresh()
        return await self._close_revoked()

    async def _close_revoked(self) -> int:
        gone = {(entry.issuer_sha256, entry.serial) for entry in self.credentials.revoked}
        doomed = [int(s["session"]) for s in await self._sessions() if _identity(s) in gone]
        return await self.platform.gateway.disconnect(doomed)

    async def own_sessions(self) -> list[dict[str, Any]]:
        """The tunnels of this server."""
        return await self._sessions()

    async def disconnect_here(self, name: str) -> int:
        """Closes a client's tunnels on this server; it may dial again."""
        return await self.platform.gateway.disconnect(
            [int(s["session"]) for s in await self._sessions() if session_name(s) == name]
        )

    async def command(self, name: str, *, by: str) -> None:
        """start, stop, drain, suspend or resume of this server. Raises as `Balancer.command`."""
        log.info("command=%r by=%s", name, by)
        await self.balancer.command(name)

    # Keeping it so

    async def _watch(self) -> None:
        while True:
            # Not wait_for: it forgets a cancellation that comes together with the event (Python before 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._look.wait()
            self._look.clear()
            async with self._changing:
                await self.look()
            if self.problem is not None or self.drifting:
                await asyncio.sleep(RETRY_INTERVAL)  # what cannot be put right would be tried on every message

    async def look(self) -> None:
        """Compares the machine with the settings in force; repairs or reports, by name."""
        if self.problem is not None:
            await self._begin()
            return
        settings = self.platform.settings
        if settings is None:
            return
        try:
            changes = await self.platform.drift()
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
            await self.platform.repair()
        except PorticoError as error:
            error_text = str(error)
        if error_text is None or names != self.drifting:
            log.warning("drift=%s changes=%r", "repaired" if error_text is None else "not repaired", names)
            self.drifts.append(Drift(time.time(), names, error_text is None, error_text))
        self.drifting = [] if error_text is None else names

    async def _watch_health(self) -> None:
        """Tells the other servers when clients cannot be served here. A gateway that is being replaced can wait: its
        clients wait in the listeners' backlog, and would lose more by moving."""
        broken_since: float | None = None
        while True:
            await asyncio.sleep(HEALTH_INTERVAL)
            why = "" if self.platform.gateway.running else "the gateway does not run"
            if self.platform.settings is None:
                why = str(self.problem) if self.problem is not None else "there are no settings in force"
            if not why:
                broken_since = None
                await self.balancer.health(True)
                continue
            now = time.monotonic()
            broken_since = broken_since if broken_since is not None else now
            if now - broken_since >= GATEWAY_PATIENCE or self.platform.settings is None:
                await self.balancer.health(False, why)

    async def _upkeep(self) -> None:
        written = -CRL_INTERVAL
        while True:
            await asyncio.sleep(UPKEEP_INTERVAL)
            async with self._changing:
                try:
                    if time.monotonic() - written >= CRL_INTERVAL:
                        await asyncio.to_thread(self.credentials.write_crl, now_utc())
                        written = time.monotonic()
                    await self.platform.refresh()
                    if self.platform.settings is not None and self.revision is not None:
                        # Heartbeat keys rotate without a change of settings.
                        await self.balancer.apply(self.platform.settings, self.revision.number, self.peers.secrets())
                except PorticoError as error:
                    log.warning("certificates and keys cannot be refreshed: %s", error)
            await self._note_seen()

    # Clients

    async def clients(self) -> list[Client]:
        """Every remote computer that was enrolled or is connected, to whichever server of the cluster."""
        sessions = await self._sessions()
        if self.peers.state is not None:
            sessions = [{**session, "server": self.peers.own_name} for session in sessions]
            sessions += await self.peers.sessions()
        store = self.credentials.store
        issued = await asyncio.to_thread(lambda: store.issued(kind="client", limit=100_000)) if store else []
        return clients(issued, sessions, self._seen, now_utc())

    async def client(self, name: str) -> Client:
        """Raises NotFound."""
        for client in await self.clients():
            if client.name == name:
                return client
        raise NotFound(
            f"There is no client {name}",
            why="no certificate was issued to it and it is not connected",
            resolution="List them with: portico clients list",
        )

    async def disconnect(self, name: str) -> int:
        """Closes a client's tunnels; it may dial again. Raises NotFound."""
        await self.client(name)
        closed = await self.disconnect_here(name) + await self.peers.disconnect(name)
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
        sessions = await self._sessions()
        store = self.credentials.usable_store()
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
        async with self._changing:  # a change in flight holds a list of revoked certificates without these
            await self.platform.refresh()
        closed = await self._close_revoked()
        before, after = len(sessions), len(await self._sessions())
        await self.peers.changed()
        await asyncio.to_thread(self.credentials.write_crl, now_utc())
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
                self.credentials.usable_store(),
                issuer_sha256=identity[0],
                serial=identity[1],
                name=session_name(session),
                reason=reason,
                now=now_utc(),
            ):
                done.append(identity[1])
        return done

    # Status

    async def status(self) -> dict[str, Any]:
        """Everything `portico server status` shows. Never raises because something is broken: it says what."""
        store = self._store
        values = self.platform.values
        try:
            sessions: int | None = len(await self._sessions())
            counters = await self.platform.gateway.stats()
        except PorticoError:
            sessions, counters = None, {}
        return {
            "version": __version__,
            "started": self.started,
            "serving": self.problem is None and self.platform.gateway.running,
            "problem": self.problem.as_dict() if self.problem is not None else None,
            "revision": self.revision.number if self.revision is not None else None,
            "settings_read_only": store is None or store.read_only,
            "settings_damage": str(store.damage) if store is not None and store.damage is not None else None,
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
                    self.unwritten,
                    self.translation.accounting.problem(),
                    self.inbox.problem(),
                    *self.credentials.warnings.values(),
                )
                if error is not None
            ],
            "revisions": self.progress.as_list()[:10],
            "cluster": self.peers.status(),
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

    async def _answer(self, request: Request) -> Response:
        return await self.peers.answer(request)

    async def _sessions(self) -> list[dict[str, Any]]:
        sessions: list[dict[str, Any]] = await self.platform.gateway.sessions()
        now = time.time()
        for session in sessions:
            self._seen[session_name(session)] = now
        return sessions

    async def _note_seen(self) -> None:
        try:
            await self._sessions()
        except PorticoError:
            return
        await asyncio.to_thread(self._write_seen)

    def _write_seen(self) -> None:
        newest = sorted(self._seen.items(), key=lambda item: item[1])[-100_000:]
        try:
            write_file(self.state / SEEN_NAME, json.dumps(dict(newest)).encode())
        except PorticoError as error:
            log.warning("%s", error)

    def _trouble(self, error: PorticoError) -> None:
        if str(error) != str(self.problem):
            log.error("not serving: %s", error)
        self.problem = error

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


def _derive(settings: Settings, facts: Any) -> Effective:
    try:
        return effective(settings, facts)
    except ValueError as error:
        raise PorticoError("The settings cannot be applied", why=str(error), code="SETTINGS_REFUSED") from None


def _identity(session: dict[str, Any]) -> tuple[str, str] | None:
    identity = session.get("identity")
    if not isinstance(identity, dict):
        return None
    return str(identity.get("issuer_sha256")), str(identity.get("serial"))


def _read_seen(path: Path) -> dict[str, float]:
    try:
        return {str(name): float(at) for name, at in json.loads(read_file(path, limit=64 << 20)).items()}
    except NotFound:
        return {}
    except (PorticoError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        log.warning("file=%s cannot be read, when clients were last seen is forgotten: %s", path, error)
        return {}


def _not_installed() -> PorticoError:
    return Unavailable(
        "This server has no settings",
        why="nothing was installed yet",
        resolution="Install it: portico server install",
        code="NOT_INSTALLED",
    )
