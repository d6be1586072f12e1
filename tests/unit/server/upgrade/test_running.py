"""An upgrade on a machine that is played: each step done, failed, and cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from portico.errors import PorticoError, Unavailable
from portico.server.upgrade import running
from portico.server.upgrade.core import Step
from portico.server.upgrade.running import Times, read_journal, run
from tests.unit.server.upgrade.test_core import JOURNAL


class CutOff(BaseException):
    """The process that upgrades is gone."""


@dataclass
class Machine:
    """A server of a cluster of two.

    Attributes:
        busy: looks until its last connection ends once it drains.
        broken: versions that do not serve; `dead`: that do not even answer.
        fails: what raises when it is done.
        cut: what ends the whole process when it was done.
    """

    version: str = "0.1.0"
    running: str = "0.1.0"
    state: str = "Converged"
    balanced: bool = True
    busy: int = 2
    broken: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    cut: str = ""
    clock: float = 0.0
    done: list[str] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        if self.running in self.dead:
            raise Unavailable("The server does not answer")
        problem = {"what": "It cannot serve", "why": "no device"} if self.running in self.broken else None
        return {"version": self.running, "serving": problem is None, "problem": problem, "revision": 3}

    def cluster(self) -> dict[str, Any] | None:
        self.status()
        if not self.balanced:
            return None
        if self.state == "Draining":
            self.busy -= 1
            self.state = "Stopped" if self.busy <= 0 else "Draining"
        return {"name": "da2", "servers": [{"name": "da1", "state": "Default"}, {"name": "da2", "state": self.state}]}

    def command(self, command: str) -> None:
        self._do(command)
        states = {"start": "Converged", "stop": "Stopped", "drain": "Draining", "resume": "Stopped"}
        self.state = states.get(command, "Suspended")

    def install(self, wheel: Path) -> None:
        self._do(f"install {wheel.name}")
        self.version = "0.1.0" if wheel.name == "old.whl" else "0.2.0"

    def restart(self) -> None:
        self._do("restart")
        self.running = self.version
        self.state = "Converged"  # as the settings say

    def now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def _do(self, what: str) -> None:
        if what in self.fails:
            raise Unavailable(f"'{what}' failed", why="the test says so")
        self.done.append(what)
        if what == self.cut:
            self.cut = ""
            raise CutOff


def progress(seen: list[str]) -> Callable[[str], Any]:
    @contextmanager
    def step(name: str) -> Iterator[Callable[[str], None]]:
        yield lambda detail: seen.append(f"{name}: {detail}")

    return step


TIMES = Times(drain=10.0, health=5.0)


def upgraded(machine: Machine, directory: Path, journal: Any = JOURNAL) -> tuple[Step, list[str]]:
    seen: list[str] = []
    journal = replace(journal, state=machine.state if machine.balanced else "")
    return run(journal, directory, machine, TIMES, progress(seen)).step, seen


def test_a_server_is_drained_upgraded_and_back(tmp_path: Path) -> None:
    machine = Machine()
    step, seen = upgraded(machine, tmp_path)
    assert step is Step.DONE
    assert machine.done == ["drain", "install new.whl", "restart"]
    assert (machine.running, machine.state) == ("0.2.0", "Converged")
    assert seen[0].endswith("its last connection has ended") and seen[-1] == "Take clients again: Converged"
    journal = read_journal(tmp_path)
    assert journal is not None and journal.ended


def test_connections_that_do_not_end_are_told_to_dial_again(tmp_path: Path) -> None:
    machine = Machine(busy=1000)
    step, seen = upgraded(machine, tmp_path)
    assert step is Step.DONE
    assert machine.done[:2] == ["drain", "stop"]
    assert "after 10 s" in seen[0]


@pytest.mark.parametrize("before", ["Stopped", "Suspended", "Draining"])
def test_a_server_that_was_out_stays_out(tmp_path: Path, before: str) -> None:
    machine = Machine(state=before)
    step, _ = upgraded(machine, tmp_path)
    assert step is Step.DONE
    assert machine.state == ("Suspended" if before == "Suspended" else "Stopped")
    assert "drain" not in machine.done


def test_a_server_alone_restarts(tmp_path: Path) -> None:
    machine = Machine(balanced=False)
    step, seen = upgraded(machine, tmp_path)
    assert step is Step.DONE
    assert machine.done == ["install new.whl", "restart"]
    assert "it serves alone" in seen[0]


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ({"broken": ("0.2.0",)}, "NOT_SERVING"),
        ({"dead": ("0.2.0",)}, "NOT_SERVING"),
        ({"fails": ("install new.whl",)}, "UNAVAILABLE"),
    ],
)
def test_a_program_that_does_not_serve_is_put_back(tmp_path: Path, trouble: dict[str, Any], code: str) -> None:
    machine = Machine(**trouble)
    step, _ = upgraded(machine, tmp_path)
    assert step is Step.FAILED
    assert (machine.running, machine.state) == ("0.1.0", "Converged")
    assert machine.done[-2:] == ["install old.whl", "restart"]
    journal = read_journal(tmp_path)
    assert journal is not None and journal.failure is not None and journal.failure["code"] == code


def test_a_server_that_cannot_be_drained_is_left_as_it_was(tmp_path: Path) -> None:
    machine = Machine(fails=("drain",))
    step, _ = upgraded(machine, tmp_path)
    assert step is Step.FAILED
    assert machine.done == [] and machine.state == "Converged"


def test_when_the_way_back_fails_it_says_so_and_goes_on_there(tmp_path: Path) -> None:
    machine = Machine(broken=("0.2.0",), fails=("install old.whl",))
    with pytest.raises(PorticoError, match=r"'install old.whl' failed"):
        upgraded(machine, tmp_path)
    journal = read_journal(tmp_path)
    assert journal is not None and journal.step is Step.PUT_BACK
    machine.fails = ()
    assert run(journal, tmp_path, machine, TIMES, progress([])).step is Step.FAILED
    assert (machine.running, machine.state) == ("0.1.0", "Converged")


@pytest.mark.parametrize("cut", ["drain", "install new.whl", "restart", "install old.whl"])
def test_one_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, cut: str) -> None:
    bad = cut == "install old.whl"
    machine = Machine(cut=cut, broken=("0.2.0",) if bad else ())
    running.write_journal(tmp_path, JOURNAL)
    with pytest.raises(CutOff):
        upgraded(machine, tmp_path)
    journal = read_journal(tmp_path)
    assert journal is not None and not journal.ended
    step = run(journal, tmp_path, machine, TIMES, progress([])).step
    assert step is (Step.FAILED if bad else Step.DONE)
    assert (machine.running, machine.state) == ("0.1.0" if bad else "0.2.0", "Converged")


def test_who_else_takes_clients() -> None:
    states = {"da1": "Default", "da2": "Converged", "da3": "Stopped", "da4": None}
    cluster = {"name": "da2", "servers": [{"name": name, "state": state} for name, state in states.items()]}
    assert running.others_serving(cluster) == (["da1"], ["da3", "da4"])
    assert running.others_serving(None) == ([], [])
    assert running.own_state(cluster) == "Converged" and running.own_state(None) == ""
