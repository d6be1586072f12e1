"""Gathers observations of this server: what the agent has, what its children say, what the machine shows.

Every wait is bounded: whatever does not answer in time is not known, and the next look is not late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico import __version__
from portico.errors import PorticoError
from portico.health.observations import (
    LATELY,
    Card,
    Certificate,
    Cluster,
    Counters,
    Delivery,
    Distribution,
    Location,
    Member,
    Neighbour,
    Observations,
    Process,
    Resolver,
    Trouble,
    Volume,
)
from portico.server.health import machine
from portico.server.health.dns_probe import DnsServers
from portico.server.health.probes import Probes
from portico.server.health.window import Window
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.server.agent import Agent

ANSWER_SECONDS = 2.0
"""For the gateway's and the balancer's answers."""
SLOW_INTERVAL = 15.0
"""Seconds between looks at disks and certificates, which are files."""

_COUNTED = ("dns64.", "nat64.bindings", "nat64.sessions", "nat64.refused_")
"""Counters that heuristics use."""


class Collector:
    """Looks at one server.

    Args:
        logs: where logs are written.
        clocks: how far the clocks of other servers are ahead, by name, in seconds.
    """

    def __init__(self, agent: Agent, probes: Probes, clocks: Mapping[str, float]) -> None:
        self._agent = agent
        self._probes = probes
        self._clocks = clocks
        self._counters = Window(LATELY)
        self._restarts = Window(LATELY)
        self._frames = Window(LATELY)
        self._dropped = Window(LATELY)
        self._slow: tuple[float, int, tuple[Volume, ...] | None, tuple[Certificate, ...] | None] | None = None
        self._converging_since: float | None = None
        self._behind: tuple[int, float] | None = None

    async def look(self, deliveries: Iterable[dict[str, Any]] = (), events: Trouble | None = None) -> Observations:
        """Everything about this server now. Never raises because something is broken.

        Args:
            deliveries: status of the destinations of alerts.
            events: why the log of events cannot be written.
        """
        agent, platform = self._agent, self._agent.platform
        settings, values = platform.settings, platform.values
        stats, cluster = await asyncio.gather(self._stats(), self._cluster(settings))
        seen_cards = await asyncio.to_thread(machine.cards, settings) if settings is not None else None
        disks, certificates = await self._files(settings)
        problem, now = agent.problem, time.time()
        extras = self._probes.seen()
        dns = extras.get(DnsServers)
        counters = self._counted(stats)
        repaired = [drift for drift in agent.drifts if drift.repaired and now - LATELY < drift.at <= now]
        return Observations(
            now=now,
            server=self.name(),
            version=__version__,
            settings=settings,
            problem=trouble(problem) if problem is not None else None,
            warnings=self._warnings(events),
            read_only=self._read_only(),
            drifting=tuple(agent.drifting),
            repairs_lately=len(repaired),
            repaired=tuple(repaired[-1].changes) if repaired else (),
            processes=self._processes(settings),
            volumes=disks,
            cards=self._with_errors(seen_cards),
            certificates=certificates,
            dns_servers=dns.servers if dns is not None else None,
            counters=counters,
            resolvers=_resolvers(stats),
            tunnels=_number(stats, "sessions"),
            listening=platform.sockets is not None if settings is not None else None,
            dns64_listening=bool(platform.dns_sockets.udp) if platform.dns_sockets is not None else None,
            nat64_addresses=len({pool.address for pool in values.nat64_pool}) if values is not None else None,
            cluster=cluster,
            distribution=self._distribution(now),
            location=self._location(),
            deliveries=self._deliveries(deliveries, now),
            extras=extras,
        )

    def name(self) -> str:
        """This server's name, as far as it has one."""
        if self._agent.peers.own_name:
            return self._agent.peers.own_name
        settings = self._agent.platform.settings
        return settings.server.name if settings is not None else "this-server"

    # What the agent has

    def _warnings(self, events: Trouble | None) -> dict[str, Trouble]:
        agent = self._agent
        found = {source: trouble(error) for source, error in agent.credentials.warnings.items()}
        for source, error in (
            ("unwritten", agent.transactions.unwritten),
            ("accounting", agent.translation.accounting.problem()),
            ("certificate match", agent.match.problem),
        ):
            if error is not None:
                found[source] = trouble(error)
        if events is not None:
            found["events"] = events
        return found

    def _read_only(self) -> str:
        store = self._agent.transactions.opened
        if store is None or not store.read_only:
            return ""
        return str(store.damage) if store.damage is not None else "its settings database cannot be written"

    def _processes(self, settings: Settings | None) -> tuple[Process, ...]:
        given = {"gateway": self._agent.gateway.status(), "balancer": self._agent.balancer.process()}
        self._restarts.add(time.monotonic(), {name: float(item["restarts"]) for name, item in given.items()})
        lately = self._restarts.growth()
        wanted = {"gateway": settings is not None, "balancer": bool(given["balancer"]["configured"])}
        return tuple(
            Process(
                name,
                wanted[name],
                str(item["state"]),
                str(item["reason"] or "") if item["state"] != "running" else "",
                item["unit"],
                int(lately.get(name, 0)),
            )
            for name, item in given.items()
        )

    def _distribution(self, now: float) -> Distribution:
        agent = self._agent
        entries = agent.progress.entries
        applied = agent.revision.number if agent.revision is not None else 0
        last = max(entries, key=lambda entry: entry.revision, default=None)
        stored = max(last.revision if last is not None else 0, applied)
        elsewhere = [
            revision for link in agent.peers.links.reachable() if isinstance(revision := link.said.get("revision"), int)
        ]
        newest = max([stored, *elsewhere])
        if newest <= stored:
            self._behind = None
        elif self._behind is None:
            self._behind = (newest, time.monotonic())
        # Newer ones that come meanwhile do not begin the waiting anew.
        behind = time.monotonic() - self._behind[1] if self._behind is not None else 0.0
        own = last if last is not None and last.revision == stored else None
        error = own.error if own is not None else None
        return Distribution(
            newest,
            stored,
            applied,
            stage=own.stage.value if own is not None else "",
            times=dict(own.times) if own is not None else {},
            behind_for=behind,
            error=f"{error['what']}: {error['why']}" if error else "",
        )

    def _location(self) -> Location:
        seen = self._agent.location.observations()
        nls = tuple(map(trouble, seen.nls.problems)) if seen.nls is not None else None
        return Location(nls, tuple(map(trouble, seen.pages)), tuple(map(trouble, seen.records)))

    def _deliveries(self, given: Iterable[dict[str, Any]], now: float) -> tuple[Delivery, ...]:
        rows = list(given)
        self._dropped.add(time.monotonic(), {row["name"]: float(row["dropped"]) for row in rows})
        lately = self._dropped.growth()
        return tuple(
            Delivery(
                row["name"],
                row["waiting"],
                max(0.0, now - row["failing_since"]) if row["failing_since"] is not None else 0.0,
                row["error"],
                int(lately.get(row["name"], 0)),
            )
            for row in rows
        )

    # What its children say

    async def _stats(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._agent.gateway.stats() or None
        except (PorticoError, TimeoutError):
            return None

    def _counted(self, stats: Mapping[str, Any] | None) -> Counters | None:
        if stats is None:
            return None
        now = dict(_flat({key: stats.get(key) for key in ("dns64", "nat64")}))
        self._counters.add(time.monotonic(), now)
        return Counters(now, self._counters.growth())

    async def _cluster(self, settings: Settings | None) -> Cluster | None:
        peers = self._agent.peers
        if settings is None or settings.load_balancing is None:
            self._converging_since = None
            return None
        found: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await self._agent.balancer.status()
        except (PorticoError, TimeoutError):
            found = None
        now = time.monotonic()
        if found is None or found.get("converged", True):
            self._converging_since = None
        elif self._converging_since is None:
            self._converging_since = now
        status = peers.status()
        problem = peers.problem
        return Cluster(
            own=peers.own_name or settings.server.name,
            members=_members(found),
            neighbours=tuple(self._neighbour(item) for item in status["servers"]) if status is not None else (),
            converging_for=now - self._converging_since if self._converging_since is not None else 0.0,
            quorum=peers.quorum(),
            channel_problem=str(problem) if problem is not None else "",
            balancer_problem=str(found.get("problem") or "") if found is not None else "",
            witness=peers.witnessing.witness.name if peers.witnessing.witness is not None else "",
            witness_silent=peers.witnessing.silent_for(),
        )

    def _neighbour(self, item: Mapping[str, Any]) -> Neighbour:
        return Neighbour(
            item["name"],
            bool(item["reachable"]),
            item["version"],
            item["revision"],
            self._clocks.get(item["name"]) if item["reachable"] else None,
        )

    # What the machine shows

    async def _files(
        self, settings: Settings | None
    ) -> tuple[tuple[Volume, ...] | None, tuple[Certificate, ...] | None]:
        now = time.monotonic()
        if self._slow is not None and now - self._slow[0] < SLOW_INTERVAL and self._slow[1] == id(settings):
            return self._slow[2], self._slow[3]
        agent = self._agent

        def look() -> tuple[tuple[Volume, ...], tuple[Certificate, ...] | None]:
            paths: list[Path] = [agent.state, agent.translation.accounting.log.directory]
            found = machine.certificates(settings, agent.credentials) if settings is not None else None
            return machine.volumes(paths), found

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                disks, certificates = await asyncio.to_thread(look)
        except TimeoutError:  # a file system that hangs
            return None, None
        self._slow = (now, id(settings), disks, certificates)
        return disks, certificates

    def _with_errors(self, found: tuple[tuple[Card, int], ...] | None) -> tuple[Card, ...] | None:
        if found is None:
            return None
        self._frames.add(time.monotonic(), {card.name: float(errors) for card, errors in found})
        lately = self._frames.growth()
        return tuple(
            Card(card.name, card.side, card.present, card.up, card.carrier, int(lately.get(card.name, 0)))
            for card, _ in found
        )


def trouble(error: PorticoError) -> Trouble:
    """An error as heuristics take it."""
    return Trouble(error.code, error.what, error.why, error.resolution)


def _members(status: Mapping[str, Any] | None) -> tuple[Member, ...] | None:
    if status is None or "converged" not in status:
        return None
    return tuple(
        Member(item["name"], item["state"], tuple(item["conditions"]), tuple(item["paths"]))
        for item in status["servers"]
    )


def _resolvers(stats: Mapping[str, Any] | None) -> tuple[Resolver, ...] | None:
    if stats is None:
        return None
    section = stats.get("dns64")
    servers = section.get("servers", ()) if isinstance(section, Mapping) else ()
    return tuple(
        Resolver(
            str(item.get("suffix", "")),
            str(item.get("address", "")),
            bool(item.get("resting")),
            bool(item.get("withholds_aaaa")),
        )
        for item in servers
    )


def _number(stats: Mapping[str, Any] | None, name: str) -> int | None:
    value = stats.get(name) if stats is not None else None
    return value if isinstance(value, int) else None


def _flat(data: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, section in data.items():
        if not isinstance(section, Mapping):
            continue
        for key, value in section.items():
            path = f"{name}.{key}"
            if isinstance(value, int | float) and path.startswith(_COUNTED):
                yield path, float(value)
