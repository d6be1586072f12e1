"""Two servers and a witness: a process of its own with a real member of etcd, which is no server and sees no more."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from portico.certificates.ca import CertificateAuthority
from portico.certificates.tokens import TokenRefused
from portico.errors import Conflict, LimitReached, NotFound, NotPermitted, PorticoError
from portico.server.credentials import now_utc
from portico.server.etcd.identity import client_context, make_check, make_seal, refused_certificates
from portico.server.etcd.member import Place
from portico.server.peers.caller import Caller
from portico.server.peers.tls import caller_context
from portico.server.peers.tokens import JoinToken
from portico.server.witness import joining
from portico.server.witness.witness import Known, Witness
from portico.settings.cluster_store import MAXIMUM_FORMER, ClusterStore, voters, with_witness
from portico.settings.cluster_store import Witness as WitnessSection
from portico.settings.document import load_data
from portico.settings.etcd.client import EtcdClient, EtcdUnavailable
from portico.settings.facts import Facts
from portico.settings.verify import verify
from tests.unit.server.peers.conftest import DATA, PORT, Cluster, Scenario, Server, until
from tests.unit.server.peers.test_store import voting
from tests.unit.server.peers.test_store_enable import alone, enable

Play = Callable[[Scenario], None]

pytestmark = pytest.mark.usefixtures("etcd_program")
NAME = "da9"
ROOT = Path(__file__).resolve().parents[4]


async def token(cluster: Cluster, by: Server) -> JoinToken:
    address = f"{cluster.network}.9"
    return JoinToken.parse((await by.agent.peers.witnessing.create_token(NAME, address)).text)


def state(cluster: Cluster) -> Path:
    """Where a witness's process finds it when PORTICO_STATE_DIR is `root/machine`."""
    return cluster.root / "machine-witness"


async def installed(cluster: Cluster, by: Server) -> Path:
    await joining.join(await token(cluster, by), state(cluster))
    return state(cluster)


def taken(place: Place, port: int, kept: Path, certificate: Path | None = None) -> bool:
    """Whether etcd speaks to whoever shows a certificate, that of the witness if no other is given."""
    context = client_context(Known.load(kept).trust, certificate or kept / "store.pem")
    context.check_hostname = False
    try:
        with socket.create_connection((place.host, port), 5.0) as plain, context.wrap_socket(plain) as tls:
            tls.sendall(b"GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n")
            return bool(tls.recv(1))
    except OSError:
        return False


@contextmanager
def running(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """`portico witness run`, ended by a signal as systemd does it."""
    environment = {**os.environ, "PORTICO_STATE_DIR": str(cluster.root / "machine")}
    command = [sys.executable, "-m", "portico", "witness", "run"]
    with (cluster.root / "witness.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def told(cluster: Cluster) -> dict[str, Any]:
    """What the process says of itself."""
    try:
        found = json.loads((state(cluster) / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    assert isinstance(found, dict)
    return found


async def witnessed(cluster: Cluster) -> tuple[Server, Server]:
    """Two servers whose settings are in etcd."""
    first = await alone(cluster)
    await enable(first)
    return first, await cluster.join(first, "da2")


def test_either_of_two_servers_may_be_lost_with_a_witness(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second = await witnessed(cluster)
        await installed(cluster, first)
        with running(cluster):
            await until(lambda: voting(first) == {"da1", "da2", NAME})
            status = await second.agent.peers.keeper.status()
            assert [row["name"] for row in status["members"] if row["witness"]] == [NAME]
            assert status["witness"]["name"] == NAME
            await until(lambda: told(cluster).get("member") is True and told(cluster)["problem"] is None)
            for server in (first, second):
                await until(lambda server=server: (server.agent.peers.witnessing.silent_for() or 99.0) < 5.0)  # type: ignore[misc]
            # The first server, which without a witness may not be missing.
            await first.stop()
            await until(lambda: not second.agent.peers.links.reachable())
            number = await second.change("report")
            await cluster.add("da1").start()
            first = cluster.servers["da1"]
            await until(lambda: first.in_force == (number, "report"))
            await until(lambda: first.agent.peers.keeper.quorum())
        # The witness alone is missed by nobody but health.
        assert await first.change("repair") == number + 1
        await until(lambda: (first.agent.peers.witnessing.silent_for() or 0.0) > 2.0)
        await first.agent.peers.witnessing.remove("test")
        await until(lambda: voting(first) == {"da1"})
        assert first.agent.peers.witnessing.silent_for() is None
        with running(cluster):
            await until(lambda: told(cluster).get("dismissed") is True)
            assert told(cluster)["process"]["state"] == "stopped"
            assert not (state(cluster) / "store.json").exists()
        with pytest.raises(NotFound):
            await first.agent.peers.witnessing.remove("test")

    play(scenario)


def test_a_witness_is_told_where_etcd_is_and_nothing_else(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        await enable(first)
        peers = first.agent.peers
        kept = await installed(cluster, first)
        assert not (kept / "authority.pem").exists() and not list(kept.glob("settings*"))
        known = Known.load(kept)
        caller = Caller(f"{cluster.network}.1", PORT, "da1", caller_context(known.trust, kept / "store.pem"))
        try:
            said = await caller.get("/v1/store/witness")
            assert set(said) == {"revision", "generation", "cluster", "wanted", "host", "endpoints", "servers", "crl"}
            assert said["wanted"] is False  # one server, and two members would both be needed
            for path in ("/v1/state", "/v1/settings", "/v1/records", "/v1/tickets", "/v1/access", "/v1/health"):
                with pytest.raises(NotPermitted) as error:
                    await caller.get(path)
                assert error.value.code == "NOT_A_MEMBER"
            for path in ("/v1/settings/prepare", "/v1/settings/commit", "/v1/leave", "/v1/api", "/v1/enrolment"):
                with pytest.raises(NotPermitted):
                    await caller.post(path, {})
        finally:
            await caller.close()
        # A revision that it puts into etcd is nobody's.
        seal = make_seal(NAME, kept / "store.pem")(b"settings")
        check = make_check(lambda: peers.state)
        assert not check(b"settings", seal) and not check(b"settings", {**seal, "server": "da1"})
        # Taken out, it is told nothing any more, and etcd refuses it, also on the connection that is open.
        place = peers.keeper.locate(first.agent.revision.settings, "da1")  # type: ignore[union-attr]
        assert place is not None
        etcd = EtcdClient([place.client_url], client_context(known.trust, kept / "store.pem"))
        assert await asyncio.to_thread(etcd.status, place.client_url)
        assert await asyncio.to_thread(taken, place, place.peer_port, kept)
        process = peers.keeper.process.supervisor.pid
        await peers.witnessing.remove("test")
        await until(lambda: peers.keeper.process.supervisor.pid not in (None, process), 40)
        own = peers.files.directory / "store.pem"
        for port in (place.client_port, place.peer_port):
            await until(lambda port=port: taken(place, port, kept, own), 40)  # type: ignore[misc]
            assert not await asyncio.to_thread(taken, place, port, kept)
        with pytest.raises(EtcdUnavailable):
            await asyncio.to_thread(etcd.status, place.client_url)
        etcd.close()
        await first.change("report")
        witness = Witness(kept)
        await witness.look()
        assert witness.dismissed and witness.problem is not None and witness.problem.code == "WITNESS_DISMISSED"
        assert "portico witness uninstall" in witness.problem.resolution

    play(scenario)


def test_tokens_make_one_witness_of_one_machine_and_no_server(play: Play, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await alone(cluster)
        await enable(first)
        peers = first.agent.peers
        with pytest.raises(Conflict) as error:
            await peers.witnessing.create_token("da1", None)
        assert error.value.code == "WITNESS_NAME"
        made = await token(cluster, first)
        with pytest.raises(PorticoError) as refused:  # it does not let a server in
            await asyncio.to_thread(cluster.joining(made.text, NAME).ask)
        assert refused.value.code == TokenRefused.code
        server = JoinToken.parse(await cluster.token(first, "da2"))
        with pytest.raises(PorticoError) as refused:  # nor a server's token a witness
            await joining.join(server, state(cluster))
        assert refused.value.code == TokenRefused.code
        await joining.join(made, state(cluster))
        before = peers.witnessing.witness
        await joining.join(made, state(cluster))  # its answer may have been lost
        assert peers.witnessing.witness is not None and peers.witnessing.witness != before
        with pytest.raises(PorticoError) as refused:  # and it is one machine's
            await joining.join(made, tmp_path / "another")
        assert refused.value.code == TokenRefused.code
        with pytest.raises(NotPermitted) as stranger:
            await joining.join(replace(made, pin="0" * 64), state(cluster))
        assert stranger.value.code == "PIN_DIFFERS"
        with pytest.raises(Conflict, match="witness already"):
            joining.refuse_second(state(cluster))
        # What is wrong with the section is refused like anything else.
        settings = first.agent.store().latest().settings  # type: ignore[union-attr]
        assert settings.store.witness is not None
        wrong = settings.store.witness.model_copy(update={"name": "da1"})
        section = settings.store.model_copy(update={"witness": wrong})
        facts = Facts()
        found = verify(settings.model_copy(update={"store": section}), facts)
        assert "STORE_WITNESS" in {problem.code for problem in found}

    play(scenario)


def test_without_etcd_a_witness_has_nothing_to_do(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        with pytest.raises(Conflict) as error:
            await first.agent.peers.witnessing.create_token(NAME, None)
        assert error.value.code == "STORE_NOT_ETCD"
        assert "portico cluster store move etcd" in error.value.resolution

    play(scenario)


def test_every_certificate_of_a_former_witness_stays_refused(tmp_path: Path) -> None:
    def named(serial: str) -> WitnessSection:
        return WitnessSection.model_validate(
            {"name": NAME, "address": "10.0.0.9", "fingerprint": "0" * 64, "serial": serial}
        )

    section = with_witness(ClusterStore(), named("1f"))
    assert section.former_witnesses == []
    section = with_witness(with_witness(section, named("2f")), None)
    assert section.witness is None and section.former_witnesses == ["1f", "2f"]
    many = section.model_copy(update={"former_witnesses": [f"{n:x}" for n in range(1, MAXIMUM_FORMER + 1)]})
    with pytest.raises(LimitReached) as error:
        with_witness(many.model_copy(update={"witness": named("fff")}), None)
    assert error.value.code == "WITNESSES_FULL"
    # Each server makes the same list, or etcd would be started anew when the witness asks another one.
    authority = CertificateAuthority.create(tmp_path, name="cluster", now=now_utc())
    again = CertificateAuthority.load(tmp_path)
    pem = refused_certificates(authority, ["2f", "1f"])
    assert pem == refused_certificates(again, ["1f", "2f"]) != refused_certificates(again, [])
    crl = x509.load_pem_x509_crl(pem.encode())
    assert crl.is_signature_valid(authority.key.public_key()) and {item.serial_number for item in crl} == {0x1F, 0x2F}


def test_who_votes_beside_a_witness() -> None:
    section = {
        "kind": "etcd",
        "generation": "0123456789ab",
        "witness": {"name": NAME, "address": "10.0.0.9", "fingerprint": "0" * 64, "serial": "1f"},
    }

    def names(count: int) -> tuple[str, ...]:
        servers = [
            {"name": f"da{n}", "priority": n, "internal_dedicated_addresses": [f"10.0.0.{10 + n}/24"]}
            for n in range(1, count + 1)
        ]
        data = {"internal_virtual_addresses": ["10.0.0.2/24"], "servers": servers}
        return voters(load_data({**DATA, "load_balancing": data, "store": section})).names

    assert names(1) == ("da1",)
    assert names(2) == ("da1", "da2", NAME)
    assert names(3) == ("da1", "da2", "da3")
    assert names(4) == ("da1", "da2", "da3")
