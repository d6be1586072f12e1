"""The connectivity assistant never says inside without a valid answer on the network as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portico.client.assistant.core import Action, Locator, Place

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["up", "down", "proven", "not", "stale", "tick"]),
        st.floats(0, 40, allow_nan=False),
    ),
    max_size=60,
)


@given(EVENTS)
def test_inside_needs_a_valid_answer_on_the_current_network(events: list[tuple[str, float]]) -> None:
    locator, now, last = Locator(), 0.0, None
    for name, later in events:
        now += later
        if name in {"up", "down"}:
            locator.changed(now, network=name == "up")
        elif name == "tick":
            locator.expire(now)
        else:
            dropped = locator.dropped
            generation = locator.generation - (name == "stale")
            locator.answered(now, generation, proven=name != "not")
            if locator.dropped == dropped:
                last = (generation, name == "proven")
        if locator.place is Place.INSIDE:
            assert last == (locator.generation, True)


def test_outside_dials_without_waiting_for_the_answer_and_inside_takes_down() -> None:
    locator = Locator()
    locator.changed(0.0, network=True)
    assert locator.expire(0.1) == ()
    assert locator.expire(0.2) == (Action.DIAL, Action.ASK)
    assert locator.answered(0.3, locator.generation, proven=True) == (Action.TAKE_DOWN,)
    assert locator.place is Place.INSIDE


def test_changes_that_never_end_are_asked_about_all_the_same() -> None:
    locator = Locator()
    for step in range(11):
        locator.changed(step / 10, network=True)
    assert locator.timer == 1.0


def test_an_answer_of_the_network_before_is_dropped() -> None:
    locator = Locator()
    locator.changed(0.0, network=True)
    locator.expire(1.0)
    asked = locator.generation
    locator.changed(2.0, network=True)
    assert locator.answered(2.1, asked, proven=True) == ()
    assert (locator.place, locator.dropped) == (Place.NOWHERE, 1)


def test_silence_is_outside() -> None:
    locator = Locator()
    locator.changed(0.0, network=True)
    locator.expire(1.0)
    assert locator.expire(6.0) == ()
    assert locator.place is Place.OUTSIDE
    assert locator.timer == 36.0
