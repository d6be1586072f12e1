"""All rules against the machines of all servers: each examines itself, one compares. For `portico check` and `plan`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from portico import __version__
from portico.errors import NotFound, PorticoError
from portico.server.clients import ClientState
from portico.server.examination import Alive, Examination, alive, examine
from portico.server.peers.links import Link
from portico.settings.consequences import Live
from portico.settings.document import dump
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import Problem
from portico.settings.rules.machines import UNREACHABLE, Finding
from portico.settings.verify import verify_change, verify_machines

if TYPE_CHECKING:
    from portico.server.agent import Agent

EXAMINE_SECONDS = 30.0
ALIVE_SECONDS = 3.0
_VALID = (ClientState.CONNECTED, ClientState.OFFLINE, ClientState.NEVER_SEEN)


@dataclass(frozen=True)
class Step:
    """One server is done.

    Attributes:
        state: not joined: it is in the document and no server of the cluster yet; what only its machine knows is
            checked when it joins.
        seconds: how long it took.
    """

    server: str
    state: Literal["checked", "failed", "not joined"]
    version: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What the check found.

    Attributes:
        revision: the one that was checked; None for a document that is not stored.
        findings: errors before warnings, each once with the servers that have it.
    """

    revision: int | None
    servers: tuple[Step, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(finding.problem.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

    def as_dict(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "servers": [asdict(step) for step in self.servers],
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [{**f.problem.as_dict(), "servers": list(f.servers)} for f in self.findings],
        }


async def check(agent: Agent, candidate: Settings | None = None) -> AsyncIterator[Step | Report]:
    """Checks the newest settings, or a document that is not stored, on all servers. A step for each, then the report.

    Raises:
        NotFound: nothing is installed and there is no candidate.
        PorticoError: the store cannot be read.
    """
    store = await asyncio.to_thread(agent.store)
    latest = await asyncio.to_thread(store.latest)
    former = latest.settings if latest is not None else None
    settings = candidate if candidate is not None else former
    if settings is None:
        raise NotFound(
            "There are no settings to check",
            why="nothing was installed yet",
            resolution="Check a document: portico check --file FILE, or install: portico server install",
            code="NOT_INSTALLED",
        )
    found: dict[str, Examination] = {}
    steps: dict[str, Step] = {}
    findings: list[Finding] = []
    if candidate is not None:
        findings += [Finding(problem) for problem in verify_change(former, candidate)]
    async for name, step, result in _examined(agent, settings):
        steps[name] = step
        if isinstance(result, Examination):
            found[name] = result
            findings += [Finding(problem, (name,)) for problem in result.problems]
        elif result is not None:
            findings.append(_not_checked(name, result))
            found[name] = Examination(Facts(own_name=name, version=step.version), ())
        yield step
    order = [name for name in _names(agent, settings) if name in steps]
    machines = {name: found[name].facts for name in order if name in found}
    findings += verify_machines(settings, machines)
    revision = latest.number if candidate is None and latest is not None else None
    yield Report(revision, tuple(steps[name] for name in order), tuple(merged(findings, order)))


async def live(agent: Agent) -> Live:
    """What is alive on all servers now. Never raises about another server."""
    own = _own_name(agent)
    counted: dict[str, Alive] = {own: await alive(agent)}
    silent: list[str] = []

    async def ask(link: Link) -> Alive:
        return Alive.from_data(await link.caller.get("/v1/alive", seconds=ALIVE_SECONDS))

    for name, result in (await agent.peers.links.each(agent.peers.links.all(), ask)).items():
        if isinstance(result, PorticoError):
            silent.append(name)
        else:
            counted[name] = result
    enrolled = sum([client.serial is not None and client.state in _VALID async for client in agent.clients()])
    return Live(
        clients={name: item.clients for name, item in counted.items()},
        bindings={name: item.bindings for name, item in counted.items()},
        enrolled=enrolled,
        silent=tuple(sorted(silent)),
    )


def merged(findings: Iterable[Finding], order: list[str]) -> list[Finding]:
    """Each problem once with all servers that have it, errors before warnings.

    Args:
        order: the servers, as they are to be named.
    """
    servers: dict[Problem, set[str]] = {}
    for finding in findings:
        servers.setdefault(replace(finding.problem, source=None, line=None), set()).update(finding.servers)
    known = {name: number for number, name in enumerate(order)}
    result = [
        Finding(problem, tuple(sorted(names, key=lambda name: (known.get(name, len(known)), name))))
        for problem, names in servers.items()
    ]
    return sorted(result, key=lambda finding: finding.problem.severity != "error")


async def _examined(
    agent: Agent, settings: Settings
) -> AsyncIterator[tuple[str, Step, Examination | PorticoError | None]]:
    """Each server as soon as it is done: this one, those that can be asked, then those that have not joined."""
    own, text = _own_name(agent), dump(settings)
    work: dict[str, Callable[[], Awaitable[Examination]]] = {}
    absent: list[str] = []
    for name in _names(agent, settings):
        link = agent.peers.links.get(name)
        if name == own:
            work[name] = lambda: examine(agent, settings)
        elif link is not None:
            work[name] = lambda link=link: _ask(link, text)  # type: ignore[misc]
        else:
            absent.append(name)

    async def one(name: str) -> tuple[str, Step, Examination | PorticoError]:
        started = time.monotonic()
        result: Examination | PorticoError
        try:
            result = await work[name]()
        except PorticoError as error:
            result = error
        seconds = round(time.monotonic() - started, 3)
        if isinstance(result, Examination):
            return name, Step(name, "checked", result.facts.version, seconds), result
        return name, Step(name, "failed", _said_version(agent, name), seconds), result

    tasks = [asyncio.ensure_future(one(name)) for name in work]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
    for name in absent:
        yield name, Step(name, "not joined", "", 0.0), None


async def _ask(link: Link, text: str) -> Examination:
    data = await link.caller.post("/v1/examination", {"settings": text}, seconds=EXAMINE_SECONDS)
    found = Examination.from_data(data)
    # Its name is what its certificate says, whatever it calls itself.
    return replace(found, facts=replace(found.facts, own_name=link.name))


def _not_checked(name: str, error: PorticoError) -> Finding:
    why = error.what + (f": {error.why}" if error.why else "")
    resolution = error.resolution or "Look at its log: journalctl -u portico-server, there"
    return Finding(UNREACHABLE.problem("", server=name, why=why, resolution=resolution), (name,))


def _names(agent: Agent, settings: Settings) -> list[str]:
    """The servers of the document, in its order; without load balancing this one."""
    balancing = settings.load_balancing
    names = [server.name for server in balancing.servers] if balancing is not None else []
    own = _own_name(agent)
    return names if own in names else [own, *names]


def _own_name(agent: Agent) -> str:
    settings = agent.platform.settings
    return agent.peers.own_name or (settings.server.name if settings is not None else "this server")


def _said_version(agent: Agent, name: str) -> str:
    link = agent.peers.links.get(name)
    if link is None:
        return __version__
    said = link.said.get("version")
    return said if isinstance(said, str) and len(said) <= 40 else ""
