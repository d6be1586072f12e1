"""The settings in force on this server, and changes of them as transactions.

A change is verified, stored as a new revision, applied; when that fails the former settings are applied again, also in
the kernel, and stored as the newest revision, so that what is stored and what is in force never differ for long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from portico.administration.roles import acting
from portico.errors import PorticoError, Unavailable
from portico.files import remove_file
from portico.server.credentials import now_utc
from portico.server.interrupted import Interrupted
from portico.server.machine import write_own_name
from portico.server.peers.conflicts import told_what_others_changed
from portico.server.peers.distribution import Change
from portico.server.progress import Stage
from portico.settings.diff import Difference, compare
from portico.settings.document import dump
from portico.settings.effective import Effective, effective
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused, errors
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, Revision, SettingsStore, digest
from portico.settings.verify import verify_change

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.server")


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


class Transactions:
    """The settings in force, and what changes them.

    Attributes:
        lock: held by whoever changes, applies or repairs.
        revision: what is in force.
        problem: why nothing, or not everything, is served.
        unwritten: why the settings in force are not in the file that the next start serves from.
        interrupted: what became of a change that an earlier process could not finish.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.lock = asyncio.Lock()
        self.revision: Revision | None = None
        self.problem: PorticoError | None = None
        self.unwritten: PorticoError | None = None
        self.interrupted = Interrupted(agent.state)
        self._opened: SettingsStore | None = None
        self._opening = threading.Lock()

    @property
    def opened(self) -> SettingsStore | None:
        """The store, if it could be opened."""
        return self._opened

    def store(self) -> SettingsStore:
        """The settings store. Raises the PorticoError that keeps it closed."""
        found = self._opened
        if found is not None and not found.read_only:
            return found
        with self._opening:
            if self._opened is None or self._opened.read_only:
                try:
                    fresh = SettingsStore.open(self._agent.state)
                except PorticoError:
                    if self._opened is None:
                        raise
                else:
                    if self._opened is not None:
                        self._opened.close()
                    self._opened = fresh
                    fresh.decider = self._agent.peers.keeper.decider
            return self._opened

    def close(self) -> None:
        """Closes the store until it is asked for again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def begin(self) -> None:
        """Serves from the last applied revision or a newer one. Never fails; see `problem`. The lock is held."""
        await self._begin()
        await asyncio.to_thread(self._agent.progress.save)

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
            self.trouble(error)
            return
        if (
            latest is not None
            and applied is not None
            and latest.number > applied.number
            and (self._agent.peers.state is not None or self._agent.peers.farewell.outstanding())
        ):
            # The other servers have it in force: going through the former one would only show clients two clusters.
            # Of a cluster that ended they are being told so, and nothing of it can serve here any more.
            try:
                await self._enforce(latest)
                return
            except PorticoError as error:
                self._agent.progress.note(latest.number, Stage.FAILED, time.time(), error=error)
                latest = applied
        start = applied if applied is not None else latest
        if start is None:
            if self.problem is None or self.problem.code != "NOT_IN_CLUSTER":  # which says more
                self.trouble(_not_installed())
            return
        try:
            await self._enforce(start)
        except PorticoError as error:
            self.trouble(error)
            return
        self.problem = None
        if latest is not None and applied is not None and latest.number > applied.number:
            log.info("revision=%d was stored but not applied; applying it now", latest.number)
            try:
                await self._transition(latest, applied)
            except PorticoError as error:
                log.error("revision=%d %s", latest.number, error)

    async def check(self, settings: Settings, *, resolve: bool = False) -> list[Problem]:
        """Everything wrong with a document on this machine."""
        return await asyncio.to_thread(lambda: self._agent.machine.check(settings, resolve=resolve))

    @told_what_others_changed
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
        async with self.lock:
            store = await asyncio.to_thread(self.store)
            latest = await asyncio.to_thread(store.latest)
            former = latest.settings if latest is not None else None
            problems = [*verify_change(former, settings), *await self._agent.check(settings)]
            if errors(problems):
                raise SettingsRefused("The settings are refused", problems)
            connected = len(await self._agent.roster.sessions())
            difference = compare(former, settings)
            if dry_run:
                return Outcome(None, difference, problems, connected)
            number = latest.number if latest is not None else 0
            before = self.revision
            await asyncio.to_thread(
                lambda: self.interrupted.begin(latest, digest(dump(settings)), author=author, comment=comment)
            )
            try:
                async with self._agent.peers.change(latest, settings, lost) as everywhere:
                    revision = await asyncio.to_thread(
                        lambda: store.commit(
                            settings,
                            expected=expected if expected is not None else number,
                            author=acting(author),
                            comment=comment,
                            now=now_utc(),
                        )
                    )
                    self._agent.progress.note(revision.number, Stage.DISTRIBUTED, time.time())
                    kernel = await self._transition(revision, before)
                    if everywhere is not None and before is not None and before.number != revision.number:
                        await self._everywhere(everywhere, revision, before)
            finally:
                await asyncio.to_thread(self._ended)
                await self._agent.peers.changed()
            return Outcome(revision, difference, problems, connected, kernel)

    def _ended(self) -> None:
        self._agent.progress.save()
        self.interrupted.end()

    async def _everywhere(self, change: Change, revision: Revision, former: Revision) -> None:
        """Has the other servers apply what is in force here, or puts the former document back, here first."""
        try:
            await change.apply(revision)
        except PorticoError as error:
            self._agent.progress.note(revision.number, Stage.FAILED, time.time(), error=error)
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
        latest = await asyncio.to_thread(store.latest)
        if latest is not None and settings.load_balancing is not None:
            # Where revisions are decided is no part of what is restored: only a move changes it.
            settings = settings.model_copy(update={"store": latest.settings.store})
        return await self.change(
            settings, expected=None, author=author, comment=f"restored revision {number}", dry_run=dry_run
        )

    async def _transition(self, revision: Revision, former: Revision | None) -> list[str]:
        """Applies a stored revision, or puts the former one back and says so."""
        self._agent.progress.note(revision.number, Stage.RETRIEVED, time.time())
        try:
            return await self._enforce(revision)
        except PorticoError as error:
            self._agent.progress.note(revision.number, Stage.FAILED, time.time(), error=error)
            if former is None or former.number == revision.number:
                self.trouble(error)
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
            self._agent.progress.note(restored.number, Stage.DISTRIBUTED, time.time())
            former, number = restored, restored.number
        except PorticoError as problem:
            log.error("revision=%d cannot be stored again: %s", former.number, problem)
        self._agent.progress.rolled_back(failed.number, number)
        try:
            await self._enforce(former)
        except PorticoError as problem:
            self.trouble(problem)
        return number

    async def _enforce(self, revision: Revision) -> list[str]:
        settings = await asyncio.to_thread(self._agent.machine.localise, revision.settings)
        facts = await asyncio.to_thread(lambda: self._agent.machine.facts(basis=True))
        values = _derive(settings, facts)
        changes = await self._agent.platform.apply(settings, values)
        await asyncio.to_thread(self._agent.machine.settle, settings)
        await self._agent.peers.applied(revision.settings)
        judged = await self._agent.match.judged(settings)
        await self._agent.balancer.apply(judged, revision.number, self._agent.peers.secrets())
        await self._agent.translation.applied(settings, values)
        store = self.store()
        if not store.read_only:
            try:
                await asyncio.to_thread(store.mark_applied, revision)
                self.unwritten = None
            except PorticoError as error:
                # It is stored and in force; the next start applies it anew from the revisions.
                log.error("%s", error)
                self.unwritten = error
        self.revision, self.problem, self._agent.upkeep.drifting = revision, None, []
        self.interrupted.in_force(revision)
        self._agent.progress.note(revision.number, Stage.APPLIED, time.time())
        for change in changes:
            log.info("kernel=%r", str(change))
        return [str(change) for change in changes]

    async def follow(self, revisions: list[Revision]) -> None:
        """Stores and applies what another server of the cluster has, its newest last; empty: what is stored already.

        Raises:
            ApplyFailed: the former document is in force again here, and tried again later.
        """
        async with self.lock:
            store = await asyncio.to_thread(self.store)
            newest = (
                await asyncio.to_thread(store.adopt, revisions) if revisions else await asyncio.to_thread(store.latest)
            )
            former = self.revision
            if newest is None or (former is not None and former.sha256 == newest.sha256 and not revisions):
                return
            self._agent.progress.note(newest.number, Stage.RETRIEVED, time.time())
            try:
                await self._enforce(newest)
            except PorticoError as error:
                self._agent.progress.note(newest.number, Stage.FAILED, time.time(), error=error)
                if former is not None:
                    try:
                        await self._enforce(former)
                    except PorticoError as problem:
                        self.trouble(problem)
                raise ApplyFailed(
                    f"Revision {newest.number} cannot be applied", why=str(error), resolution=error.resolution
                ) from error
            finally:
                await asyncio.to_thread(self._agent.progress.save)

    async def leave(self, by: str) -> None:
        """This server was taken out of its cluster: it stops serving and keeps nothing of what it was given."""
        async with self.lock:
            await self._agent.balancer.stop()
            for failure in await self._agent.platform.stop():
                log.error("left behind: %s", failure)
            self._agent.platform.settings = self._agent.platform.values = self.revision = None
            remove_file(self._agent.state / APPLIED_NAME)
            with self._opening:  # somebody who opened it meanwhile would go on with what is deleted
                self.close()
                for path in self._agent.state.glob(f"{DATABASE_NAME}*"):
                    remove_file(path)
            write_own_name(self._agent.state, None)
            self._agent.credentials.forget()
            self._agent.access.forget()
            self.trouble(
                Unavailable(
                    "This server was taken out of its cluster",
                    why=f"{by} said so",
                    resolution="Let it join again with a new token: portico lb add NAME, on a server of the cluster",
                    code="NOT_IN_CLUSTER",
                )
            )

    def trouble(self, error: PorticoError) -> None:
        """Notes why nothing, or not everything, is served."""
        if str(error) != str(self.problem):
            log.error("not serving: %s", error)
        self.problem = error


def _derive(settings: Settings, facts: Any) -> Effective:
    try:
        return effective(settings, facts)
    except ValueError as error:
        raise PorticoError("The settings cannot be applied", why=str(error), code="SETTINGS_REFUSED") from None


def _not_installed() -> PorticoError:
    return Unavailable(
        "This server has no settings",
        why="nothing was installed yet",
        resolution="Install it: portico server install",
        code="NOT_INSTALLED",
    )
