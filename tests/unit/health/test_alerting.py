"""Alerts tell what lasts, once, and never storm. The clock is a number."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from portico.health.alerting.conditions import CLUSTER, Condition, Subject
from portico.health.alerting.core import (
    BURST,
    MAXIMUM_SUBJECTS,
    SUMMARY_SECONDS,
    Alert,
    Alerting,
    Kind,
    Policy,
    Voices,
    speakers,
)
from portico.health.components import Component
from portico.health.states import HealthState

DNS = Subject(CLUSTER, Component.DNS, "10.0.0.53")
DISK = Subject("da1", Component.SERVER)
ERROR = Condition(HealthState.ERROR, frozenset({"A"}), "It broke", "a cause", "Do this")
WARNING = Condition(HealthState.WARNING, frozenset({"B"}), "It will break")
UNKNOWN = Condition(HealthState.UNKNOWN, frozenset({"C"}), "Nobody knows")
POLICY = Policy(hold_down=30.0, flap_changes=6, flap_seconds=600.0, per_hour=60)
STEP = 3.0


class World:
    """What is wrong, and a clock; collects what is told."""

    def __init__(self, policy: Policy = POLICY, kept: object = None, own: str = "da1") -> None:
        self.alerting = Alerting(policy, kept)
        self.own = own
        self.others: list[World] = []
        self.now = 1_000_000.0
        self.wrong: dict[Subject, Condition] = {}
        self.leads = True
        self.told: list[Alert] = []

    def run(self, seconds: float) -> list[Alert]:
        fresh: list[Alert] = []
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            fresh += self.alerting.observe(self.wrong, self._voices(), self.now, lambda _subject: True)
        self.told += fresh
        return fresh

    def _voices(self) -> Voices:
        told: dict[Subject, str] = {}
        for other in self.others:
            told |= speakers(other.own, json.loads(json.dumps(other.alerting.as_data())))
        return Voices(self.own, self.leads, told, frozenset(other.own for other in self.others))

    def set(self, subject: Subject, condition: Condition | None) -> None:
        if condition is None:
            self.wrong.pop(subject, None)
        else:
            self.wrong[subject] = condition


def kinds(alerts: list[Alert]) -> list[Kind]:
    return [alert.kind for alert in alerts]


def test_what_lasts_is_told_once_and_so_is_its_end() -> None:
    world = World()
    world.set(DISK, ERROR)
    assert world.run(27) == []
    (alert,) = world.run(600)
    assert alert.kind is Kind.RAISED and alert.subject == DISK and alert.condition == ERROR
    world.set(DISK, None)
    assert world.run(27) == []
    (alert,) = world.run(600)
    assert alert.kind is Kind.CLEARED and alert.former is HealthState.ERROR


def test_what_is_short_is_counted_and_not_told() -> None:
    world = World()
    world.set(DISK, ERROR)
    world.run(15)
    world.set(DISK, None)
    assert world.run(600) == []
    assert world.alerting.counters.short == 1


def test_better_and_worse_and_one_more_cause_are_told() -> None:
    world = World()
    world.set(DISK, WARNING)
    world.run(60)
    world.set(DISK, ERROR)
    world.run(60)
    world.set(DISK, replace(ERROR, codes=frozenset({"A", "D"})))
    world.run(60)
    world.set(DISK, WARNING)
    world.run(60)
    assert kinds(world.told) == [Kind.RAISED, Kind.RAISED, Kind.RAISED, Kind.EASED]
    world.set(DISK, replace(WARNING, cause="other words for 17 s"))
    assert world.run(60) == [], "words are no news"


def test_unknown_is_not_told_and_neither_is_what_is_below_the_minimum() -> None:
    world = World(replace(POLICY, minimum=HealthState.ERROR))
    world.set(DISK, WARNING)
    world.set(DNS, UNKNOWN)
    assert world.run(600) == []
    world.set(DISK, ERROR)
    assert kinds(world.run(60)) == [Kind.RAISED]
    world.set(DISK, WARNING)
    assert kinds(world.run(60)) == [Kind.CLEARED]


def test_what_flaps_is_told_once_and_again_when_it_is_quiet() -> None:
    world = World()
    for _ in range(200):  # an hour and forty minutes
        world.set(DISK, ERROR)
        world.run(15)
        world.set(DISK, None)
        world.run(15)
    assert kinds(world.told) == [Kind.FLAPPING]
    assert world.alerting.status()["flapping_now"] == ["da1/server"]
    world.set(DISK, WARNING)
    (alert,) = world.run(700)
    assert alert.kind is Kind.STEADY and alert.condition == WARNING
    assert alert.suppressed > 300
    world.set(DISK, None)
    assert kinds(world.run(700)) == [Kind.CLEARED]


def test_slow_changes_are_no_flapping() -> None:
    world = World()
    for _ in range(5):
        world.set(DISK, ERROR)
        world.run(150)
        world.set(DISK, None)
        world.run(150)
    assert kinds(world.told) == [Kind.RAISED, Kind.CLEARED] * 5


def test_a_storm_becomes_a_few_alerts_and_a_summary() -> None:
    world = World()
    many = [Subject(CLUSTER, Component.DNS, f"10.0.{n}.53") for n in range(300)]
    for subject in many:
        world.set(subject, ERROR)
    world.run(60)
    assert kinds(world.told) == [Kind.RAISED] * BURST
    world.run(SUMMARY_SECONDS + 10)
    assert kinds(world.told) == [*[Kind.RAISED] * BURST, Kind.SUMMARY]
    summary = world.told[-1]
    assert summary.suppressed == 300 - BURST and len(summary.listed) == 30
    assert summary.condition.state is HealthState.ERROR
    assert world.run(3600) == [], "all of it is told"
    assert world.alerting.status()["withheld_now"] == 0


def test_whatever_happens_no_hour_has_more_alerts_than_allowed() -> None:
    chosen = random.Random(5)
    world = World(replace(POLICY, hold_down=0.0, per_hour=12, flap_changes=100))
    subjects = [Subject("da1", component) for component in Component]
    times: list[float] = []
    for _ in range(4000):
        world.set(chosen.choice(subjects), chosen.choice([ERROR, WARNING, None]))
        times += [alert.at for alert in world.run(STEP)]
    for begin in times:
        assert sum(begin <= at < begin + 3600 for at in times) <= 12 + BURST
    assert Kind.SUMMARY in kinds(world.told)
    counters = world.alerting.counters
    assert counters.told == len(world.told) and counters.withheld > 1000
    world.wrong.clear()
    world.run(7200)
    assert all(entry == 0 for entry in (len(world.alerting.as_data()), world.alerting.status()["withheld_now"]))


def test_exactly_one_server_tells_what_all_share_also_when_the_first_dies() -> None:
    first, second = World(), World(own="da2")
    second.leads = False
    first.others, second.others = [second], [first]
    for world in (first, second):
        world.set(DNS, ERROR)
        world.set(DISK, ERROR)
        world.run(60)
    assert [alert.subject for alert in first.told] == [DISK, DNS] or [a.subject for a in first.told] == [DNS, DISK]
    assert [alert.subject for alert in second.told] == [DISK], "its own it tells itself"
    second.leads, second.others = True, []  # the first is dead
    assert second.run(600) == [], "what the first told is not told again"
    second.set(DNS, None)
    assert kinds(second.run(60)) == [Kind.CLEARED]
    assert second.alerting.counters.left_to_leader == 1


def test_a_leader_that_dies_within_the_hold_down_loses_nothing() -> None:
    second = World()
    second.leads = False
    second.set(DNS, ERROR)
    second.run(15)
    second.leads = True
    assert kinds(second.run(60)) == [Kind.RAISED]


def test_who_told_the_beginning_tells_the_end_when_the_leader_is_back() -> None:
    first, second = World(), World(own="da2")
    second.set(DNS, ERROR)
    second.run(60)  # it leads, as the first is dead
    assert kinds(second.told) == [Kind.RAISED]
    second.leads = False
    first.others, second.others = [second], [first]
    first.alerting.adopt(second.alerting.as_data())
    for world in (first, second):
        world.set(DNS, ERROR)
    for _ in range(20):
        first.run(STEP)
        second.run(STEP)
    for world in (first, second):
        world.set(DNS, None)
    for _ in range(40):
        first.run(STEP)
        second.run(STEP)
    assert kinds(first.told) == [] and kinds(second.told) == [Kind.RAISED, Kind.CLEARED]
    for world in (first, second):
        world.set(DNS, ERROR)
    for _ in range(40):
        first.run(STEP)
        second.run(STEP)
    assert kinds(first.told) == [Kind.RAISED] and len(second.told) == 2, "the next time it is the leader's again"


def test_a_leader_that_was_away_believes_who_was_there() -> None:
    before, second = World(), World(own="da2")
    before.set(DNS, ERROR)
    before.run(60)
    first = World(kept=before.alerting.as_data())  # it was off when the second told the end
    assert first.alerting.as_data() != []
    first.alerting.adopt(second.alerting.as_data())
    first.others, second.others, second.leads = [second], [first], False
    assert first.run(120) == []


def test_two_that_told_the_same_while_apart_end_it_once() -> None:
    first, second = World(), World(own="da2")
    for world in (first, second):
        world.set(DNS, ERROR)
        world.run(60)
    assert kinds(first.told) == kinds(second.told) == [Kind.RAISED], "nobody could know better"
    second.leads = False
    first.others, second.others = [second], [first]
    for _ in range(5):
        first.run(STEP)
        second.run(STEP)
    for world in (first, second):
        world.set(DNS, None)
    for _ in range(40):
        first.run(STEP)
        second.run(STEP)
    assert kinds(first.told) == [Kind.RAISED, Kind.CLEARED] and kinds(second.told) == [Kind.RAISED]


def test_a_restart_tells_nothing_again() -> None:
    before = World()
    before.set(DISK, ERROR)
    before.run(60)
    kept = json.loads(json.dumps(before.alerting.as_data()))
    after = World(kept=kept)
    after.set(DISK, ERROR)
    assert after.run(600) == []
    after.set(DISK, None)
    assert kinds(after.run(60)) == [Kind.CLEARED], "what got well meanwhile is told"


@pytest.mark.parametrize("kept", [None, 5, "x", {}, [None], [{"server": 1}], [{"server": "a", "component": "x"}]])
def test_what_cannot_be_read_is_forgotten(kept: object) -> None:
    assert Alerting(POLICY, kept).as_data() == []


def test_a_clock_that_goes_back_delays_and_does_not_storm() -> None:
    world = World()
    world.set(DISK, ERROR)
    world.run(15)
    world.now -= 86_400
    assert kinds(world.run(60)) == [Kind.RAISED]
    world.now += 86_400
    assert world.run(600) == []


def test_subjects_are_bounded_and_counted() -> None:
    world = World()
    for number in range(MAXIMUM_SUBJECTS + 50):
        world.set(Subject(CLUSTER, Component.DNS, str(number)), ERROR)
    world.run(3)
    assert world.alerting.counters.subjects_refused == 50
    world.wrong.clear()
    world.run(60)
    assert world.alerting.status()["waiting"] == 0


def test_what_is_gone_is_forgotten_without_a_word() -> None:
    world = World()
    world.set(DISK, ERROR)
    world.run(60)
    world.wrong.clear()
    assert world.alerting.observe({}, Voices("da1"), world.now + 100, lambda _subject: False) == []
    assert world.alerting.as_data() == []
