"""The table of transitions is complete, and what is not in it raises."""

from __future__ import annotations

from itertools import product

import pytest

from portico.cluster.states import COMMANDS, TRANSITIONS, IllegalTransition, State, Trigger, after, windows_state
from portico.errors import Conflict


@pytest.mark.parametrize(("state", "trigger"), list(product(State, Trigger)))
def test_every_pair_is_in_the_table_or_raises(state: State, trigger: Trigger) -> None:
    if (state, trigger) in TRANSITIONS:
        assert after(state, trigger) is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(IllegalTransition):
            after(state, trigger)


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_a_suspended_server_takes_no_command_but_resume() -> None:
    assert {t for s, t in TRANSITIONS if s is State.SUSPENDED and t in COMMANDS} == {Trigger.RESUME, Trigger.SUSPEND}
    with pytest.raises(Conflict) as caught:
        after(State.SUSPENDED, Trigger.START)
    assert caught.value.as_dict() == {
        "code": "CLUSTER_STATE",
        "what": "The server cannot start",
        "why": "it is suspended in its cluster",
        "resolution": "Resume it first.",
    }


@pytest.mark.parametrize(
    ("state", "converged", "default", "name"),
    [
        (State.STOPPED, True, False, "Stopped"),
        (State.SUSPENDED, True, False, "Suspended"),
        (State.JOINING, True, False, "Converging"),
        (State.MEMBER, False, True, "Converging"),
        (State.MEMBER, True, True, "Default"),
        (State.MEMBER, True, False, "Converged"),
        (State.DRAINING, True, False, "Draining"),
        (State.LEAVING, False, False, "Draining"),
    ],
)
def test_states_have_the_names_that_windows_gives_them(state: State, converged: bool, default: bool, name: str) -> None:
    assert windows_state(state, converged=converged, default_host=default) == name
