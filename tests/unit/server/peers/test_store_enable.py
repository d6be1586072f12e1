"""Load balancing begins with etcd and ends with it; a failure leaves nothing of either. Real members on loopback."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from typing import Any

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.errors import PorticoError
from portico.server.credentials import DIRECTORY, now_utc
from portico.server.etcd.member import CLIENT_PORT
from portico.server.etcd.moves import with_etcd
from portico.settings import cluster as edits
from portico.settings.document import load_data
from portico.settings.facts import Facts
from portico.settings.model import Settings
from tests.unit.server.peers.conftest import DATA, Cluster, Scenario, Server, balanced, until
from tests.unit.server.peers.test_store import voting

Play = Callable[[Scenario], None]

pytestmark = pytest.mark.usefixtures("etcd_program")


async def alone(cluster: Cluster) -> Server:
    """A server without a cluster."""
    server = cluster.add("da1")
    CertificateAuthority.create(server.agent.state / DIRECTORY, name="corp.example.net", now=now_utc())
    server.agent.credentials.reload_authority()
    await server.start()
    await server.agent.change(load_data(DATA), expected=0, author="test")
    return server


async def enable(server: Server) -> Any:
    return await server.agent.peers.moves.enable(
        with_etcd(balanced()), expected=server.in_force[0], author="test", comment="load balancing enabled"
    )


def nothing_is_left(server: Server) -> None:
    """Of a cluster and of an etcd."""
    peers, state = server.agent.peers, server.agent.state
    assert peers.state is None and not peers.files.exists()
    assert server.agent.revision is not None
    assert server.agent.revision.settings == load_data(DATA)
    assert server.agent.store().latest().text == server.agent.revision.text  # type: ignore[union-attr]
    assert not (state / "store.json").exists() and not peers.keeper.process.running


def test_a_cluster_begins_with_etcd_grows_to_three_members_and_ends(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        outcome = await enable(first)
        assert outcome.revision.number == 2 and outcome.revision.settings.store.kind == "etcd"
        keeper = first.agent.peers.keeper
        assert keeper.store is not None and keeper.store.newest() == (2, outcome.revision.sha256)
        await cluster.join(first, "da2")
        await cluster.join(first, "da3")
        await until(lambda: voting(first) == {"da1", "da2", "da3"}, 60)
        settings = edits.disable(first.agent.store().latest().settings, Facts(own_name="da1"))  # type: ignore[union-attr]
        await first.agent.change(settings, expected=None, author="test")
        assert first.agent.revision is not None and first.agent.revision.settings.load_balancing is None
        await until(lambda: not any(s.agent.peers.keeper.process.running for s in cluster.servers.values()))
        await until(lambda: not any((s.agent.state / "store.json").exists() for s in cluster.servers.values()))
        nothing_is_left(first)

    play(scenario)


def test_a_document_that_cannot_be_applied_leaves_nothing_of_an_etcd(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        apply = first.agent.platform.apply

        async def fails(settings: Settings, values: Any) -> Any:
            if settings.load_balancing is not None:
                raise PorticoError("the device is on fire")
            return await apply(settings, values)

        cluster.patch.setattr(first.agent.platform, "apply", fails)
        with pytest.raises(PorticoError, match="cannot be applied"):
            await enable(first)
        assert first.in_force[0] == 3  # the failed revision, and the former document again
        nothing_is_left(first)
        cluster.patch.setattr(first.agent.platform, "apply", apply)
        await enable(first)  # and nothing is in the way of another attempt
        assert first.agent.revision is not None and first.agent.revision.settings.store.kind == "etcd"

    play(scenario)


@pytest.mark.parametrize("busy", ["founding", "dedicated"])
def test_an_etcd_that_cannot_listen_leaves_the_server_as_it_was(play: Play, busy: str) -> None:
    """Where it begins, or where the others would find it."""

    async def scenario(cluster: Cluster) -> None:
        if busy == "dedicated":  # where it ends with the time, not with the third failure
            cluster.patch.setattr("portico.server.etcd.moves.BEGIN_SECONDS", 8.0)
        first = await alone(cluster)
        host = first.agent.peers.keeper.founding_host if busy == "founding" else f"{cluster.network}.1"
        with socket.create_server((host, CLIENT_PORT)):
            with pytest.raises(PorticoError) as error:
                await enable(first)
            assert error.value.code == "STORE_NOT_STARTED" and "address already in use" in error.value.why
            await until(lambda: not (first.agent.state / "store.json").exists())
            nothing_is_left(first)
            # Nothing was stored where it never began; otherwise the former document is a revision of its own.
            assert first.in_force[0] == (1 if busy == "founding" else 3)

    play(scenario)


def test_a_server_without_the_program_refuses_before_anything_is_done(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)

    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        with pytest.raises(PorticoError) as error:
            await enable(first)
        assert error.value.code == "ETCD_MISSING"
        assert first.in_force[0] == 1
        nothing_is_left(first)

    play(scenario)


def test_a_move_out_of_etcd_that_a_server_cannot_apply_leaves_the_settings_in_etcd(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        await enable(first)
        second = await cluster.join(first, "da2")
        await until(lambda: second.agent.peers.keeper.quorum())
        apply = second.agent.platform.apply

        async def fails(settings: Settings, values: Any) -> Any:
            if settings.store.kind == "sqlite":
                raise PorticoError("the device is on fire")
            return await apply(settings, values)

        cluster.patch.setattr(second.agent.platform, "apply", fails)
        with pytest.raises(PorticoError, match="da2 cannot apply it"):
            await first.agent.peers.moves.to_sqlite("test")
        revision = first.agent.revision
        assert revision is not None and revision.settings.store.kind == "etcd"
        keeper = first.agent.peers.keeper
        assert keeper.store is not None and keeper.store.newest() == (revision.number, revision.sha256)
        number = await first.change("report")
        await until(lambda: second.in_force == (number, "report"))

    play(scenario)
