"""The deployment as data: what the rest of the lab takes for granted."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from portico.errors import InvalidInput
from portico.lab import topology, wait
from portico.lab.links import mac, port
from portico.lab.services import START
from portico.lab.state import LabState, checked_name
from portico.lab.summary import path_of

TOPOLOGY = topology.one_server()


def test_names_of_cables_fit_the_kernel() -> None:
    for host in TOPOLOGY.hosts:
        for card in host.interfaces:
            assert len(port(host.name, card.name)) <= 15


def test_every_address_and_hardware_address_is_given_once() -> None:
    cards = [(host, card) for host in TOPOLOGY.hosts for card in host.interfaces]
    addresses = [parsed.ip for _, card in cards for parsed in card.parsed()]
    assert len(addresses) == len(set(addresses))
    assert len({mac(host.name, card.name) for host, card in cards}) == len(cards)


def test_cards_are_plugged_into_switches_that_exist_and_services_are_known() -> None:
    for host in TOPOLOGY.hosts:
        assert {card.network for card in host.interfaces} <= set(TOPOLOGY.networks)
        assert set(host.services) <= set(START)


def test_gateways_are_neighbours() -> None:
    for host in TOPOLOGY.hosts:
        networks = [parsed.network for card in host.interfaces for parsed in card.parsed()]
        for _, gateway in host.routes:
            assert any(ip_address(gateway) in network for network in networks), host.name


def test_only_documentation_and_private_addresses() -> None:
    allowed = [
        ip_network(text)
        for text in ("203.0.113.0/24", "2001:db8::/32", "192.168.1.0/24", "10.0.0.0/24", "fd7c:1a2b:3c4d::/48")
    ]
    for host in TOPOLOGY.hosts:
        for card in host.interfaces:
            for parsed in card.parsed():
                assert any(parsed.ip in network for network in allowed)


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
