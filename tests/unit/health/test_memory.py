"""Since when things are so, what changed, and what other servers may say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import InvalidInput
from portico.health.alerting.conditions import CLUSTER, conditions
from portico.health.components import Component
from portico.health.evaluate import evaluate
from portico.health.memory import Memory
from portico.health.observations import Distribution, Observations
from portico.health.report import ServerReport, read, silent, together
from portico.health.states import HealthState, worst

from .test_heuristics import CLUSTER as SOUND
from .test_heuristics import FINE, members, seen
from .test_heuristics import silent as silent_dns

ONE_SILENT = seen(dns_servers=silent_dns("10.0.0.54"))
BOTH_SILENT = seen(dns_servers=silent_dns("10.0.0.53", "10.0.0.54"))


def look(memory: Memory, observed: Observations, now: float, server: str = "da1") -> tuple[ServerReport, list[Any]]:
    return memory.look(server, evaluate(observed), now, version="1.0", distribution=observed.distribution)


def row(report: ServerReport, component: Component = Component.DNS) -> Any:
    found = report.component(component)
    assert found is not None
    return found


def test_since_when_survives_a_restart() -> None:
    memory = Memory()
    first, events = look(memory, FINE, 100.0)
    assert events == [] and first.state is HealthState.OK
    second, events = look(memory, ONE_SILENT, 200.0)
    assert [(e.component, e.former, e.state, e.codes) for e in events] == [
        (Component.DNS, HealthState.OK, HealthState.WARNING, ("DNS_SERVER_SILENT",))
    ]
    assert (row(second).since, second.since, row(second, Component.NAT64).since) == (200.0, 200.0, 100.0)
    memory = Memory(json.loads(json.dumps(memory.as_data())))
    third, events = look(memory, ONE_SILENT, 300.0)
    assert events == [] and row(third).since == 200.0 and row(third).findings[0].since == 200.0 and third.since == 200.0
    fourth, events = look(memory, BOTH_SILENT, 400.0)
    assert [event.state for event in events] == [HealthState.ERROR] and row(fourth).since == 400.0
    fifth, events = look(memory, FINE, 500.0)
    assert [event.state for event in events] == [HealthState.OK] and fifth.since == 500.0


def test_other_words_are_no_change_and_another_cause_is() -> None:
    memory = Memory()
    look(memory, seen(distribution=Distribution(8, 7, 7, behind_for=20.0)), 1.0)
    _, events = look(memory, seen(distribution=Distribution(8, 7, 7, behind_for=23.0)), 4.0)
    assert events == []
    _, events = look(memory, seen(distribution=Distribution(8, 7, 7, behind_for=26.0), drifting=("add route x",)), 7.0)
    assert len(events) == 1 and set(events[0].codes) == {"SETTINGS_NOT_RETRIEVED", "DRIFT"}


def test_a_clock_that_went_back_puts_nothing_into_the_future() -> None:
    memory = Memory()
    look(memory, ONE_SILENT, 1000.0)
    report, _ = look(memory, ONE_SILENT, 10.0)
    assert max(r.since for r in report.components) <= 10.0 and report.since <= 10.0


def test_a_server_that_does_not_answer_is_one_event_and_keeps_what_was_known() -> None:
    memory = Memory()
    last, _ = look(Memory(), ONE_SILENT, 100.0, "da2")
    memory.note(last, 100.0)
    lost = silent("da2", last, 150.0, "no answer in time", 160.0)
    assert lost.state is HealthState.ERROR and not lost.answers and lost.at == 100.0
    assert row(lost).state is HealthState.UNKNOWN and "Warning" in row(lost).why
    assert row(lost, Component.TEREDO).state is HealthState.DISABLED
    (event,) = memory.note(lost, 160.0)
    assert event.component is Component.SERVER and event.codes == ("SERVER_SILENT",) and "no answer" in event.cause
    assert memory.note(silent("da2", last, 150.0, "no answer in time", 163.0), 163.0) == []
    again, _ = look(Memory(), ONE_SILENT, 200.0, "da2")
    (event,) = memory.note(again, 200.0)
    assert event.component is Component.SERVER and event.state is HealthState.OK


@pytest.mark.parametrize("kept", [None, 1, [], {"da1": None}, {"da1": {"components": [1], "state": "OK", "since": 1}}])
def test_a_damaged_memory_is_an_empty_one(kept: object) -> None:
    assert Memory(kept).as_data() == {}


def test_the_cluster_is_what_its_worst_server_is() -> None:
    fine, _ = look(Memory(), FINE, 1.0, "da1")
    bad, _ = look(Memory(), BOTH_SILENT, 1.0, "da2")
    whole = together("da1", {"da1": fine, "da2": bad}, cluster=True, now=2.0)
    assert whole.state is HealthState.ERROR and [server.server for server in whole.servers] == ["da1", "da2"]


@given(st.lists(st.sampled_from(HealthState)))
def test_the_roll_up_is_the_worst_and_nothing_but_disabled_is_disabled(states: list[HealthState]) -> None:
    found = worst(states)
    counted = [state for state in states if state is not HealthState.DISABLED]
    assert (found is HealthState.DISABLED) == (not counted)
    assert not counted or found in counted
    assert (HealthState.ERROR in states) == (found is HealthState.ERROR)


def test_distribution_has_the_words_of_windows() -> None:
    for state, text in (
        (Distribution(8, 8, 8), "successfully"),
        (Distribution(8, 7, 7), "not been retrieved"),
        (Distribution(8, 8, 7), "not applied yet"),
        (Distribution(8, 8, 7, error="no device"), "cannot be applied: no device"),
    ):
        report, _ = look(Memory(), replace(FINE, distribution=state), 1.0)
        assert report.distribution is not None and text in report.distribution.message


def test_what_all_share_is_one_condition_with_those_who_saw_it() -> None:
    one, _ = look(Memory(), BOTH_SILENT, 1.0, "da1")
    two, _ = look(
        Memory(), seen(dns_servers=silent_dns("10.0.0.53", "10.0.0.54"), drifting=("add route x",)), 2.0, "da2"
    )
    found = conditions(one, [two], cluster=True)
    (subject,) = found
    assert (subject.server, subject.component, subject.about) == (CLUSTER, Component.DNS, "")
    assert found[subject].seen_by == ("da1", "da2") and found[subject].since == 1.0
    alone = conditions(one, [], cluster=False)
    assert [str(subject) for subject in alone] == ["da1/dns"]
    assert {str(s) for s in conditions(two, [one], cluster=True)} == {"cluster/dns", "da2/server"}


def test_two_servers_that_are_gone_are_two_conditions() -> None:
    gone = replace(members(None, None), neighbours=())
    report, _ = look(Memory(), seen(cluster=gone), 1.0)
    assert {str(subject) for subject in conditions(report, [], cluster=True)} == {
        "cluster/high-availability/da1",
        "cluster/high-availability/da2",
        "cluster/high-availability/da3",
    }
    assert SOUND.members is not None


def test_a_report_crosses_the_wire() -> None:
    report, _ = look(Memory(), BOTH_SILENT, 1.0)
    data = json.loads(report.model_dump_json())
    assert read(data) == report
    data["components"].append({"component": "teleport", "state": "OK"})
    data["something"] = "newer"
    assert read(data) == report, "a newer server may know more"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("server",), "x" * 64),
        (("components",), None),
        (("components", 0), 5),
        (("components", 0, "state"), "Splendid"),
        (("components", 4, "findings", 0, "what"), "x" * 601),
        (("since",), "yesterday"),
    ],
)
def test_a_malformed_report_is_refused(path: tuple[Any, ...], value: object) -> None:
    report, _ = look(Memory(), BOTH_SILENT, 1.0)
    data = json.loads(report.model_dump_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidInput) as refused:
        read(data)
    assert refused.value.code == "MESSAGE_MALFORMED"
    everything: tuple[object, ...] = (None, [], "x", 1)
    for nonsense in everything:
        with pytest.raises(InvalidInput):
            read(nonsense)
