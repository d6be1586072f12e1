"""`portico client status|page|collect`, with an agent that is left out."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from portico.client.assistant.report import Check, Place, Report, State, Who
from portico.client.status import ClientStatus, Status, Substatus
from portico.client.surface import feed_client, page_server, sources
from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.management.cli import client, client_assistant, user_login
from portico.management.cli.app import app

THEN = datetime(2026, 11, 28, 7, 0, tzinfo=UTC)


def report(status: Status, state: State = State.PASSED) -> Report:
    check = Check(name="web probe", state=state, detail="HTTP 503", since=THEN)
    if state is State.FAILED:
        told = {"cause": "the server cannot serve", "resolution": "wait", "who": Who.ADMINISTRATOR}
        check = check.model_copy(update=told)
    return Report(place=Place.OUTSIDE, status=status, substatus=Substatus.NONE, since=THEN, checks=(check,))


def answer(status: Status, told: Report | None) -> dict[str, Any]:
    shown = ClientStatus(
        status, Substatus.NONE, "IPHTTPS", "IPHTTPS interface active", "link_up", "connect", name="pc7"
    )
    return {**shown.as_dict(), "assistant": told.as_dict() if told else None}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any] | PorticoError], None]:
    """What the agent answers at its control socket."""

    def says(what: dict[str, Any] | PorticoError) -> None:
        def ask(*_: Any, **__: Any) -> dict[str, Any]:
            if isinstance(what, PorticoError):
                raise what
            return what

        for module in (client, client_assistant, user_login, sources):
            monkeypatch.setattr(module, "ask", ask)

    return says


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Report | PorticoError], None]:
    """What the agent tells every user."""

    def says(what: Report | PorticoError) -> None:
        def read() -> Report:
            if isinstance(what, PorticoError):
                raise what
            return what

        monkeypatch.setattr(feed_client, "read", read)

    return says


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["client", *arguments])


@pytest.mark.parametrize(
    ("status", "word", "exit_status"),
    [
        (Status.CONNECTED_REMOTELY, "working", 0),
        (Status.CONNECTED_LOCALLY, "working", 0),
        (Status.CONNECTING, "connecting", 1),
        (Status.ERROR, "broken", 1),
        (Status.ACTIONABLE_ERROR, "broken", 1),
        (Status.DISCONNECTED, "off", 1),
        (Status.NOT_ENROLLED, "off", 1),
    ],
)
def test_one_word_says_whether_it_works(agent: Any, status: Status, word: str, exit_status: int) -> None:
    agent(answer(status, report(status)))
    shown = run("status")
    assert shown.exit_code == 0, "the agent has answered"
    assert shown.stdout.split()[0] == word
    found = run("status", "--json", "--check")
    assert found.exit_code == exit_status
    assert (json.loads(found.stdout)["word"], json.loads(found.stdout)["status"]) == (word, status.value)


def test_the_check_that_failed_comes_with_since_cause_resolution_and_who(agent: Any) -> None:
    agent(answer(Status.ERROR, report(Status.ERROR, State.FAILED)))
    text = run("status").stdout
    for words in ("What failed", "web probe", "Since", "HTTP 503", "the server cannot serve", "wait", "Who must act"):
        assert words in text
    assert text.index("What failed") < text.index("Check ") < text.index("Name"), "the answer, the chain, the rest"


def test_waiting_in_vain_says_which_check_failed(agent: Any) -> None:
    agent(answer(Status.CONNECTING, report(Status.CONNECTING, State.FAILED)))
    refused = run("connect", "--wait", "0.01")
    assert refused.exit_code == 4
    assert "web probe: HTTP 503" in refused.stderr
    agent(answer(Status.CONNECTED_LOCALLY, report(Status.CONNECTED_LOCALLY)))
    assert run("connect").exit_code == 0, "inside is where it wants to be"


def test_an_agent_without_a_report_is_shown_by_its_status(agent: Any) -> None:
    agent(answer(Status.NOT_ENROLLED, None))
    assert run("status").stdout.startswith("off  NotEnrolled")


def test_a_report_of_another_kind_is_an_error(agent: Any) -> None:
    agent({**answer(Status.ERROR, None), "assistant": {"place": "moon"}})
    refused = run("status")
    assert refused.exit_code == 1
    assert "is not understood" in refused.stderr


def test_a_user_without_root_sees_what_everybody_may_see(agent: Any, told: Any) -> None:
    agent(NotPermitted("The client's agent cannot be asked", why="root's"))
    told(report(Status.ERROR, State.FAILED))
    shown = run("status")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("broken")
    assert "the server cannot serve" in shown.stdout
    assert "sudo" in shown.stderr
    found = json.loads(run("status", "--json").stdout)
    assert (found["word"], found["assistant"]["checks"][0]["name"]) == ("broken", "web probe")


def test_no_agent_is_status_four(agent: Any, told: Any) -> None:
    gone = Unavailable("The client's agent does not answer", code="AGENT_NOT_RUNNING")
    agent(gone)
    assert run("status").exit_code == 4
    assert run("status", "--check").exit_code == 4
    agent(NotPermitted("no"))
    told(gone)
    assert run("status").exit_code == 4
    assert run("page", "--output", "x.html").exit_code == 4


def test_watching_shows_it_again(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent(answer(Status.CONNECTED_REMOTELY, report(Status.CONNECTED_REMOTELY)))
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("portico.management.cli.watch.time.sleep", sleep)
    shown = run("status", "--watch", "2")
    assert (shown.exit_code, naps) == (0, [2.0, 2.0, 2.0])
    assert shown.stdout.count("working") == 3
    assert run("status", "--watch", "2", "--check").exit_code == 1


def test_the_page_is_written_for_its_owner(told: Any, tmp_path: Path) -> None:
    told(report(Status.CONNECTED_REMOTELY))
    written = run("page", "--output", str(tmp_path / "x.html"), "--json")
    assert json.loads(written.stdout) == {"file": str(tmp_path / "x.html")}
    assert "working" in (tmp_path / "x.html").read_text()
    assert stat.S_IMODE((tmp_path / "x.html").stat().st_mode) == 0o600


def test_the_page_is_shown_until_nobody_looks(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told(report(Status.CONNECTED_REMOTELY))

    async def at_once(_self: Any, **_: Any) -> None:
        return

    monkeypatch.setattr(page_server.PageServer, "run", at_once)
    shown = run("page", "--json")
    assert json.loads(shown.stdout)["url"].startswith("http://127.0.0.1:")


def test_collecting_prints_the_path_of_a_file_for_its_owner(
    agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTICO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    agent(answer(Status.ERROR, report(Status.ERROR, State.FAILED)))
    shown = run("collect", "--output", str(tmp_path / "b.tar.gz"))
    assert (shown.exit_code, shown.stdout) == (0, f"{tmp_path / 'b.tar.gz'}\n")
    assert stat.S_IMODE((tmp_path / "b.tar.gz").stat().st_mode) == 0o600
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        assert any(name.endswith("/chain.txt") for name in archive.getnames())
    assert run("collect", "--output", str(tmp_path / "b.tar.gz")).exit_code == 7, "nothing is overwritten"


def test_listing_collects_nothing_and_needs_no_root(
    agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTICO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    agent(Unavailable("nobody is to be asked"))
    listed = json.loads(run("collect", "--list", "--json").stdout)
    assert {"status.json", "routes-ipv6.txt", "journal.txt"} <= {item["name"] for item in listed}
    assert all(item["source"] and item["limit"] for item in listed)
    assert "routes-ipv6.txt" in run("collect", "--list").stdout
    assert list(tmp_path.iterdir()) == []
    assert run("collect").exit_code == 5
