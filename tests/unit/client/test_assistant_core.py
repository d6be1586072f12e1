"""The connectivity assistant never says inside without a valid answer on the network as it is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.client.assistant import core
from portico.client.assistant.core import TRANSITIONS, Action, Locator, Place, Sign

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["up", "down", "proven", "not", "stale", "tick", "look"]),
        st.floats(0, 40, allow_nan=False),
    ),
    max_size=60,
)


@given(EVENTS)
def test_inside_needs_a_valid_answer_on_the_current_network(events: list[tuple[str, float]]) -> None:
    locator, now, proven = Locator(), 0.0, None
    dialled, owed = False, 0.0
    for name, later in events:
        now += later
        before = locator.place
        actions: tuple[Action, ...]
        match name:
            case "up" | "down":
                actions = locator.changed(now, network=name == "up")
            case "tick":
                actions = locator.expire(now)
            case "look":
                actions = locator.look_again(now)
            case _:
                dropped = locator.dropped
                generation = locator.generation - (name == "stale")
                actions = locator.answered(now, generation, proven=name != "not")
                if locator.dropped == dropped and name == "proven":
                    proven = locator.generation
        if locator.place is Place.INSIDE:
            assert proven == locator.generation
            assert before is Place.INSIDE or actions == (Action.TAKE_DOWN,)
        dialled = (dialled or Action.DIAL in actions) and Action.TAKE_DOWN not in actions
        if locator.place is Place.OUTSIDE:
            assert dialled, "whoever is outside has a tunnel"
        if locator.place is Place.UNKNOWN and not dialled:
            owed = locator.timer if locator.timer is not None else 1e9
            assert owed <= now + core.HEAD_START, "or gets one soon"
        if locator.place is not Place.NOWHERE:
            assert locator.timer is not None, "it never stops to look"


def test_the_table_is_whole_but_for_answers_without_a_network() -> None:
    missing = {key for key in product(Place, Sign) if key not in TRANSITIONS}
    assert missing == {(Place.NOWHERE, Sign.PROVEN), (Place.NOWHERE, Sign.NOT_PROVEN)}
    assert all(sign is Sign.PROVEN for (_, sign), step in TRANSITIONS.items() if step.place is Place.INSIDE)


def outside() -> Locator:
    locator = Locator()
    assert locator.changed(0.0, network=True) == (Action.ASK, Action.DIAL)
    assert locator.answered(0.1, locator.generation, proven=False) == (Action.DIAL,)
    assert locator.place is Place.OUTSIDE
    return locator


def inside() -> Locator:
    locator = Locator()
    locator.changed(0.0, network=True)
    assert locator.answered(0.1, locator.generation, proven=True) == (Action.TAKE_DOWN,)
    assert locator.place is Place.INSIDE
    return locator


def test_the_first_change_dials_and_asks_at_once() -> None:
    locator = Locator()
    assert locator.timer is None
    assert locator.changed(7.0, network=True) == (Action.ASK, Action.DIAL)


def test_changes_that_follow_each_other_are_asked_about_together_and_without_end_all_the_same() -> None:
    locator = Locator()
    asked = [step / 20 for step in range(40) if Action.ASK in locator.changed(step / 20, network=True)]
    assert len(asked) in (8, 10), "five a second"
    assert locator.changed(9.0, network=True) == (Action.ASK, Action.DIAL)
    assert locator.changed(9.05, network=True) == (Action.DIAL,)
    assert locator.timer == pytest.approx(9.0 + core.SETTLE)
    assert locator.expire(9.0 + core.SETTLE) == (Action.ASK,)


def test_an_answer_of_the_network_before_is_dropped() -> None:
    locator = Locator()
    locator.changed(0.0, network=True)
    asked = locator.generation
    locator.changed(2.0, network=True)
    assert locator.answered(2.1, asked, proven=True) == ()
    assert (locator.place, locator.dropped) == (Place.UNKNOWN, 1)


def test_a_second_answer_to_one_question_is_dropped() -> None:
    locator = outside()
    assert locator.answered(0.2, locator.generation, proven=True) == ()
    assert locator.place is Place.OUTSIDE


def test_silence_is_outside_and_asked_about_again_ever_more_rarely() -> None:
    locator = Locator()
    locator.changed(0.0, network=True)
    assert locator.expire(core.PATIENCE) == (Action.DIAL,)
    assert locator.place is Place.OUTSIDE
    now, waits = core.PATIENCE, []
    for _ in range(12):
        assert locator.timer is not None
        waits.append(locator.timer - now)
        now = locator.timer
        assert Action.ASK in locator.expire(now)
        locator.answered(now, locator.generation, proven=False)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == core.AGAIN


def test_a_change_inside_gives_the_location_server_a_head_start() -> None:
    locator = inside()
    assert locator.changed(10.0, network=True) == (Action.ASK,)
    assert locator.place is Place.UNKNOWN, "it must be proven again"
    assert locator.answered(10.1, locator.generation, proven=True) == (Action.TAKE_DOWN,)
    assert locator.timer == 10.1 + core.AGAIN, "nothing is dialled later"
    assert locator.changed(20.0, network=True) == (Action.ASK,)
    assert locator.expire(20.0 + core.HEAD_START) == (Action.DIAL,)


def test_inside_survives_one_lost_answer_on_an_unchanged_network_and_no_more_than_that() -> None:
    locator = inside()
    now = 0.1 + core.AGAIN
    for _ in range(core.DOUBTS - 1):
        assert locator.expire(now) == (Action.ASK,)
        assert locator.answered(now, locator.generation, proven=False) == ()
        assert locator.place is Place.INSIDE
        now += core.DOUBT_AGAIN
    assert locator.expire(now) == (Action.ASK,)
    assert locator.answered(now, locator.generation, proven=False) == (Action.DIAL,)
    assert locator.place is Place.OUTSIDE


def test_without_a_network_nobody_is_asked() -> None:
    locator = inside()
    assert locator.changed(5.0, network=False) == ()
    assert (locator.place, locator.timer) == (Place.NOWHERE, None)
    assert locator.look_again(6.0) == ()
    assert locator.changed(7.0, network=True) == (Action.ASK, Action.DIAL)


def test_whoever_wants_to_know_is_told_soon() -> None:
    locator = outside()
    assert locator.look_again(50.0) == (Action.ASK,)
    assert locator.look_again(50.1) == (), "it is being asked"
    assert locator.answered(50.2, locator.generation, proven=True) == (Action.TAKE_DOWN,)
