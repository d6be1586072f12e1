"""Every heuristic can be fine and can fail: tables of observations and what is found in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from portico.health.components import Component
from portico.health.evaluate import MAXIMUM_FINDINGS, evaluate
from portico.health.findings import CATALOGUE
from portico.health.heuristics.backup import BackupSeen
from portico.health.heuristics.boot import Configured, NetworkConfiguration
from portico.health.observations import (
    Card,
    Certificate,
    Cluster,
    Counters,
    Delivery,
    Distribution,
    DnsServer,
    Location,
    Member,
    Neighbour,
    Observations,
    Process,
    Resolver,
    Trouble,
    Volume,
)
from portico.health.registry import HEURISTICS
from portico.health.report import SILENT
from portico.health.states import HealthState, worst
from portico.settings.document import load_data

NOW = 1_800_000_000.0
DAY = 86_400.0
DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "dns64": {
        "upstream_servers": ["10.0.0.53", "10.0.0.54"],
        "conditional_forwarding": [{"suffix": "branch.example.org", "servers": ["10.9.0.53"]}],
    },
}


def settings(**sections: Any) -> Any:
    return load_data({**DATA, **{name: {**DATA.get(name, {}), **values} for name, values in sections.items()}})


def certificate(purpose: Any, left: float, whole: float = 90 * DAY, **more: Any) -> Certificate:
    return Certificate(purpose, "server.pem", NOW + left - whole, NOW + left, **more)


SERVER_CERTIFICATE = certificate("server", 80 * DAY, automatic=True, covers=True)
DNS_SERVERS = (
    DnsServer("10.0.0.53", "", True, "NOERROR"),
    DnsServer("10.0.0.54", "", True, "NOERROR"),
    DnsServer("10.9.0.53", "branch.example.org", True, "NXDOMAIN"),
)
PATHS = ("internal", "internet")
MEMBERS = tuple(Member(f"da{n}", "Default" if n == 1 else "Converged", (), PATHS) for n in (1, 2, 3))
NEIGHBOURS = (Neighbour("da2", True, "1.0.0", 7, 0.0), Neighbour("da3", True, "1.0.0", 7, 0.2))
CLUSTER = Cluster("da1", MEMBERS, NEIGHBOURS)
VOLUME = Volume("/var/lib/portico/server", 50 << 30, 100 << 30, 6_000_000, 6_500_000)
FINE = Observations(
    now=NOW,
    server="da1",
    version="1.0.0",
    settings=settings(),
    processes=(Process("gateway", True, "running"), Process("balancer", True, "running")),
    volumes=(VOLUME,),
    cards=(Card("eth0", "internet"), Card("eth1", "internal")),
    certificates=(SERVER_CERTIFICATE, certificate("authority", 3000 * DAY, 3650 * DAY)),
    dns_servers=DNS_SERVERS,
    counters=Counters(
        {"nat64.bindings": 10.0, "nat64.sessions": 20.0}, {"dns64.queries": 500.0, "dns64.servfail": 3.0}
    ),
    resolvers=(Resolver(".", "10.0.0.53", False), Resolver(".", "10.0.0.54", True)),
    tunnels=12,
    listening=True,
    dns64_listening=True,
    nat64_addresses=1,
    cluster=CLUSTER,
    distribution=Distribution(7, 7, 7, "applied", {"applied": NOW - 5}),
    location=Location(()),
    deliveries=(Delivery("hooks.example.net"),),
)


def seen(**changes: Any) -> Observations:
    return replace(FINE, **changes)


def members(*states: Any) -> Cluster:
    """A cluster whose servers 2 and 3 are as told: a state, or a member."""
    made = [
        state if isinstance(state, Member) else Member(f"da{number}", state, (), PATHS if state else ())
        for number, state in enumerate(states, 2)
    ]
    return replace(CLUSTER, members=(MEMBERS[0], *made))


def down(name: str) -> tuple[Process, ...]:
    return tuple(
        replace(process, state="waiting", reason="killed") if process.name == name else process
        for process in FINE.processes
    )


def configured(place: str, dedicated: str) -> dict[type[Any], Any]:
    return {NetworkConfiguration: NetworkConfiguration((Configured("203.0.113.11", place, dedicated),))}


def silent(*addresses: str) -> tuple[DnsServer, ...]:
    return tuple(
        replace(server, answers=False, detail="no answer") if server.address in addresses else server
        for server in DNS_SERVERS
    )


def lately(**counts: float) -> Counters:
    return Counters({}, {name.replace("__", "."): value for name, value in counts.items()})


TROUBLE = Trouble("X", "It broke", "a cause", "Do this")
E, W, U = HealthState.ERROR, HealthState.WARNING, HealthState.UNKNOWN
CASES: list[tuple[str, HealthState, Observations]] = [
    ("NOT_SERVING", E, seen(problem=TROUBLE)),
    ("DISK_NEARLY_FULL", W, seen(volumes=(replace(VOLUME, total_bytes=10 << 30, free_bytes=900 << 20),))),
    ("DISK_NEARLY_FULL", E, seen(volumes=(replace(VOLUME, total_bytes=16 << 20, free_bytes=100 << 10),))),
    ("FILES_NEARLY_USED_UP", W, seen(volumes=(replace(VOLUME, total_files=1000, free_files=49),))),
    ("FILES_NEARLY_USED_UP", E, seen(volumes=(replace(VOLUME, total_files=1000, free_files=9),))),
    ("DISK_UNKNOWN", U, seen(volumes=None)),
    ("SETTINGS_READ_ONLY", E, seen(read_only="settings.sqlite is damaged")),
    ("SETTINGS_NOT_KEPT", W, seen(warnings={"unwritten": TROUBLE})),
    ("DRIFT", W, seen(drifting=("add route 10.0.0.0/8",))),
    ("DRIFT_RETURNS", W, seen(repairs_lately=5, repaired=("add address 10.0.0.2/24 on eth1",))),
    ("SETTINGS_NOT_RETRIEVED", W, seen(distribution=Distribution(8, 7, 7, behind_for=20.0))),
    ("SETTINGS_NOT_RETRIEVED", E, seen(distribution=Distribution(8, 7, 7, behind_for=601.0))),
    ("SETTINGS_NOT_APPLIED", W, seen(distribution=Distribution(8, 8, 7, "retrieved", {"retrieved": NOW - 60}))),
    ("SETTINGS_NOT_APPLIED", W, seen(distribution=Distribution(8, 8, 7, "failed", {"failed": NOW}, error="no device"))),
    ("SETTINGS_NOT_APPLIED", E, seen(distribution=Distribution(8, 8, 7, "retrieved", {"retrieved": NOW - 901}))),
    ("CLIENTS_NOT_AUTHENTICATED", W, seen(settings=settings(ip_https={"authentication": "none"}))),
    ("PACKET_FILTER_CHANGED", E, seen(drifting=("set nftables chain inet portico forward",))),
    ("CLIENT_CA_EXPIRES", W, seen(certificates=(SERVER_CERTIFICATE, certificate("client_ca", 20 * DAY)))),
    ("CLIENT_CA_EXPIRES", E, seen(certificates=(SERVER_CERTIFICATE, certificate("client_ca", 6 * DAY)))),
    ("CLIENT_CA_EXPIRED", E, seen(certificates=(SERVER_CERTIFICATE, certificate("authority", -1.0)))),
    ("CLIENT_CA_EXPIRED", E, seen(certificates=(SERVER_CERTIFICATE, certificate("client_ca", 91 * DAY)))),
    (
        "CLIENT_CA_UNREADABLE",
        W,
        seen(certificates=(SERVER_CERTIFICATE, Certificate("client_ca", "a.pem", trouble="it is gone"))),
    ),
    ("CERTIFICATE_STORE_TROUBLE", W, seen(warnings={"revocations": TROUBLE})),
    ("IPHTTPS_GATEWAY_DOWN", E, seen(processes=down("gateway"))),
    ("IPHTTPS_NOT_LISTENING", E, seen(listening=False)),
    ("SERVER_CERTIFICATE_EXPIRES", W, seen(certificates=(certificate("server", 29 * DAY, covers=True),))),
    ("SERVER_CERTIFICATE_EXPIRES", E, seen(certificates=(certificate("server", 5 * DAY, covers=True),))),
    ("SERVER_CERTIFICATE_EXPIRES", W, seen(certificates=(certificate("server", 14 * DAY, automatic=True),))),
    ("SERVER_CERTIFICATE_EXPIRES", E, seen(certificates=(certificate("server", 4 * DAY, automatic=True),))),
    ("SERVER_CERTIFICATE_EXPIRED", E, seen(certificates=(certificate("server", -1.0),))),
    ("SERVER_CERTIFICATE_NAME", E, seen(certificates=(replace(SERVER_CERTIFICATE, covers=False),))),
    ("SERVER_CERTIFICATE_UNREADABLE", W, seen(certificates=(Certificate("server", "s.pem", trouble="it is gone"),))),
    ("SERVER_CERTIFICATE_NOT_RENEWED", W, seen(warnings={"server certificate": TROUBLE})),
    ("CERTIFICATES_UNKNOWN", U, seen(certificates=None)),
    ("TUNNELS_NEARLY_FULL", W, seen(tunnels=9_000)),
    ("TUNNELS_NEARLY_FULL", E, seen(tunnels=10_000)),
    ("DNS_SERVER_SILENT", W, seen(dns_servers=silent("10.0.0.54"))),
    ("DNS_SERVER_SLOW", W, seen(dns_servers=(DnsServer("10.0.0.53", "", True, "NOERROR", 1.5), *DNS_SERVERS[1:]))),
    ("DNS_NO_SERVER_ANSWERS", E, seen(dns_servers=silent("10.0.0.53", "10.0.0.54"))),
    ("DNS_NO_SERVER_ANSWERS", E, seen(dns_servers=silent("10.9.0.53"))),
    ("DNS_NOT_ASKED", U, seen(dns_servers=None)),
    ("DNS64_NOT_RUNNING", E, seen(processes=down("gateway"))),
    ("DNS64_NOT_RUNNING", E, seen(dns64_listening=False)),
    ("DNS64_AAAA_UNANSWERED", W, seen(resolvers=(Resolver("", "10.0.0.53", False, withholds_aaaa=True),))),
    ("DNS64_SERVERS_RESTING", E, seen(resolvers=(Resolver(".", "10.0.0.53", True), Resolver(".", "10.0.0.54", True)))),
    ("DNS64_FAILS", W, seen(counters=lately(dns64__queries=60, dns64__servfail=20))),
    ("DNS64_QUERIES_REFUSED", W, seen(counters=lately(dns64__dropped_client_rate=60, dns64__refused_total_limit=40))),
    ("NAT64_NOT_RUNNING", E, seen(processes=down("gateway"))),
    ("NAT64_NO_ADDRESS", E, seen(nat64_addresses=0)),
    ("NAT64_NEARLY_FULL", W, seen(counters=Counters({"nat64.bindings": 240_000.0}))),
    ("NAT64_NEARLY_FULL", W, seen(counters=Counters({"nat64.sessions": 500_000.0}))),
    ("NAT64_EXHAUSTED", E, seen(counters=lately(nat64__refused_ports_exhausted=1))),
    ("NAT64_CLIENT_LIMIT", W, seen(counters=lately(nat64__refused_client_bindings=1))),
    ("SERVER_GONE", E, seen(cluster=replace(members("Converged", None), neighbours=NEIGHBOURS[:1]))),
    ("SERVER_NOT_HEARD", E, seen(cluster=members("Converged", None))),
    ("SERVER_CHANNEL_SILENT", W, seen(cluster=replace(CLUSTER, neighbours=NEIGHBOURS[:1]))),
    (
        "SERVER_CHANNEL_SILENT",
        W,
        seen(cluster=replace(CLUSTER, members=None, neighbours=(Neighbour("da2", False), NEIGHBOURS[1]))),
    ),
    ("SERVER_CANNOT_SERVE", E, seen(cluster=members("Converged", Member("da3", "Converged", ("deaf",), PATHS)))),
    ("SERVER_TAKEN_OUT", W, seen(cluster=members("Converged", "Suspended"))),
    ("SERVER_ON_ONE_PATH", W, seen(cluster=members("Converged", Member("da3", "Converged", (), ("internal",))))),
    ("NO_REDUNDANCY", E, seen(cluster=members("Stopped", None))),
    ("NO_QUORUM", E, seen(cluster=replace(CLUSTER, quorum=False))),
    ("WITNESS_SILENT", W, seen(cluster=replace(CLUSTER, witness="witness1", witness_silent=16.0))),
    ("NOT_CONVERGED", W, seen(cluster=replace(CLUSTER, converging_for=31.0))),
    ("BALANCER_TROUBLE", E, seen(processes=down("balancer"))),
    ("BALANCER_TROUBLE", E, seen(cluster=replace(CLUSTER, balancer_problem="it has no dedicated address"))),
    ("CERTIFICATE_MISMATCH", E, seen(warnings={"certificate match": TROUBLE})),
    ("CHANNEL_TROUBLE", E, seen(cluster=replace(CLUSTER, channel_problem="the port is taken"))),
    ("CLUSTER_UNKNOWN", U, seen(cluster=replace(CLUSTER, members=None))),
    ("VERSIONS_DIFFER", W, seen(version="1.1.0")),
    ("VERSIONS_DIFFER", E, seen(version="1.4.0")),
    (
        "CLOCKS_DIFFER",
        W,
        seen(cluster=replace(CLUSTER, neighbours=(replace(NEIGHBOURS[0], clock_ahead=-6.0), NEIGHBOURS[1]))),
    ),
    ("BACKUP_FAILED", W, seen(extras={BackupSeen: BackupSeen("the disk is full", "Make room")})),
    ("NLS_FAILS", E, seen(location=Location((replace(TROUBLE, code="NLS_UNREACHABLE"),)))),
    ("NLS_CERTIFICATE_ENDS", W, seen(location=Location((replace(TROUBLE, code="NLS_CERTIFICATE_EXPIRES"),)))),
    ("NLS_NOT_ASKED", U, seen(location=Location(None))),
    ("PAGES_NOT_SERVED", W, seen(location=Location((), pages=(TROUBLE,)))),
    ("DNS_RECORDS_WRONG", W, seen(location=Location((), records=(TROUBLE,)))),
    ("DNS_RECORDS_LOST", E, seen(location=Location((), records=(replace(TROUBLE, code="DNS_RECORD_MISSING"),)))),
    ("DNS_RECORDS_LOST", E, seen(location=Location((), records=(replace(TROUBLE, code="DNS_RECORD_WRONG"),)))),
    ("ADAPTER_MISSING", E, seen(cards=(Card("eth0", "internet", present=False), FINE.cards[1]))),  # type: ignore[index]
    ("ADAPTER_DOWN", E, seen(cards=(Card("eth0", "internet", up=False),))),
    ("ADAPTER_DOWN", E, seen(cards=(Card("eth1", "internal", carrier=False),))),
    ("ADAPTER_ERRORS", W, seen(cards=(Card("eth1", "internal", errors_lately=100),))),
    ("ADDRESS_MISSING", E, seen(drifting=("add address 10.0.0.21/24 on eth1",))),
    ("ADAPTERS_UNKNOWN", U, seen(cards=None)),
    ("VIRTUAL_ADDRESS_AT_BOOT", W, seen(extras=configured("/etc/netplan/01.yaml", "203.0.113.12/24"))),
    ("VIRTUAL_ADDRESS_AT_BOOT", W, seen(extras=configured("", ""))),
    ("SERVICE_NOT_RUNNING", E, seen(processes=down("gateway"))),
    ("SERVICE_RESTARTS", W, seen(processes=(Process("gateway", True, "running", restarts_lately=3),))),
    ("LOG_OF_BINDINGS_TROUBLE", W, seen(warnings={"accounting": TROUBLE})),
    ("EVENT_LOG_TROUBLE", W, seen(warnings={"events": TROUBLE})),
    ("ALERTS_NOT_DELIVERED", W, seen(deliveries=(Delivery("hooks", 3, 61.0, "refused"),))),
    ("ALERTS_DROPPED", W, seen(deliveries=(Delivery("hooks", 0, 0.0, "HTTP status 404", 2),))),
]
ELSEWHERE = {"HEURISTIC_FAILED", "MORE_FINDINGS", SILENT.code}
"""Have tests of their own."""


def test_a_sound_cluster_is_fine() -> None:
    found = {component: health for component, health in evaluate(FINE).items() if health.state is not HealthState.OK}
    assert {health.state for health in found.values()} == {HealthState.DISABLED}, found
    assert all(health.why and not health.findings for health in found.values())


@pytest.mark.parametrize(("code", "state", "observed"), CASES, ids=[f"{code}-{state}" for code, state, _ in CASES])
def test_what_is_wrong_is_found(code: str, state: HealthState, observed: Observations) -> None:
    health = evaluate(observed)[CATALOGUE[code].component]
    found = [finding for finding in health.findings if finding.code == code]
    assert found, health
    for finding in found:
        assert finding.state is state
        for text in (finding.what, finding.cause, finding.resolution):
            assert text and "{" not in text and not text.endswith("."), text
    assert health.state is worst(finding.state for finding in health.findings)


def test_every_code_has_a_case() -> None:
    assert {code for code, *_ in CASES} | ELSEWHERE == set(CATALOGUE)
    twice = {(code, state) for code, state, _ in CASES}
    for code, kind in CATALOGUE.items():
        if kind.worse is not None:
            assert {(code, kind.state), (code, kind.worse)} <= twice, code


@pytest.mark.parametrize(
    "observed",
    [
        seen(settings=settings(nat64={"state": "disabled"})),
        seen(settings=settings(dns64={"state": "disabled"})),
        seen(cluster=None),
        Observations(NOW, "da1", volumes=(VOLUME,)),
        seen(distribution=Distribution(8, 7, 7, behind_for=3.0)),
        seen(distribution=Distribution(8, 8, 7, "retrieved", {"retrieved": NOW - 3})),
        seen(dns_servers=silent()),
        seen(certificates=(certificate("server", 31 * DAY, covers=True),)),
        seen(certificates=(certificate("server", 20 * 3600.0, DAY, automatic=True, covers=True),)),
        seen(volumes=(replace(VOLUME, total_bytes=10 << 40, free_bytes=500 << 30),)),
        seen(counters=lately(dns64__queries=1000, dns64__servfail=150)),
        seen(counters=None, resolvers=None, tunnels=None),
    ],
)
def test_what_is_not_wrong_is_not_told(observed: Observations) -> None:
    assert {health.state for health in evaluate(observed).values()} <= {HealthState.OK, HealthState.DISABLED}


@pytest.mark.parametrize("component", [Component.TEREDO, Component.SIX_TO_FOUR, Component.OTP, Component.ISATAP])
def test_what_the_settings_do_not_enable_is_disabled(component: Component) -> None:
    health = evaluate(FINE)[component]
    assert health.state is HealthState.DISABLED and "not enable" in health.why


def test_what_is_disabled_in_the_settings_is_not_judged() -> None:
    health = evaluate(seen(settings=settings(nat64={"state": "disabled"}), nat64_addresses=0))
    assert health[Component.NAT64].state is HealthState.DISABLED


def test_a_failing_heuristic_says_so_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_seen: Observations) -> Any:
        raise ZeroDivisionError("no")

    monkeypatch.setitem(HEURISTICS, Component.DNS, [broken, *HEURISTICS[Component.DNS]])
    health = evaluate(seen(dns_servers=silent("10.0.0.54")))[Component.DNS]
    assert [finding.code for finding in health.findings] == ["DNS_SERVER_SILENT", "HEURISTIC_FAILED"]
    assert health.state is HealthState.WARNING


def test_many_findings_are_bounded_and_the_worst_stay() -> None:
    servers = tuple(DnsServer(f"10.1.0.{n}", f"d{n}.example", False, "no answer") for n in range(30))
    also = (DnsServer("10.0.0.53", "", True), DnsServer("10.0.0.54", "", False, "no answer"))
    findings = evaluate(seen(dns_servers=(*also, *servers)))[Component.DNS].findings
    assert len(findings) == MAXIMUM_FINDINGS
    assert [finding.code for finding in findings[:19]] == ["DNS_NO_SERVER_ANSWERS"] * 19
    assert findings[-1].code == "MORE_FINDINGS" and "12 more" in findings[-1].cause


def test_texts_of_other_programs_are_cut_and_stay_on_one_line() -> None:
    finding = CATALOGUE["NOT_SERVING"].finding(why="a\nb\x1b" + "x" * 5000, resolution="")
    assert len(finding.cause) == 600 and finding.cause.isprintable()


def test_an_engineer_can_add_a_heuristic_with_observations_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nls:
        answers = False

    def reachable(observed: Observations) -> Any:
        nls = observed.extra(Nls)
        return None if nls is None else [] if nls.answers else [CATALOGUE["DNS_NOT_ASKED"].finding()]

    monkeypatch.setitem(HEURISTICS, Component.NETWORK_LOCATION_SERVER, [reachable])

    def state(observed: Observations) -> HealthState:
        return evaluate(observed)[Component.NETWORK_LOCATION_SERVER].state

    assert state(FINE) is HealthState.DISABLED
    assert state(seen(extras={Nls: Nls()})) is HealthState.UNKNOWN
