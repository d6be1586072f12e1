"""Which status follows from which checks, and in which order ways in are tried."""

from __future__ import annotations

import asyncio

import pytest

from portico.client.assistant import findings
from portico.client.assistant.findings import Finding
from portico.client.assistant.report import Place, State
from portico.client.assistant.technologies import Name, Way, choose, in_use, table
from portico.client.assistant.verdict import conclude
from portico.client.status import Status, Substatus

REMOTE = (Status.CONNECTED_REMOTELY, Substatus.NONE)
NO_SERVER = (Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER)
GOOD = (
    findings.network("eth0 192.168.1.10/24"),
    findings.passed(findings.NLS),
    findings.passed(findings.ENDPOINTS),
    findings.corp("x", ""),
    findings.web_probe(""),
    findings.probe("PING:app.corp.example.net", ""),
)


def but(*changed: Finding) -> list[Finding]:
    others = {finding.name: finding for finding in changed}
    return [others.get(finding.name, finding) for finding in GOOD]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ((), REMOTE),
        ((findings.network(""),), (Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN)),
        ((findings.endpoints(("a", "b"), 2),), NO_SERVER),
        ((findings.endpoints(("a",), 2),), REMOTE),
        ((findings.corp("x", "no such name"),), (Status.ERROR, Substatus.NAME_RESOLUTION_FAILURE)),
        ((findings.web_probe("refused"),), (Status.CONNECTING, Substatus.NONE)),
        (
            (findings.probe("PING:app.corp.example.net", "silence"),),
            (Status.ERROR, Substatus.AUTHENTICATION_FAILURE),
        ),
        (
            (findings.corp("x", "no such name"), findings.web_probe("no such name")),
            (Status.ERROR, Substatus.NAME_RESOLUTION_FAILURE),
        ),
        ((findings.running(findings.CORP),), (Status.CONNECTING, Substatus.NONE)),
        ((findings.skipped(findings.WEB_PROBE, "there is none"),), REMOTE),
    ],
)
def test_status_outside(changed: tuple[Finding, ...], said: tuple[Status, Substatus]) -> None:
    assert conclude(Place.OUTSIDE, but(*changed), REMOTE) == said


def test_inside_is_connected_locally_whatever_else_is_wrong() -> None:
    assert conclude(Place.INSIDE, but(), NO_SERVER) == (Status.CONNECTED_LOCALLY, Substatus.NONE)


def test_without_a_connection_its_own_reason_counts_and_a_portal_is_for_the_user_to_open() -> None:
    assert conclude(Place.OUTSIDE, but(), NO_SERVER) == NO_SERVER
    actionable = (Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN)
    assert conclude(Place.OUTSIDE, but(), NO_SERVER, portal=True) == actionable
    assert conclude(Place.OUTSIDE, but(), REMOTE, portal=True) == REMOTE, "whoever is connected has got through"
    disconnected = (Status.DISCONNECTED, Substatus.NONE)
    assert conclude(Place.OUTSIDE, but(), disconnected, portal=True) == disconnected


def test_a_connection_that_was_not_looked_through_yet_is_connecting() -> None:
    assert conclude(Place.OUTSIDE, but(), REMOTE, in_use=False) == (Status.CONNECTING, Substatus.NONE)


@pytest.mark.parametrize(
    "finding",
    [
        findings.network(""),
        findings.technology("IPHTTPS", "refused", built=True),
        findings.portal("IPHTTPS", "another certificate"),
        findings.corp("x", "wrong"),
        findings.endpoints(("a",), 1),
        findings.web_probe("refused"),
        findings.probe("PING:x", "silence"),
    ],
)
def test_every_failure_says_why_what_helps_and_who_must_act(finding: Finding) -> None:
    assert finding.state is State.FAILED
    assert finding.cause and finding.resolution and finding.who is not None


class Fake:
    """A way in."""

    def __init__(self, device: str, obstacle: str | None = None) -> None:
        self.device = device
        self.said = obstacle

    async def bring_up(self) -> None: ...
    async def take_down(self) -> None: ...

    def obstacle(self) -> str | None:
        return self.said


def tried(ways: dict[Name, Way], refuse: tuple[str, ...] = ()) -> tuple[list[tuple[str, str | None, bool]], str | None]:
    async def accepts(way: Way) -> str:
        return "the name is wrong" if way.device in refuse else ""

    trials = asyncio.run(choose(table(ways), accepts))
    used = in_use(trials)
    return [
        (trial.technology.name.value, trial.obstacle, trial.accepted) for trial in trials
    ], used.name if used is not None else None


def test_technologies_that_are_not_built_are_passed_over() -> None:
    trials, used = tried({Name.IPHTTPS: Fake("https")})
    assert trials == [
        ("Native IPv6", "not built", False),
        ("6to4", "not built", False),
        ("Teredo", "not built", False),
        ("IPHTTPS", None, True),
    ]
    assert used == Name.IPHTTPS


def test_the_first_that_is_accepted_is_used_and_those_behind_it_are_not_tried() -> None:
    ways: dict[Name, Way] = {Name.TEREDO: Fake("teredo"), Name.IPHTTPS: Fake("https")}
    trials, used = tried(ways)
    assert (trials[-1], used) == (("Teredo", None, True), Name.TEREDO)


def test_one_through_which_the_name_is_wrong_gives_way_to_the_next() -> None:
    ways: dict[Name, Way] = {Name.TEREDO: Fake("teredo"), Name.IPHTTPS: Fake("https")}
    trials, used = tried(ways, refuse=("teredo",))
    assert trials[2:] == [("Teredo", "the name is wrong", False), ("IPHTTPS", None, True)]
    assert used == Name.IPHTTPS


def test_where_none_is_accepted_the_first_that_carries_is_used_all_the_same() -> None:
    ways: dict[Name, Way] = {Name.TEREDO: Fake("teredo", "no answer"), Name.IPHTTPS: Fake("https")}
    assert tried(ways, refuse=("https",))[1] == Name.IPHTTPS
    assert tried({Name.IPHTTPS: Fake("https", "")})[1] is None
