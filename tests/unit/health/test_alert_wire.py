"""What leaves: JSON with a signature that others can make too, and syslog that its grammar accepts."""

from __future__ import annotations

import hashlib
import hmac
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from portico.health.alerting import wire
from portico.health.alerting.conditions import Condition, Subject
from portico.health.alerting.core import Alert, Kind
from portico.health.components import Component
from portico.health.states import HealthState

SUBJECT = Subject("cluster", Component.DNS, "10.0.0.53")
CONDITION = Condition(
    HealthState.ERROR, frozenset({"B", "A"}), "No DNS", "because", "Do this", 1_800_000_000.0, ("da1", "da2")
)
ALERT = Alert(Kind.RAISED, 1_800_000_030.5, SUBJECT, CONDITION, HealthState.OK, 2)

# RFC 5424 section 6, for what is made here.
GRAMMAR = re.compile(
    r"<(?P<priority>[0-9]{1,3})>1 (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{1,6}Z) (?P<host>[!-~]{1,255}) "
    r"portico [0-9]+ (?P<kind>[!-~]{1,32}) "
    r"\[portico@32473(?P<fields>( [a-z]+=\"(\\[\"\\\]]|[^\"\\\]])*\")*)\] \ufeff(?P<text>.*)",
    flags=re.DOTALL,
)


def test_the_body_says_everything() -> None:
    data = json.loads(wire.encode(wire.body(ALERT, "id1", "da1")))
    assert data == {
        "id": "id1",
        "kind": "raised",
        "at": "2027-01-15T08:00:30.500Z",
        "sender": "da1",
        "server": "cluster",
        "component": "dns",
        "title": "Dns",
        "about": "10.0.0.53",
        "state": "Error",
        "former": "OK",
        "codes": ["A", "B"],
        "what": "No DNS",
        "cause": "because",
        "resolution": "Do this",
        "since": "2027-01-15T08:00:00.000Z",
        "seen_by": ["da1", "da2"],
        "suppressed": 2,
        "listed": [],
    }


def test_the_signature_is_an_hmac_over_time_and_body() -> None:
    expected = hmac.new(b"secret", b"1800000000.{}", hashlib.sha256).hexdigest()
    assert wire.signature(b"secret", "1800000000", b"{}") == f"sha256={expected}"


def test_a_summary_lists_what_it_is_about() -> None:
    what = Condition(HealthState.WARNING, what="many")
    summary = Alert(Kind.SUMMARY, 1.0, None, what, suppressed=40, listed=((SUBJECT, HealthState.ERROR),))
    data = wire.body(summary, "id2", "da1")
    assert data["component"] is None and data["listed"] == [{"subject": "cluster/dns/10.0.0.53", "state": "Error"}]
    assert b"cluster/dns/10.0.0.53 Error" in wire.syslog(data, "daemon", "da1", 1)


def test_syslog_of_an_error() -> None:
    found = GRAMMAR.fullmatch(wire.syslog(wire.body(ALERT, "id1", "da1"), "local3", "da1", 77).decode())
    assert found is not None
    assert int(found["priority"]) == (16 + 3) * 8 + 3 and found["kind"] == "raised"
    assert found["text"] == "Dns Error: No DNS: because. Do this"
    assert ' codes="A,B"' in found["fields"] and ' about="10.0.0.53"' in found["fields"]


@given(st.text(max_size=3000), st.text(max_size=200), st.text(max_size=300))
def test_whatever_texts_say_syslog_is_one_valid_message(cause: str, about: str, host: str) -> None:
    condition = Condition(HealthState.WARNING, frozenset({"A"}), "What", cause.encode("utf-8", "ignore").decode())
    alert = Alert(Kind.RAISED, 1.0, Subject("da1", Component.DNS, about.encode("utf-8", "ignore").decode()), condition)
    message = wire.syslog(wire.body(alert, "i", "da1"), "daemon", host, 1)
    assert len(message) <= wire.MAXIMUM_SYSLOG
    found = GRAMMAR.fullmatch(message.decode())
    assert found is not None, message
