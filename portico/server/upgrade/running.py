"""Doing an upgrade, one step after the other, with the journal on disk before each. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from portico.errors import NotFound, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.server.upgrade.core import SERVING, Journal, Step

JOURNAL: Final = "journal.json"
FORMER: Final = "former"
NEW: Final = "new"
STOP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
_OUT: Final = frozenset({"Stopped", "Suspended"})


class Host(Protocol):
    """What an upgrade needs of this machine and its agent."""

    def status(self) -> dict[str, Any]:
        """`/v1/status`. Raises PorticoError while it does not answer."""

    def cluster(self) -> dict[str, Any] | None:
        """`/v1/cluster`; None without load balancing. Raises PorticoError."""

    def command(self, command: str) -> None:
        """start, stop, drain, suspend or resume of this server. Raises PorticoError."""

    def install(self, wheel: Path) -> None:
        """Puts a program in the place of the one that is installed. Raises PorticoError."""

    def restart(self) -> None:
        """Ends the agent with all that belongs to it, and starts it. Raises PorticoError."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Times:
    """Seconds: for connections to end by themselves, and for a server to serve again."""

    drain: float = 300.0
    health: float = 120.0


Progress = Callable[[str], AbstractContextManager[Callable[[str], None]]]


def read_journal(directory: Path) -> Journal | None:
    """The upgrade that was begun last, None when there was none. Raises PorticoError."""
    try:
        return Journal.from_text(read_file(directory / JOURNAL))
    except NotFound:
        return None


def write_journal(directory: Path, journal: Journal) -> None:
    """Raises Unavailable."""
    write_file(directory / JOURNAL, journal.as_text())


def run(journal: Journal, directory: Path, host: Host, times: Times, progress: Progress) -> Journal:
    """Goes on until the upgrade is done, or has failed and the former program serves.

    Raises:
        PorticoError: a step on the way back failed; the journal stands at it, and repeating goes on there.
    """
    work = _Work(directory, host, times)
    while not journal.ended:
        try:
            with progress(journal.words) as detail:
                detail(work.do(journal))
        except PorticoError as error:
            then = journal.failed(error)
            if then is None:
                raise
            journal = then
        else:
            journal = journal.succeeded()
        write_journal(directory, journal)
    return journal


def own_state(cluster: Mapping[str, Any] | None) -> str:
    """This server's state in the words of Windows; empty without a cluster, or while the balancer does not know."""
    if cluster is None:
        return ""
    own = next((item for item in cluster["servers"] if item["name"] == cluster.get("name")), None)
    return str(own["state"] or "") if own is not None else ""


def others_serving(cluster: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """The other servers: those that take clients, and those that do not."""
    others = [item for item in (cluster or {}).get("servers", ()) if item["name"] != (cluster or {}).get("name")]
    taking = [item["name"] for item in others if item["state"] in SERVING]
    return taking, [item["name"] for item in others if item["state"] not in SERVING]


class _Work:
    def __init__(self, directory: Path, host: Host, times: Times) -> None:
        self._directory, self._host, self._times = directory, host, times
        self._steps: Mapping[Step, Callable[[Journal], str]] = {
            Step.DRAIN: self._drain,
            Step.INSTALL: lambda j: self._install(self._directory / NEW / j.new_wheel),
            Step.RESTART: self._restart,
            Step.CHECK: lambda j: self._check(j, j.new),
            Step.REJOIN: self._rejoin,
            Step.PUT_BACK: lambda j: self._install(self._directory / FORMER / j.old_wheel),
            Step.RESTART_FORMER: self._restart,
            Step.CHECK_FORMER: lambda j: self._check(j, j.old),
            Step.REJOIN_FORMER: self._rejoin,
        }

    def do(self, journal: Journal) -> str:
        """Does a step and returns a detail for people. Raises PorticoError."""
        return self._steps[journal.step](journal)

    def _drain(self, _journal: Journal) -> str:
        cluster = self._host.cluster()
        state = own_state(cluster)
        if not state:
            return "it serves alone: its clients dial again when it restarts"
        if state in _OUT:
            return f"it is {state}"
        if not others_serving(cluster)[0]:
            return "no other server takes clients: they dial again when it restarts"
        if state != "Draining":
            self._host.command("drain")
        if self._wait(lambda: own_state(self._host.cluster()) in _OUT, self._times.drain):
            return "its last connection has ended"
        self._host.command("stop")
        if not self._wait(lambda: own_state(self._host.cluster()) in _OUT, STOP_SECONDS):
            raise Unavailable(
                "This server does not leave the cluster",
                why=f"it is {own_state(self._host.cluster())}",
                resolution="Look at it: portico cluster status",
                code="NOT_DRAINED",
            )
        return f"after {self._times.drain:.0f} s; the clients that were left dial again, to other servers"

    def _install(self, wheel: Path) -> str:
        self._host.install(wheel)
        return wheel.name

    def _restart(self, _journal: Journal) -> str:
        self._host.restart()
        return ""

    def _check(self, journal: Journal, version: str) -> str:
        last: dict[str, Any] = {}

        def serves() -> bool:
            last.clear()
            last.update(self._host.status())
            known = last["version"] == version and (last["serving"] or not journal.served)
            return bool(known and (not journal.state or own_state(self._host.cluster())))

        if not self._wait(serves, self._times.health):
            raise Unavailable(
                f"Portico {version} does not serve within {self._times.health:.0f} s",
                why=_trouble(last, version),
                resolution="Look at its log: journalctl -u portico-server",
                code="NOT_SERVING",
            )
        return f"revision {last['revision']}" if last.get("revision") else ""

    def _rejoin(self, journal: Journal) -> str:
        """Into the state that it had before: a server that was taken out stays out."""
        if not journal.state:
            return "it serves alone"
        wanted = "suspend" if journal.state == "Suspended" else "start" if journal.state in SERVING else "stop"

        def there() -> bool:
            state = own_state(self._host.cluster())
            if wanted == "start":
                if state in _OUT:
                    self._host.command("resume" if state == "Suspended" else "start")
                return state in ("Converged", "Default")
            if state and state not in _OUT:
                self._host.command(wanted)
            elif wanted == "suspend" and state == "Stopped":
                self._host.command("suspend")
            return state == ("Suspended" if wanted == "suspend" else "Stopped")

        if not self._wait(there, self._times.health):
            raise Unavailable(
                "This server does not come back into the cluster",
                why=f"it is {own_state(self._host.cluster()) or 'not heard'}, not {journal.state}",
                resolution="Look at it: portico cluster status, portico health",
                code="NOT_CONVERGED",
            )
        return own_state(self._host.cluster())

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it came true in time. An agent that does not answer is waited for."""
        deadline = self._host.now() + seconds
        while True:
            try:
                if condition():
                    return True
            except PorticoError:
                pass
            if self._host.now() >= deadline:
                return False
            self._host.sleep(POLL_SECONDS)


def _trouble(status: Mapping[str, Any], version: str) -> str:
    if not status:
        return "the server does not answer"
    if status["version"] != version:
        return f"what answers is Portico {status['version']}"
    problem = status.get("problem")
    if problem:
        return f"{problem['what']}: {problem['why']}"
    return "its gateway does not run" if not status["serving"] else "its balancer does not answer"
