"""The deployment as data: what the rest of the lab takes for granted."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from portico.errors import InvalidInput
from portico.lab import state as lab_state
from portico.lab import topology, wait
from portico.lab.links import mac, port
from portico.lab.services import START
from portico.lab.state import LabState, checked_name
from portico.lab.summary import path_of
from portico.lab.topology import Switch, Topology

TOPOLOGY = topology.one_server()
LARGEST = topology.build(topology.MAX_SERVERS, topology.MAX_CLIENTS, switch=Switch.PRUNING, strict_router=True)
every_topology = pytest.mark.parametrize(
    "built", [TOPOLOGY, topology.build(3), LARGEST], ids=["one", "three", "largest"]
)


@every_topology
def test_names_of_cables_fit_the_kernel(built: Topology) -> None:
    for host in built.hosts:
        for card in host.interfaces:
            assert len(port(host.name, card.name)) <= 15


@every_topology
def test_every_address_and_hardware_address_is_given_once(built: Topology) -> None:
    cards = [(host, card) for host in built.hosts for card in host.interfaces]
    addresses = [parsed.ip for _, card in cards for parsed in card.parsed()]
    assert len(addresses) == len(set(addresses))
    assert len({mac(host.name, card.name) for host, card in cards}) == len(cards)


@every_topology
def test_cards_are_plugged_into_switches_that_exist_and_services_are_known(built: Topology) -> None:
    for host in built.hosts:
        assert {card.network for card in host.interfaces} <= set(built.networks)
        assert set(host.services) <= set(START)


@every_topology
def test_gateways_are_neighbours(built: Topology) -> None:
    for host in built.hosts:
        networks = [parsed.network for card in host.interfaces for parsed in card.parsed()]
        for _, gateway in host.routes:
            assert any(ip_address(gateway) in network for network in networks), host.name


@every_topology
def test_only_documentation_and_private_addresses(built: Topology) -> None:
    allowed = [
        ip_network(text)
        for text in (
            *("203.0.113.0/24", "192.0.2.0/24", "198.51.100.0/24", "198.18.0.0/15", "2001:db8::/32"),
            *("192.168.0.0/16", "10.0.0.0/24", "fd7c:1a2b:3c4d::/48"),
        )
    ]
    for host in built.hosts:
        for card in host.interfaces:
            for parsed in card.parsed():
                assert any(parsed.ip in network for network in allowed)
        for owned in map(ip_network, host.owns):
            assert any(owned[0] in network and owned[-1] in network for network in allowed)


def test_a_lab_of_one_server_has_no_more_hosts_than_it_needs() -> None:
    names = [host.name for host in TOPOLOGY.hosts]
    assert names == ["internet", "nat1", "client1", "da1", "dns", "app4", "app6", "mgmt"]


@pytest.mark.parametrize("count", range(1, 9))
def test_every_server_has_addresses_of_its_own_and_the_first_one_the_entrances(count: int) -> None:
    built = topology.build(count)
    assert built.servers() == [f"da{number}" for number in range(1, count + 1)]
    assert {card.name: card.addresses for card in built.host("da1").interfaces} == topology.VIRTUAL
    for number in range(2, count + 1):
        server = built.host(f"da{number}")
        assert {card.name: card.addresses for card in server.interfaces} == topology.dedicated(number)


def test_planned_addresses_are_nobody_elses() -> None:
    taken = {parsed.ip for host in LARGEST.hosts for card in host.interfaces for parsed in card.parsed()}
    planned = {ip_interface(text).ip for addresses in topology.dedicated(1).values() for text in addresses}
    assert not taken & planned


@pytest.mark.parametrize(("servers", "clients"), [(0, 1), (9, 1), (1, 0), (1, 9)])
def test_a_number_out_of_range_is_refused_with_the_range(servers: int, clients: int) -> None:
    with pytest.raises(InvalidInput, match="cannot be started") as refused:
        topology.build(servers, clients)
    assert "1 to 8" in refused.value.why


def test_the_crowd_owns_the_addresses_it_sends_from() -> None:
    owned = [ip_network(prefix) for prefix in topology.CROWD_PREFIXES]
    for version in (4, 6):
        sources = topology.crowd_sources(20_000, version)
        assert len(set(sources)) == 20_000
        assert all(any(ip_address(source) in network for network in owned) for source in sources)
    assert len({ip_address(source).packed[:8] for source in topology.crowd_sources(100, 6)}) == 100
    with pytest.raises(ValueError, match="addresses"):
        topology.crowd_sources(200_000)


def test_only_what_is_asked_for_prunes_and_refuses() -> None:
    assert not topology.build(3).pruning
    assert not [host.name for host in topology.build(3).hosts if host.strict]
    assert LARGEST.pruning == ("inet", "corp")
    assert [host.name for host in LARGEST.hosts if host.strict] == ["internet", "dns", "app6", "mgmt"]


def test_a_lab_remembers_what_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_state, "RUNTIME", tmp_path)
    kept = LabState("try", LARGEST, inits={"da8": 1}, starts={"da8": 2}, cut=["da8/eth0"])
    kept.save()
    assert lab_state.load("try") == kept


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"topology": {"networks": ["inet"], "hosts": [{"name": 3, "interfaces": []}]}},
        {"topology": None},
        {"inits": {"da1": "1"}},
        {"unheard_of": 1},
    ],
)
def test_a_state_that_was_tampered_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setattr(lab_state, "RUNTIME", tmp_path)
    LabState("try").save()
    path = tmp_path / "try/lab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidInput, match="cannot be read"):
        lab_state.load("try")


def test_unknown_host_names_those_that_exist() -> None:
    with pytest.raises(LookupError, match="client1"):
        TOPOLOGY.host("client9")


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 25, "A"])
def test_names_that_would_leave_their_directory_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        checked_name(name)


def test_a_reused_process_number_is_not_taken_for_a_host() -> None:
    state = LabState("x", inits={"a": 1}, starts={"a": -1})
    assert not state.alive("a")
    assert not state.alive("b")


def test_waiting_says_what_was_waited_for_and_shows_the_evidence() -> None:
    def never() -> bool:
        raise OSError("no route")

    with pytest.raises(wait.NeverHappened) as failure:
        wait.until("a miracle", never, timeout=0.02, interval=0.005, evidence=lambda: "the log's tail")
    assert "a miracle" in failure.value.why
    assert "no route" in failure.value.why
    assert "the log's tail" in failure.value.why


def test_waiting_returns_what_came_true() -> None:
    answers = iter(["", "", "yes"])
    assert wait.until("an answer", lambda: next(answers), interval=0.001) == "yes"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("fd7c:1a2b:3c4d:7777::a00:4", "IP-HTTPS, DNS64, NAT64"),
        ("fd7c:1a2b:3c4d:1::6", "IP-HTTPS, native IPv6"),
        ("203.0.113.1", "direct"),
        ("", ""),
    ],
)
def test_paths_are_named_by_address(address: str, path: str) -> None:
    assert path_of(address) == path


def test_every_debian_package_is_listed_once() -> None:
    text = (Path(__file__).parents[3] / "requirements/debian.txt").read_text()
    names = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert len(names) == len(set(names))
