"""How far a server is follows from what is known of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from portico.server.additions.core import Attempt, Attempts, Seen, State, Step, judge, plan

FAILURE = {"code": "TOPOLOGY_DIFFERS", "what": "This machine cannot join", "why": "one interface", "resolution": "two"}
TAKEN_IN = Seen("da2", token="used", entry=True, member=True, attempt=Attempt(asked=True))
HEARD = replace(TAKEN_IN, confirmed=True, reachable=True, applied=7, newest=7)

WAITING, RUNNING, DONE, FAILED = State.WAITING, State.RUNNING, State.DONE, State.FAILED


@pytest.mark.parametrize(
    ("seen", "states", "overall", "detail"),
    [
        (Seen("da2"), [FAILED, WAITING, WAITING, WAITING], FAILED, "there is no token for it on this server"),
        (
            Seen("da2", token="expired", expires="2026-01-01T10:00:00"),
            [FAILED, WAITING, WAITING, WAITING],
            FAILED,
            "its token worked until 2026-01-01 10:00 UTC",
        ),
        (Seen("da2", token="open"), [DONE, WAITING, WAITING, WAITING], WAITING, "run on it: portico server join TOKEN"),
        (
            Seen("da2", token="used", attempt=Attempt(asked=True)),
            [DONE, RUNNING, WAITING, WAITING],
            RUNNING,
            "its machine has asked",
        ),
        (
            Seen("da2", token="used", attempt=Attempt(asked=True, failure=FAILURE, failed=Step.CHECKING)),
            [DONE, FAILED, WAITING, WAITING],
            FAILED,
            "This machine cannot join",
        ),
        (TAKEN_IN, [DONE, DONE, RUNNING, WAITING], RUNNING, "it takes over settings, keys and records"),
        (
            replace(TAKEN_IN, attempt=Attempt(asked=True, doing="Read the records of certificates")),
            [DONE, DONE, RUNNING, WAITING],
            RUNNING,
            "Read the records of certificates",
        ),
        (
            # It gave up and was taken out of the settings again.
            Seen("da2", attempt=Attempt(asked=True, failure=FAILURE, failed=Step.JOINING)),
            [DONE, DONE, FAILED, WAITING],
            FAILED,
            "This machine cannot join",
        ),
        (
            replace(TAKEN_IN, confirmed=True),
            [DONE, DONE, DONE, WAITING],
            WAITING,
            "run on it: portico server start",
        ),
        (HEARD, [DONE, DONE, DONE, RUNNING], RUNNING, "no heartbeat was heard yet"),
        (replace(HEARD, state="Converging"), [DONE, DONE, DONE, RUNNING], RUNNING, "Converging, revision 7"),
        (
            replace(HEARD, state="Converged", applied=6),
            [DONE, DONE, DONE, RUNNING],
            RUNNING,
            "Converged, revision 6 of 7",
        ),
        (
            replace(HEARD, state="Converged", buckets=20),
            [DONE, DONE, DONE, DONE],
            DONE,
            "Converged, 20 of 60 buckets, revision 7",
        ),
        (replace(HEARD, state="Default", buckets=60), [DONE] * 4, DONE, "Default, 60 of 60 buckets"),
        (replace(HEARD, state="Stopped"), [DONE, DONE, DONE, RUNNING], RUNNING, "Stopped"),
        (replace(HEARD, state="Stopped", wanted="stopped"), [DONE] * 4, DONE, "Stopped, as the settings say"),
    ],
)
def test_a_server_is_where_it_can_be_seen_to_be(seen: Seen, states: list[State], overall: State, detail: str) -> None:
    found = judge(seen)
    assert [item.step for item in found.steps] == list(Step)
    assert [item.state for item in found.steps] == states
    assert found.state is overall
    at = next((item for item in found.steps if item.state is not DONE), found.steps[-1])
    assert detail in at.detail
    assert (at.failure is not None) == (overall is FAILED)


def test_a_failure_says_what_to_do() -> None:
    found = judge(Seen("da2", token="burned"))
    assert found.steps[0].failure == {
        "code": "JOIN_TOKEN_MISSING",
        "what": "da2 cannot join",
        "why": "its token was shown with a wrong secret three times",
        "resolution": "Make a token: portico lb add da2",
    }


def test_the_plan_names_every_step_and_the_server() -> None:
    found = plan("da2")
    assert [item["step"] for item in found] == [step.value for step in Step]
    assert all("{" not in item["what"] for item in found)


def test_what_is_remembered_is_bounded_and_forgotten_with_a_new_token() -> None:
    attempts = Attempts(limit=3)
    for number in range(5):
        attempts.asked(f"da{number}")
    assert attempts.names() == ["da2", "da3", "da4"]
    failure: dict[str, Any] = dict(FAILURE)
    attempts.failed("da2", Step.CHECKING, failure)
    attempts.asked("da5")
    assert attempts.names() == ["da4", "da2", "da5"], "the oldest is forgotten first, and it was da3"
    assert attempts.get("da2").failure == FAILURE
    attempts.taken_out("da2")
    assert attempts.get("da2").failure == FAILURE, "why it could not join stays to be seen"
    attempts.kept("da2")
    attempts.taken_out("da5")
    assert attempts.names() == ["da4", "da2"]
    assert attempts.get("da2") == Attempt(asked=True, kept=True)
    attempts.forget("da2")
    assert attempts.get("da2") == Attempt()
