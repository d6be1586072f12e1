"""The steps of an upgrade, and the journal by which it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import InvalidInput, PorticoError, Unavailable
from portico.server.upgrade.core import ENDS, NEXT, WORDS, Journal, Step, turn

JOURNAL = Journal(Step.DRAIN, "0.1.0", "0.2.0", "old.whl", "new.whl", "ab" * 32, "Converged", True)


def test_every_step_leads_to_an_end_whether_it_succeeds_or_fails() -> None:
    assert NEXT.keys() | ENDS == set(Step) and NEXT.keys() == WORDS.keys()
    for begin in NEXT:
        journal, seen = replace(JOURNAL, step=begin), []
        while not journal.ended:
            assert journal.step not in seen, "no way leads round"
            seen.append(journal.step)
            journal = journal.succeeded()
    assert JOURNAL.plan() == [
        "Take this server out of the cluster",
        "Install Portico 0.2.0",
        "Restart the server",
        "Wait until Portico 0.2.0 serves",
        "Take clients again",
    ]


@pytest.mark.parametrize(
    ("step", "then"),
    [
        (Step.DRAIN, Step.REJOIN_FORMER),
        (Step.INSTALL, Step.PUT_BACK),
        (Step.RESTART, Step.PUT_BACK),
        (Step.CHECK, Step.PUT_BACK),
        (Step.REJOIN, Step.PUT_BACK),
        (Step.PUT_BACK, None),
        (Step.REJOIN_FORMER, None),
    ],
)
def test_a_failure_leads_back_and_on_the_way_back_to_a_person(step: Step, then: Step | None) -> None:
    error = Unavailable("It does not serve", why="because", resolution="Look")
    journal = replace(JOURNAL, step=step).failed(error)
    assert (journal.step if journal is not None else None) == then
    if journal is not None:
        assert journal.failure == {
            **{"code": "UNAVAILABLE", "what": "It does not serve"},
            **{"why": "because", "resolution": "Look"},
        }


def test_what_is_over_goes_nowhere() -> None:
    for end in ENDS:
        for act in (Journal.succeeded, Journal.given_up, lambda j: j.failed(PorticoError("x"))):
            with pytest.raises(ValueError, match="nothing follows"):
                act(replace(JOURNAL, step=end))
    with pytest.raises(ValueError, match="on the way back"):
        replace(JOURNAL, step=Step.PUT_BACK).given_up()
    assert JOURNAL.given_up().step is Step.REJOIN_FORMER, "nothing was installed yet"
    assert replace(JOURNAL, step=Step.CHECK).given_up().step is Step.PUT_BACK


def test_a_journal_survives_being_written() -> None:
    for journal in (JOURNAL, replace(JOURNAL, step=Step.CHECK).given_up()):
        assert Journal.from_text(journal.as_text()) == journal
    later = {**json.loads(JOURNAL.as_text()), "added_by_a_later_version": 1}
    assert Journal.from_text(json.dumps(later).encode()) == JOURNAL


@pytest.mark.parametrize(
    "change",
    [
        {"step": "fly"},
        {"old": 1},
        {"old_wheel": "../../etc/passwd"},
        {"new_wheel": ""},
        {"sha256": None},
    ],
)
def test_a_damaged_journal_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as error:
        Journal.from_text(json.dumps({**json.loads(JOURNAL.as_text()), **change}).encode())
    assert error.value.code == "UPGRADE_JOURNAL"


@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps)))
def test_no_bytes_surprise_the_journal(data: bytes | str) -> None:
    with pytest.raises(InvalidInput):
        Journal.from_text(data.encode() if isinstance(data, str) else data)


@pytest.mark.parametrize(
    ("servers", "next_one"),
    [
        ({"da1": ("1", "Default"), "da2": ("1", "Converged"), "da3": ("1", "Converged")}, "da3"),
        ({"da1": ("1", "Default"), "da2": ("1", "Converged"), "da3": ("2", "Converged")}, "da2"),
        ({"da1": ("1", "Default"), "da2": ("1", "Converged"), "da3": ("2", "Stopped")}, None),
        ({"da1": ("1", "Default"), "da2": ("1", "Draining"), "da3": ("2", "Converged")}, "da2"),
        ({"da1": ("2", "Default"), "da2": ("2", "Converged")}, None),
        ({"da1": ("2", "Default"), "da2": ("", None)}, "da2"),
    ],
)
def test_the_leader_comes_last_and_nobody_before_the_one_before_serves(
    servers: dict[str, tuple[str, str | None]], next_one: str | None
) -> None:
    assert turn(servers, "2") == next_one
