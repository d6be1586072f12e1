"""A file that changes on one server changes on those that had the same, and on no other."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from portico.errors import InvalidInput
from portico.server.cluster_secrets import ClusterFiles
from portico.server.peers.following import REMEMBERED, Content, Following
from portico.settings.document import load_data
from tests.unit.server.peers.conftest import DATA


class Disk:
    """One of several servers whose files are at the same path: `on` makes its own the ones that are there."""

    def __init__(self, root: Path, name: str, path: Path) -> None:
        self.path, self.content, self.refreshed = path, b"", 0
        self.files = ClusterFiles(root / name)
        self.files.directory.mkdir(parents=True)
        self.document = load_data({**DATA, "corporate_dns": {"key_file": str(path)}})
        self.state, self.host = object(), SimpleNamespace(state=root / name)
        self.name = name
        self.following = Following(self)  # type: ignore[arg-type]

    async def refresh_gateway(self) -> None:
        self.refreshed += 1

    def on(self) -> Following:
        self.path.unlink(missing_ok=True)
        if self.content:
            self.path.write_bytes(self.content)
            os.utime(self.path, (1, 1))
        return self.following

    def off(self) -> None:
        self.content = self.path.read_bytes() if self.path.exists() else b""

    def pull(self, other: Disk) -> bytes:
        """Greets another server and takes up what is new there."""
        said = other.on().greeting()

        class Caller:
            async def post(self, _path: str, body: dict[str, Any]) -> Any:
                mine.off()
                answer = other.on().answer(body)
                mine.on()
                return answer

        mine = self
        link = SimpleNamespace(name=other.name, caller=Caller())
        asyncio.run(self.on().pull(link, said))  # type: ignore[arg-type]
        self.off()
        return self.content


@pytest.fixture
def disks(tmp_path: Path) -> list[Disk]:
    return [Disk(tmp_path, name, tmp_path / "tsig.key") for name in ("da1", "da2", "da3")]


def test_a_change_reaches_who_had_the_former_content(disks: list[Disk]) -> None:
    one, two, three = disks
    one.content = b"first"
    assert two.pull(one) == three.pull(one) == b"first", "what is missing comes first"
    assert one.pull(two) == b"first"
    one.content = b"second"
    assert one.pull(two) == b"second", "the former content never comes back"
    assert two.pull(one) == b"second"
    one.content = b"third"
    one.on().look()
    assert three.pull(two) == b"second"
    assert three.pull(one) == b"third"
    assert two.pull(three) == b"third", "whoever has it brings it"
    one.content = b"second"
    assert one.pull(two) == b"second", "an older content can be made the newest"
    assert two.pull(one) == b"second"
    assert two.refreshed == 4


def test_what_differs_from_the_beginning_is_nobodys_business(disks: list[Disk]) -> None:
    one, two, _ = disks
    one.content, two.content = b"one's own", b"two's own"
    assert two.pull(one) == b"two's own"
    assert one.pull(two) == b"one's own"
    one.content = b"one's new"
    assert two.pull(one) == b"two's own"
    assert two.refreshed == one.refreshed == 0


def test_two_changes_at_once_are_left_to_the_administrator(disks: list[Disk]) -> None:
    one, two, _ = disks
    one.content = b"first"
    two.pull(one)
    one.content, two.content = b"of one", b"of two"
    assert (one.pull(two), two.pull(one)) == (b"of one", b"of two")
    two.content = b"of one"
    assert (one.pull(two), two.pull(one)) == (b"of one", b"of one")


def test_a_restart_forgets_nothing_and_what_is_damaged_stops_nothing(disks: list[Disk], tmp_path: Path) -> None:
    one, two, _ = disks
    one.content = b"first"
    two.pull(one)
    one.content = b"second"
    one.following = Following(one)  # type: ignore[arg-type]
    assert two.pull(one) == b"second", "it changed while nobody looked"
    for text in ("{", "[]", '{"x": [0, "", []]}', '{"x": 3}'):
        (two.files.directory / "files.json").write_text(text)
        two.following = Following(two)  # type: ignore[arg-type]
        assert two.pull(one) == b"second"


def test_a_file_that_is_being_written_is_waited_for(disks: list[Disk]) -> None:
    one, two, _ = disks
    one.content = b"first"
    two.pull(one)
    one.on().look()
    one.path.write_bytes(b"half of the")
    before = one.following.greeting()
    os.utime(one.path, (2, 2))
    assert one.following.greeting() != before


@pytest.mark.parametrize("body", [{}, {"have": []}, {"have": {"x": 1}}])
def test_a_question_that_is_none_is_refused_or_means_nothing(body: dict[str, Any], disks: list[Disk]) -> None:
    one = disks[0]
    one.content = b"first"
    if body.get("have") == {"x": 1}:
        assert len(one.on().answer(body)["files"]) == 1
    else:
        with pytest.raises(InvalidInput):
            one.on().answer(body)


def test_what_is_remembered_is_bounded() -> None:
    content = Content(1, "0")
    for number in range(3 * REMEMBERED):
        content = content.followed_by(str(number % (2 * REMEMBERED)))
    assert len(content.former) == REMEMBERED
    assert content.number == 1 + 3 * REMEMBERED
