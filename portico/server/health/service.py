"""The health of this server and of its cluster: looks, asks, remembers, tells."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico import __version__
from portico.errors import NotFound, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.health.alerting import wire
from portico.health.alerting.conditions import Subject, conditions
from portico.health.alerting.core import Alert, Alerting, Policy, Voices, speakers
from portico.health.evaluate import evaluate
from portico.health.memory import HealthEvent, Memory
from portico.health.report import ClusterReport, ServerReport, read, silent, together
from portico.health.states import HealthState
from portico.server.health.collector import Collector, trouble
from portico.server.health.delivery import Delivery
from portico.server.health.events import EventLog
from portico.server.health.probes import Probes
from portico.server.health.senders import senders
from portico.settings.alerts import Alerts

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.health")

MEMORY_NAME = "health.json"
INTERVAL = 3.0
"""Seconds between looks."""
PEER_SECONDS = 2.0
"""For another server's answer."""
SILENCE = 10.0
"""Seconds after which the last report of a server that does not answer is no longer what is so."""
FIRST_LOOK = 10.0
"""Seconds that a question waits for the first look after the start."""


class Health:
    """Health of one server, and what it knows of the others."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._path = agent.state / MEMORY_NAME
        kept = _read(self._path)
        self._memory = Memory(kept.get("memory"))
        self._alerting = Alerting(Policy(), kept.get("alerting"))
        self._told: Alerts | None = None
        self._clocks: dict[str, float] = {}
        self._probes = Probes(agent)
        self._collector = Collector(agent, self._probes, self._clocks)
        self.events = EventLog(agent.state)
        self._own: ServerReport | None = None
        self._first = asyncio.Event()
        self._others: dict[str, tuple[float, ServerReport]] = {}
        """By name: when it came (monotonic), and the report."""
        self._silent: dict[str, tuple[float, str]] = {}
        """Since when (epoch) a server does not answer, and why."""
        self._deliveries: list[tuple[Delivery, asyncio.Task[None]]] = []
        self._looking = asyncio.Lock()
        self._announced = self._alerting.as_data()
        self._began = time.monotonic()
        self._adopted = False
        self._told_elsewhere: dict[str, list[Any]] = {}
        """By server: what it says was told and is not over."""

    # Life

    async def run(self) -> None:
        """Looks until it is cancelled; nothing that fails ends it."""
        probing = asyncio.create_task(self._probes.run(), name="probes of health")
        try:
            await self._probes.first()
            while True:
                began = time.monotonic()
                try:
                    await self.look()
                except Exception:
                    log.exception("health cannot be looked at")
                await asyncio.sleep(max(0.5, INTERVAL - (time.monotonic() - began)))
        finally:
            tasks = [probing, *(task for _, task in self._deliveries)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._deliveries.clear()
            await asyncio.to_thread(self._write)
            self.events.close()

    async def look(self) -> None:
        """Looks at this server and asks the others, now."""
        async with self._looking:
            problem = self.events.problem
            seen = await self._collector.look(
                [delivery.status() for delivery, _ in self._deliveries],
                trouble(problem) if problem is not None else None,
            )
            health, now = evaluate(seen), time.time()
            self._own, events = self._memory.look(
                seen.server, health, now, version=__version__, distribution=seen.distribution
            )
            self._first.set()
            for event in events:
                _say(event)
            events += await self._ask_others(now)
            reports = self._reports(now)
            self._memory.forget(frozenset([seen.server, *self._names()]))
            await asyncio.to_thread(self.events.append, events)
            told = await self._alert(reports, now)
            if events or told:  # the rest of the memory, seconds in texts, is worth no write
                await asyncio.to_thread(self._write)

    # Answers

    def own_data(self) -> dict[str, Any]:
        """This server's report for another one. Raises Unavailable before the first look."""
        if self._own is None:
            raise _too_early()
        return {
            "report": self._own.model_dump(mode="json"),
            "now": time.time(),
            "up": time.monotonic() - self._began,
            "told": self._announced,
        }

    async def report(self, *, refresh: bool = False) -> ClusterReport:
        """All servers as this one knows them.

        Raises:
            Unavailable: the server has just started and has not looked yet.
        """
        if refresh:
            await self.look()
        try:
            async with asyncio.timeout(FIRST_LOOK):
                await self._first.wait()
        except TimeoutError:
            raise _too_early() from None
        now = time.time()
        assert self._own is not None
        return together(self._own.server, self._reports(now), cluster=self._clustered, now=now)

    async def server(self, name: str, *, refresh: bool = False) -> ClusterReport:
        """The same of one server. Raises NotFound; as `report`."""
        whole = await self.report(refresh=refresh)
        found = tuple(report for report in whole.servers if report.server == name)
        if not found:
            raise NotFound(
                f"There is no server {name}",
                why=f"there are {', '.join(report.server for report in whole.servers)}",
                resolution="List them with: portico health",
                code="NO_SUCH_SERVER",
            )
        return whole.model_copy(update={"servers": found, "state": found[0].state})

    def alerts(self) -> dict[str, Any]:
        """What became of alerts on this server: counters of what was told and what was not, and the receivers."""
        return {
            "sends_for_all": self._agent.peers.leads(),
            "changes": self._alerting.status(),
            "receivers": [delivery.status() for delivery, _ in self._deliveries],
            "events_lost": self.events.lost,
        }

    # The other servers

    @property
    def _clustered(self) -> bool:
        settings = self._agent.platform.settings
        return settings is not None and settings.load_balancing is not None

    def _names(self) -> list[str]:
        settings = self._agent.platform.settings
        if settings is None or settings.load_balancing is None or self._own is None:
            return []
        return [item.name for item in settings.load_balancing.servers if item.name != self._own.server]

    async def _ask_others(self, now: float) -> list[HealthEvent]:
        names = self._names()
        for table in (self._others, self._silent, self._clocks, self._told_elsewhere):
            for gone in [name for name in table if name not in names]:
                del table[gone]
        links = [link for link in self._agent.peers.links.all() if link.name in names]
        found: dict[str, Any] = {}
        asked = time.time()
        if links:
            found = await self._agent.peers.links.each(
                links, lambda link: link.caller.get("/v1/health", seconds=PEER_SECONDS)
            )
        took = time.time() - asked
        events: list[HealthEvent] = []
        for name in names:
            said = found.get(name)
            try:
                if said is None:
                    raise Unavailable("It cannot be asked", why="the servers' channel does not work here")
                if isinstance(said, PorticoError):
                    raise said
                report = read(said.get("report") if isinstance(said, dict) else None)
                if report.server != name:
                    raise Unavailable("It says that it is another one", why=f"its report is about {report.server}")
            except PorticoError as error:
                since, _ = self._silent.get(name, (now, ""))
                self._silent[name] = (since, error.why or error.what)
                self._told_elsewhere.pop(name, None)
                continue
            if name in self._silent:
                del self._silent[name]
            self._others[name] = (time.monotonic(), report)
            self._clock(name, said, asked, took)
            self._hear(name, said)
        for report in self._reports(now).values():
            if self._own is not None and report.server != self._own.server:
                news = self._memory.note(report, now)
                for event in news:
                    _say(event)
                events += news
        return events

    def _hear(self, name: str, said: dict[str, Any]) -> None:
        """What was told elsewhere. A server that has just started believes one that was there meanwhile."""
        told, up = said.get("told"), said.get("up")
        self._told_elsewhere[name] = told if isinstance(told, list) else []
        longer = isinstance(up, int | float) and up > time.monotonic() - self._began
        if not self._adopted and longer:
            self._alerting.adopt(told)
            self._adopted = True

    def _clock(self, name: str, said: dict[str, Any], asked: float, took: float) -> None:
        theirs = said.get("now")
        if not isinstance(theirs, int | float) or took > PEER_SECONDS:
            self._clocks.pop(name, None)
            return
        # It read its clock at some time between question and answer.
        early, late = theirs - (asked + took), theirs - asked
        self._clocks[name] = 0.0 if early <= 0 <= late else early if early > 0 else late

    def _reports(self, now: float) -> dict[str, ServerReport]:
        """A server that just missed a question is what it was, or is left out where nothing was known; one that
        is silent for long is in error."""
        assert self._own is not None
        found = {self._own.server: self._own}
        for name in self._names():
            at, report = self._others.get(name, (float("-inf"), None))
            if report is not None and (name not in self._silent or time.monotonic() - at < SILENCE):
                found[name] = report
            elif name in self._silent and not now - SILENCE < self._silent[name][0] <= now:
                since, why = self._silent[name]
                found[name] = silent(name, report, min(since, now), why, now)
        return found

    # Alerts

    async def _alert(self, reports: dict[str, ServerReport], now: float) -> bool:
        """Whether what was told, also by the server that leads, is something else than before."""
        settings = self._agent.platform.settings
        wanted = settings.alerts if settings is not None else Alerts()
        if wanted != self._told:
            await self._follow(wanted)
        assert self._own is not None
        own = self._own
        others = [report for name, report in reports.items() if name != own.server and report.answers]
        found = conditions(own, others, cluster=self._clustered)
        voices = Voices(
            own=own.server,
            leads=self._agent.peers.leads(),
            speakers={s: by for name, told in self._told_elsewhere.items() for s, by in speakers(name, told).items()},
            answering=frozenset(self._told_elsewhere),
        )
        alerts = self._alerting.observe(found, voices, now, self._exists)
        for alert in alerts:
            self._send(alert)
        before, self._announced = self._announced, self._alerting.as_data()
        return before != self._announced

    def _exists(self, subject: Subject) -> bool:
        assert self._own is not None
        if subject.shared:
            return self._clustered
        return subject.server == self._own.server

    def _send(self, alert: Alert) -> None:
        assert self._own is not None
        data = wire.body(alert, secrets.token_hex(8), self._own.server)
        log.info("alert=%s kind=%s subject=%s state=%s", data["id"], alert.kind, alert.subject, data["state"])
        for delivery, _ in self._deliveries:
            delivery.put(data)

    async def _follow(self, wanted: Alerts) -> None:
        """Other settings: what waits for receivers that stay goes on waiting."""
        host = self._own.server if self._own is not None else ""
        former = self._told
        self._told = wanted
        policy = Policy(
            minimum=HealthState.WARNING if wanted.minimum == "warning" else HealthState.ERROR,
            hold_down=float(wanted.hold_down_seconds),
            flap_changes=wanted.flap_changes,
            flap_seconds=60.0 * wanted.flap_minutes,
            per_hour=wanted.per_hour,
        )
        self._alerting.policy = policy
        if former is not None and (former.webhooks, former.syslog) == (wanted.webhooks, wanted.syslog):
            return
        ending = [task for _, task in self._deliveries]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        waiting = {delivery.sender.name: delivery for delivery, _ in self._deliveries}
        self._deliveries = []
        for sender in senders(wanted, host):
            delivery = Delivery(sender, waiting.pop(sender.name, None))
            self._deliveries.append((delivery, asyncio.create_task(delivery.run(), name=f"alerts to {sender.name}")))

    # Memory

    def _write(self) -> None:
        text = json.dumps({"memory": self._memory.as_data(), "alerting": self._alerting.as_data()})
        try:
            write_file(self._path, text.encode())
        except PorticoError as error:
            log.warning("%s", error)


def _say(event: HealthEvent) -> None:
    level = {HealthState.ERROR: logging.ERROR, HealthState.WARNING: logging.WARNING}.get(event.state, logging.INFO)
    log.log(
        level,
        "server=%s component=%r state=%s codes=%s what=%r",
        event.server,
        event.component.label,
        event.state.value,
        ",".join(event.codes) or "-",
        event.what,
    )


def _too_early() -> Unavailable:
    return Unavailable(
        "Health is not known yet",
        why="the server has just started",
        resolution="Ask again in a moment",
        code="HEALTH_NOT_KNOWN",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path, limit=16 << 20))
    except NotFound:
        return {}
    except (PorticoError, ValueError, RecursionError) as error:
        log.warning("file=%s cannot be read, since when things are as they are is forgotten: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
