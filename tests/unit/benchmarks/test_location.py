"""The client that moves: which times count, and what becomes of a client that never says the right thing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.network import Network
from benchmarks.peers import location
from portico.lab.wait import NeverHappened
from tests.lab import moving


class Client:
    """Says the right thing `delays[n]` seconds after its n-th move."""

    def __init__(self, delays: Iterator[float]) -> None:
        self.delays = delays
        self.moves: list[str] = []

    def move(self, where: str) -> Callable[[Any], float]:
        def moved(_lab: Any) -> float:
            self.moves.append(where)
            return 100.0

        return moved

    def told(self, _host: Any, what: str, _fits: Any) -> dict[str, Any]:
        return {"what": what, "since": 100.0 + (next(self.delays) if self.moves else 0.0)}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client(iter(()))

    @contextlib.contextmanager
    def deployed(*_: Any) -> Iterator[Any]:
        cable = SimpleNamespace(host=lambda name: name, cut=lambda *_: found.moves.append("cut"))
        yield SimpleNamespace(lab=cable)

    @contextlib.contextmanager
    def captive(_lab: Any) -> Iterator[None]:
        found.moves.append("captive")
        yield

    monkeypatch.setattr(location, "deployed", deployed)
    monkeypatch.setattr("benchmarks.peers.location.time.time", lambda: 100.0)
    for name, replacement in {
        "to_office": found.move("office"),
        "to_home": found.move("home"),
        "captive_portal": captive,
        "told": found.told,
        "since": lambda report: report["since"],
    }.items():
        monkeypatch.setattr(moving, name, replacement)
    return found


def test_the_slowest_move_of_all_tours_is_the_figure(client: Client, tmp_path: Path) -> None:
    tour = [0.3, 0.6, 0.1, 0.4, 0.2, 0.5]
    slow = [0.3, 0.6, 0.7, 0.4, 0.9, 0.8]
    client.delays = iter([*tour, *slow, *tour])
    assert location.location(Network(tmp_path), location.FIGURES, 3.0) == pytest.approx(
        {"inside_s": 0.9, "connected_s": 0.8, "lost_s": 0.7, "astray_s": 0.4}
    )
    assert client.moves == ["office", "home", "cut", "captive", "home", "office", "home"] * location.TOURS


def test_a_client_that_never_says_it_fails_its_turn_and_not_the_run(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise NeverHappened("The lab is not as it should be", why="waited 60 s for ConnectedLocally None")

    monkeypatch.setattr(moving, "told", never)
    with pytest.raises(RuntimeError, match="ConnectedLocally"):
        location.location(Network(tmp_path), location.FIGURES, 3.0)
