"""The assistant at work: watches the network, asks where it is, has the ways in brought up or taken down, and checks
whether what comes through them is the intranet.

Two loops. `_locate` carries out what `core` decides; `_check` goes through the chain once whenever something has
changed, soon again after a failure, and now and then otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from portico.client.assistant import core, findings, nls
from portico.client.assistant.core import Action, Locator
from portico.client.assistant.findings import Finding
from portico.client.assistant.probes import Through
from portico.client.assistant.report import Check, Place, Report, State
from portico.client.assistant.revoked import RevocationList
from portico.client.assistant.settings import AssistantSettings
from portico.client.assistant.surroundings import Surroundings
from portico.client.assistant.technologies import Name, Trial, Way, choose, in_use, table
from portico.client.assistant.verdict import conclude
from portico.client.status import Status, Substatus
from portico.errors import PorticoError
from portico.naming.nrpt import Table
from portico.settings.assistant import parse_probe

log = logging.getLogger("portico.client.assistant")

CHECK_AGAIN: Final = 300.0
"""Seconds between two looks at a chain that is whole."""
CHECK_AGAIN_FIRST: Final = 1.0
"""Seconds until the next look at one that is not; doubled each time."""
CHECK_AGAIN_LAST: Final = 30.0
BRING_UP_AGAIN: Final = 15.0
"""Seconds until a way in that could not even be started is started again."""
LOOK_AGAIN: Final = 1.0
"""Seconds until the next look at a network that could not be looked at."""

_NO_NLS: Final = nls.Answer(False, "the server names no network location server")


@dataclass(frozen=True)
class Connection:
    """What the agent knows about its connection.

    Attributes:
        said: status and sub-status by the connection alone.
        portal: somebody else answered in the server's place; what was seen.
        limited: why configured probes cannot succeed yet; empty when they can.
    """

    said: tuple[Status, Substatus]
    portal: str = ""
    limited: str = ""


class Host(Protocol):
    """What the assistant needs of the agent."""

    def connection(self) -> Connection: ...

    def rules(self) -> Table:
        """The NRPT as it is outside."""

    def problem(self, text: str) -> None:
        """A way in cannot be started; empty: it can."""


@dataclass
class Outlook:
    """What may change while the assistant runs.

    Attributes:
        context: trusts whom the network location server's certificate may come from.
    """

    settings: AssistantSettings | None
    context: ssl.SSLContext
    revoked: RevocationList | None = None


@dataclass(frozen=True)
class Ports:
    """How it reaches the kernel and the network; tests put others in place."""

    look: Callable[[], Awaitable[Surroundings]]
    ask: Callable[[str, Surroundings, ssl.SSLContext, RevocationList | None], Awaitable[nls.Answer]] = nls.ask
    through: Callable[[str, Table, ssl.SSLContext], Through] = Through
    clock: Callable[[], float] = time.monotonic


@dataclass
class _Known:
    """A finding and since when it has its state."""

    finding: Finding
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class Assistant:
    """One computer's.

    Args:
        ways: the technologies that are built.
    """

    def __init__(self, outlook: Outlook, ways: Mapping[Name, Way], host: Host, ports: Ports) -> None:
        self.outlook = outlook
        self.locator = Locator()
        self.on_change: Callable[[], None] = lambda: None
        """Called when the report may be another one."""
        self._ways = ways
        self._technologies = table(ways)
        self._host = host
        self._ports = ports
        self._around = Surroundings()
        self._answer: nls.Answer | None = None
        self._answers: list[tuple[int, nls.Answer]] = []
        self._look: bool | None = True
        """A look is wanted; True: whatever it shows counts as a change."""
        self._bring_up_at: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._again = asyncio.Event()
        self._known: dict[str, _Known] = {}
        self._order: tuple[str, ...] = ()
        self._technology = "None"
        self._last: tuple[Place, Status, Substatus] | None = None
        self._since = datetime.now(UTC)

    @property
    def inside(self) -> bool:
        """Whether this computer is proven to be inside."""
        return self.locator.place is core.Place.INSIDE

    def changed(self, *, certainly: bool = False) -> None:
        """Something about the network may have changed; `certainly`: it counts as changed whatever it looks like."""
        self._look = certainly or bool(self._look)
        self._wake.set()

    def look_again(self) -> None:
        """Somebody wants to know now."""
        self._act(self.locator.look_again(self._ports.clock()))
        self._wake.set()
        self._again.set()

    def poke(self) -> None:
        """The connection is another than before."""
        self.on_change()
        self._again.set()

    def renew(self, outlook: Outlook) -> None:
        """Other settings, or a newer revocation list."""
        if outlook.settings != self.outlook.settings or outlook.revoked != self.outlook.revoked:
            self.changed(certainly=True)
        self.outlook = outlook

    def report(self) -> Report:
        """How it stands now. Called whenever something has changed, too, for the time at which it has."""
        connection = self._host.connection()
        known = [self._known[name] for name in self._order if name in self._known]
        place = {core.Place.INSIDE: Place.INSIDE, core.Place.OUTSIDE: Place.OUTSIDE}.get(
            self.locator.place, Place.UNKNOWN
        )
        portal = bool(connection.portal) or (self._answer is not None and self._answer.foreign)
        checks = [entry.finding for entry in known]
        status, substatus = conclude(place, checks, connection.said, in_use=self._technology != "None", portal=portal)
        if self._last != (place, status, substatus):
            log.info("place=%s status=%s substatus=%s", place, status, substatus)
            self._last, self._since = (place, status, substatus), datetime.now(UTC)
        settings = self.outlook.settings
        return Report(
            place=place,
            status=status,
            substatus=substatus,
            since=self._since,
            technology=self._technology,
            checks=tuple(Check(**vars(entry.finding), since=entry.since) for entry in known),
            network=str(self._around),
            support_email=(settings.support_email or "") if settings else "",
        )

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._locate())
                tasks.create_task(self._check())
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def _locate(self) -> None:
        while True:
            self._wake.clear()
            before = self.locator.place
            if self._look is not None:
                await self._look_around()
            while self._answers:
                generation, answer = self._answers.pop(0)
                if answer.proven and generation == self.locator.generation:
                    # It may have come before a sleep, and the news of another network behind it.
                    self._look = bool(self._look)
                    await self._look_around()
                now = self._ports.clock()
                if generation == self.locator.generation:
                    self._answer = answer
                await self._carry_out(self.locator.answered(now, generation, proven=answer.proven))
            await self._carry_out(self.locator.expire(self._ports.clock()))
            if self._bring_up_at is not None and self._ports.clock() >= self._bring_up_at:
                await self._carry_out((Action.DIAL,))
            if self.locator.place is not before:
                log.info("place=%s before=%s", self.locator.place, before)
                self._again.set()
                self.on_change()
            self._note(findings.network(str(self._around)))
            if self.locator.place is not core.Place.NOWHERE:
                self._note(findings.location(self._answer, inside=self.inside))
            self.report()
            times = [at for at in (self.locator.timer, self._bring_up_at) if at is not None]
            await _event(self._wake, max(min(times) - self._ports.clock(), 0.0) if times else None)

    async def _look_around(self) -> None:
        certainly, self._look = self._look, None
        try:
            around = await self._ports.look()
        except OSError as error:
            log.error("the network cannot be looked at: %s", error)
            asyncio.get_running_loop().call_later(LOOK_AGAIN, lambda: self.changed(certainly=bool(certainly)))
            return
        if certainly or around != self._around:
            log.info("network=%s", around)
            self._around, self._answer = around, None
            await self._carry_out(self.locator.changed(self._ports.clock(), network=around.network))

    async def _carry_out(self, actions: tuple[Action, ...]) -> None:
        """Asks first: that goes on while a way in is brought up."""
        self._act(actions)
        if Action.TAKE_DOWN in actions:
            self._bring_up_at = None
            for way in self._ways.values():
                await way.take_down()
        elif Action.DIAL in actions:
            self._bring_up_at = None
            try:
                for way in self._ways.values():
                    await way.bring_up()
            except (PorticoError, OSError) as error:
                log.error("%s", error)
                self._host.problem(str(error))
                self._bring_up_at = self._ports.clock() + BRING_UP_AGAIN
            else:
                self._host.problem("")

    def _act(self, actions: tuple[Action, ...]) -> None:
        if Action.ASK in actions:
            if self._asking is not None:
                self._asking.cancel()
            self._asking = asyncio.create_task(self._ask(self.locator.generation), name="ask where this is")
            self._asking.add_done_callback(_log_failure)

    async def _ask(self, generation: int) -> None:
        outlook = self.outlook
        url = outlook.settings.nls_url if outlook.settings is not None else None
        answer = _NO_NLS
        if url is not None:
            answer = await self._ports.ask(url, self._around, outlook.context, outlook.revoked)
            log.info("location_server=%s proven=%s %s", url, answer.proven, answer.detail)
        self._answers.append((generation, answer))
        self._wake.set()

    async def _check(self) -> None:
        failures = 0
        while True:
            self._again.clear()
            chain = asyncio.create_task(self._chain(), name="go through the chain")
            waiting = asyncio.create_task(self._again.wait())
            try:
                await asyncio.wait({chain, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not chain.done():
                    failures = 0
                    continue
                failures = 0 if _whole(chain) else failures + 1
                self.report()
            finally:
                for task in (chain, waiting):
                    task.cancel()
                await asyncio.gather(chain, waiting, return_exceptions=True)
            wait = CHECK_AGAIN
            if failures:
                wait = min(CHECK_AGAIN_FIRST * 2.0 ** min(failures - 1, 10), CHECK_AGAIN_LAST)
            if await _event(self._again, wait * random.uniform(0.8, 1.2)):  # noqa: S311
                failures = 0

    async def _chain(self) -> bool:
        """Goes through the checks once; False when one of them failed that nothing will tell us more about."""
        settings = self.outlook.settings or AssistantSettings()
        probes = [f"{findings.PROBE}{text}" for text in settings.probes]
        after = (findings.ENDPOINTS, findings.CORP, findings.WEB_PROBE, *probes)
        names = tuple(technology.name for technology in self._technologies)
        self._order = (findings.NETWORK, findings.NLS, *names, *after)
        for name in self._known.keys() - set(self._order):
            del self._known[name]
        if self.inside or self.locator.place is core.Place.NOWHERE:
            why = "this computer is inside" if self.inside else "this computer is in no network"
            if not self.inside:
                self._note(findings.skipped(findings.NLS, why))
            for name in (*names, *after):
                self._note(findings.skipped(name, why))
            self._technology = "None"
            return True
        return await self._through_ways(settings, after)

    async def _through_ways(self, settings: AssistantSettings, after: tuple[str, ...]) -> bool:
        rules, refusals = self._host.rules(), dict[str, str]()
        host, expected = settings.corp_connectivity_host, settings.corp_connectivity_addresses

        async def accepts(way: Way) -> str:
            if host is None or not expected:
                return ""
            through = self._ports.through(way.device, rules, self.outlook.context)
            refusals[way.device] = await through.corp_connectivity(host, expected)
            return refusals[way.device]

        if any(technology.way and technology.way.obstacle() is None for technology in self._technologies):
            self._begin(after)
        trials = await choose(self._technologies, accepts)
        used = in_use(trials)
        self._tell_trials(trials)
        self._technology = used.name if used is not None else "None"
        if used is None or used.way is None:
            for name in after:
                self._note(findings.skipped(name, "there is no way in"))
            return True
        if host is None or not expected:
            self._note(findings.skipped(findings.CORP, "the server does not say what it must be"))
        else:
            self._note(findings.corp(f"{host} is right", refusals.get(used.way.device, "")))
        through = self._ports.through(used.way.device, rules, self.outlook.context)
        done = await asyncio.gather(
            self._endpoints(settings, through),
            self._web_probe(settings, through),
            *(self._probe(text, through) for text in settings.probes),
        )
        return all(done) and not any(refusals.values())

    def _begin(self, names: tuple[str, ...]) -> None:
        """Checks without a result of this connection are under way; those that have one keep it until the next."""
        for name in names:
            entry = self._known.get(name)
            if entry is None or entry.finding.state is State.SKIPPED:
                self._note(findings.running(name))

    def _tell_trials(self, trials: tuple[Trial, ...]) -> None:
        tried = {trial.technology.name: trial for trial in trials}
        portal = self._host.connection().portal
        for technology in self._technologies:
            name, trial = technology.name, tried.get(technology.name)
            if trial is None:
                self._note(findings.skipped(name, "another one is in use"))
            elif technology.way is not None and trial.obstacle and portal:
                self._note(findings.portal(name, portal))
            elif technology.way is not None and technology.way.obstacle() is None:
                detail = "it carries packets"
                if trial.obstacle:
                    detail += ", and is used though it is not accepted: there is no other"
                self._note(findings.passed(name, detail))
            else:
                self._note(findings.technology(name, trial.obstacle, built=technology.way is not None))

    async def _endpoints(self, settings: AssistantSettings, through: Through) -> bool:
        ends = [str(end) for end in settings.tunnel_endpoints]
        if not ends:
            self._note(findings.skipped(findings.ENDPOINTS, "the server names none"))
            return True
        answers = await asyncio.gather(*(through.ping(end) for end in ends))
        return self._note(findings.endpoints(tuple(why for why in answers if why), len(ends)))

    async def _web_probe(self, settings: AssistantSettings, through: Through) -> bool:
        if settings.web_probe_url is None:
            self._note(findings.skipped(findings.WEB_PROBE, "the servers have none"))
            return True
        return self._note(findings.web_probe(await through.page(settings.web_probe_url, only=200)))

    async def _probe(self, text: str, through: Through) -> bool:
        name = f"{findings.PROBE}{text}"
        if limited := self._host.connection().limited:
            self._note(findings.skipped(name, limited))
            return True
        try:
            probe = parse_probe(text)
        except ValueError as error:
            self._note(findings.skipped(name, f"this program does not know it: {error}"))
            return True
        why = await through.probe(probe)
        if why is None:
            self._note(findings.skipped(name, "smbclient is not installed"))
            return True
        return self._note(findings.probe(text, why))

    def _note(self, finding: Finding) -> bool:
        """Remembers a finding; False when it is a failure."""
        before = self._known.get(finding.name)
        if before is None or before.finding != finding:
            self.on_change()
        if before is None or before.finding.state is not finding.state:
            if finding.state is State.FAILED:
                log.warning("check=%r failed: %s", str(finding.name), finding.detail)
            elif before is not None:
                log.info("check=%r %s %s", str(finding.name), finding.state, finding.detail)
            self._known[finding.name] = _Known(finding)
        elif before.finding != finding:
            before.finding = finding
        return finding.state is not State.FAILED


async def _event(event: asyncio.Event, timeout: float | None) -> bool:  # noqa: ASYNC109
    """Waits for it at most so long; whether it came."""
    # Not wait_for: it forgets a cancellation that comes together with the event (Python before 3.12).
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
    return event.is_set()


def _whole(chain: asyncio.Task[bool]) -> bool:
    """Whether no check failed. A fault of the chain itself must not end the watch over the network."""
    if (error := chain.exception()) is not None:
        log.error("the chain cannot be gone through", exc_info=error)
        return False
    return chain.result()


def _log_failure(task: asyncio.Task[None]) -> None:
    """What the network does is an answer; anything else is a fault here, and the decision's patience ends the wait."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task=%r failed", task.get_name(), exc_info=error)
