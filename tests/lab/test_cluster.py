"""Three servers behave as one, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portico.lab import deployment
from portico.lab.lab import Lab
from portico.lab.probe.tap import Tap
from portico.lab.services import nginx
from portico.lab.topology import crowd_sources
from tests.lab.continuity import (
    APP6_ADDRESS,
    SERVERS,
    SIZE,
    TUNNELS,
    continuity,
    everybody_answers,
    server_of,
    settle,
    tunnels,
)
from tests.lab.helpers import APP4, APP6, SERVER_ADDRESS, echo_service, reaches
from tests.peers.crowd import Credentials, Crowd
from tests.peers.enrolment import enrol


@pytest.fixture(scope="module")
def people(cluster: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Two hundred clients, each from an address of its own; half of them idle."""
    token = deployment.enrolment_token(cluster.host("da1"), "crowd")
    directory = tmp_path_factory.mktemp("crowd")
    with cluster.host("crowd").network():
        identity = enrol(SERVER_ADDRESS, token, directory)
    credentials = Credentials(identity.trust, identity.certificate, identity.key)
    with (
        echo_service(cluster.host("app6"), APP6_ADDRESS),
        Crowd(
            cluster.state.netns("crowd"),
            directory,
            [f"{SERVER_ADDRESS}:443"],
            credentials,
            APP6_ADDRESS,
            sources=crowd_sources(TUNNELS),
            reconnect="at_once",
            retry_seconds=0.2,
            attempt_seconds=5.0,
            resume=True,
        ) as crowd,
    ):
        crowd.connect(TUNNELS)
        crowd.wait(TUNNELS)
        yield crowd


@pytest.fixture
def crowd(cluster: Lab, people: Crowd) -> Crowd:
    """The clients, all connected, to servers that have converged."""
    settle(cluster, people)
    return people


@pytest.fixture(scope="module")
def checksum(cluster: Lab) -> str:
    return nginx.put_large_file(cluster.host("app6"), SIZE)


def test_clients_are_spread_over_all_servers_and_reach_the_intranet(cluster: Lab, crowd: Crowd) -> None:
    assert len(set(crowd.addresses())) == TUNNELS
    found = tunnels(cluster)
    print(f"{TUNNELS} tunnels and client1's: {dict(found)}")
    assert sum(found.values()) == TUNNELS + 1, "each on exactly one server"
    assert min(found[name] for name in SERVERS) > TUNNELS / 3 / 2
    for name in SERVERS:
        assert tunnels(cluster, name) == found, "whichever server is asked"
    everybody_answers(crowd)
    client = cluster.host("client1")
    assert reaches(client, APP4) and reaches(client, APP6)


def test_a_download_and_an_idle_session_survive_a_power_cut(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    expression = f"tcp src port 443 and src host {SERVER_ADDRESS}"
    with Tap(cluster.state, list(SERVERS), "inet", expression) as tap:
        with continuity(cluster, crowd, checksum, "power cut") as trouble:
            cluster.kill(trouble.server)
        everybody_answers(crowd)
    assert tap.answers.doubles == 0, tap.answers.examples
    assert tap.missed == 0

    now_on = server_of(cluster)
    assert now_on in trouble.others
    crowd.figures(reset=True)
    cluster.restart(trouble.server)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    everybody_answers(crowd)
    figures = crowd.figures()
    assert figures["dialled"] == 0 and figures["ping_losses"] == 0, f"who comes back takes nobody's tunnel: {figures}"
    assert server_of(cluster) == now_on
