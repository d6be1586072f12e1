"""`portico server install` on a terminal, as a person meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portico.settings.document import load_file
from tests.unit.management.wizard.terminal import Terminal

ROOT = Path(__file__).parents[4]
PROGRAM = [sys.executable, "-m", "tests.unit.management.wizard.program", "server", "install", "--no-start"]
Start = Callable[..., Terminal]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PORTICO_STATE_DIR": str(tmp_path / "state"),
        "MADE": str(tmp_path / "made"),
        "TERM": "xterm",
        "COLUMNS": "120",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    started: list[Terminal] = []

    def begin(*options: str) -> Terminal:
        started.append(Terminal([*PROGRAM, *options], environment))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def answer(terminal: Terminal, question: str, text: str = "") -> None:
    terminal.expect(question)
    terminal.expect("> ")
    terminal.type(text)


def to_the_end(terminal: Terminal) -> None:
    """Everything from the sixth question on with Enter."""
    for question in ("Certificates", "IPv6 prefix of the organisation", "IPv6 prefixes of the intranet"):
        answer(terminal, question)
    for question in (
        "prefix of the remote",
        "DNS domain",
        "DNS servers",
        "servers with IPv6",
        "suffixes",
        "Names that",
    ):
        answer(terminal, question)
    answer(terminal, "Network location server")


def test_questions_are_answered_corrected_and_confirmed(start: Start, tmp_path: Path) -> None:
    terminal = start("--save", str(tmp_path / "answers.yaml"))
    answer(terminal, "1/15 Name of this server", "gate")
    answer(terminal, "2/15 Topology", "<")
    answer(terminal, "1/15 Name of this server")
    terminal.expect("Edge: one adapter has a public address")
    terminal.type("1")
    terminal.expect("eth0: 203.0.113.11/24, the default route")
    answer(terminal, "", "eth9")
    terminal.expect("Why:  'eth9' is none of them")
    answer(terminal, "3/15 Adapter that remote")
    answer(terminal, "4/15 Adapter to the intranet")
    answer(terminal, "5/15 Public name", "da")
    terminal.expect("(SETTINGS_INVALID)")
    answer(terminal, "5/15 Public name", "da.example.net")
    to_the_end(terminal)
    terminal.expect("The settings")
    terminal.expect("connect_to: da.example.net")
    terminal.expect("Will: Make everything")
    terminal.expect("Install this? [yes, no, <]")
    assert not (tmp_path / "made").exists() and not (tmp_path / "answers.yaml").exists(), "nothing before the last yes"
    terminal.type("<")
    answer(terminal, "15/15 Network location server")
    terminal.expect("Install this?")
    terminal.type("yes")
    assert terminal.finish() == 0, terminal.shown
    assert (tmp_path / "made").read_text() == "done"
    settings = load_file(tmp_path / "answers.yaml")
    assert (settings.server.name, settings.deployment.connect_to) == ("gate", "da.example.net")


@pytest.mark.parametrize("end", ["interrupt", "no"])
def test_nothing_is_changed_when_somebody_thinks_better_of_it(start: Start, tmp_path: Path, end: str) -> None:
    terminal = start("--save", str(tmp_path / "answers.yaml"))
    answer(terminal, "Name of this server")
    if end == "interrupt":
        terminal.expect("2/15 Topology")
        terminal.expect("> ")
        terminal.interrupt()
    else:
        for question in ("Topology", "remote computers reach", "Adapter to the intranet"):
            answer(terminal, question)
        answer(terminal, "5/15 Public name", "da.example.net")
        to_the_end(terminal)
        terminal.expect("Install this?")
        terminal.type("no")
    assert terminal.finish() != 0
    assert "Nothing was changed." in terminal.shown
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_a_dry_run_asks_and_shows_and_ends(start: Start, tmp_path: Path) -> None:
    terminal = start(
        "--dry-run", "--domain", "corp.example.net", "--dns", "10.0.0.53", "--connect-to", "da.example.net"
    )
    for question in ("Name of", "Topology", "remote computers reach", "Adapter to the intranet", "Certificates"):
        answer(terminal, question)
    for question in ("organisation", "IPv6 prefixes of", "prefix of the remote", "with IPv6", "suffixes", "Names that"):
        answer(terminal, question)
    answer(terminal, "Network location server")
    terminal.expect("Will: Make everything")
    assert terminal.finish() == 0
    assert "Install this?" not in terminal.shown
    assert not (tmp_path / "made").exists()


def test_without_a_terminal_and_without_a_file_there_is_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        PROGRAM, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "missing: --domain, --connect-to, --internet, --internal; and there is no terminal to ask on" in done.stderr
    assert "--file settings.yaml" in done.stderr
    assert not (tmp_path / "made").exists()


def test_answers_do_not_take_the_place_of_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    terminal = start("--save", str(tmp_path / "mine"))
    assert terminal.finish() != 0
    assert "exists" in terminal.shown
    assert (tmp_path / "mine").read_text() == "precious"
