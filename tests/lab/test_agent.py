"""The agent on a machine of its own: serves, changes, rolls back, repairs, survives, leaves no trace.

The gateway is a stand-in here; what is under test is everything around it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from portico.certificates.issue import make_request
from portico.errors import PorticoError
from portico.lab import wait
from portico.management.api.app import create_app
from portico.server import gateway as gateway_module
from portico.server.agent import Agent, ApplyFailed
from portico.server.install import install_steps, uninstall_steps
from portico.server.reconcile.wanted import TUNNEL
from portico.settings.document import load_data
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused
from tests.peers.user_ca import UserCa

from .namespace import ORGANISATION, command, corporate_network, isolated

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]


def document(**changes: Any) -> Settings:
    data: dict[str, Any] = {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "203.0.113.11",
            "organisation_prefix": f"{ORGANISATION}::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1", "workers": 2},
        "dns64": {"upstream_servers": ["10.0.0.53"]},
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            data.setdefault(section, {})[key] = value
        else:
            data[section] = value
    return load_data(data)


def install(state: Path, settings: Settings | None = None) -> None:
    for step in install_steps(settings or document(), state, author="test"):
        if "system user" not in step.name and "systemd" not in step.name and step.needed():
            step.do()


@asynccontextmanager
async def serving(state: Path) -> AsyncIterator[Agent]:
    agent = Agent(state)
    await agent.start()
    try:
        yield agent
    finally:
        assert await agent.stop() == []


def on_a_machine(body: Callable[[Agent], Awaitable[None]], state: Path, settings: Settings | None = None) -> None:
    gateway_module.MODULE = "tests.lab.fake_gateway"
    gateway_module.USER = "nobody"
    with corporate_network():
        install(state, settings)

        async def run() -> None:
            async with serving(state) as agent:
                assert agent.problem is None, str(agent.problem)
                await body(agent)

        asyncio.run(run())


async def until(condition: Callable[[], Any], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.02)


def api(agent: Agent) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(agent)), base_url="http://portico")


@isolated
def test_serves_after_installation(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        async with api(agent) as http:
            status = (await http.get("/v1/status")).json()
        assert status["serving"] is True
        assert status["revision"] == 1
        assert status["counters"]["uid"] != 0, "the gateway is not root"
        assert ":443" in command("ss", "-lnt")
        assert f"[{ORGANISATION}:3333::1]:53" in command("ss", "-lnu")

    on_a_machine(body, tmp_path / "state")


@isolated
def test_change_is_applied_and_a_refused_one_changes_nothing(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        outcome = await agent.change(document(access__manage_out=False), expected=1, author="test")
        assert outcome.revision is not None
        assert outcome.revision.number == 2
        assert "no manage-out from here" in command("nft", "list", "table", "inet", "portico")
        bad = document(server__internet_interface="eth9")
        with pytest.raises(SettingsRefused):
            await agent.change(bad, expected=2, author="test")
        with pytest.raises(PorticoError) as conflict:
            await agent.change(document(drift="report"), expected=1, author="test")
        assert conflict.value.code == "SETTINGS_CHANGED"
        assert agent.store().latest().number == 2  # type: ignore[union-attr]
        restored = await agent.rollback(1, author="test")
        assert restored.revision is not None
        assert restored.revision.number == 3
        assert "no manage-out from here" not in command("nft", "list", "table", "inet", "portico")

    on_a_machine(body, tmp_path / "state")


@isolated
def test_change_that_fails_rolls_back_with_the_kernel_and_says_so(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        before = command("nft", "list", "table", "inet", "portico")
        bad = document(nat64__tcp_mapping_timeout_seconds=7201, access__manage_out=False)
        with pytest.raises(ApplyFailed, match="unlucky") as failure:
            await agent.change(bad, expected=1, author="test")
        assert "revision 1 is in force again as revision 3" in failure.value.what
        assert command("nft", "list", "table", "inet", "portico") == before
        latest = agent.store().latest()
        assert latest is not None
        assert latest.settings == document()
        progress = {entry["revision"]: entry for entry in agent.progress.as_list()}
        assert progress[2]["stage"] == "failed"
        assert progress[2]["rolled_back_to"] == 3
        assert set(progress[3]["times"]) >= {"distributed", "applied"}
        assert agent.gateway.running

    on_a_machine(body, tmp_path / "state")


@isolated
def test_drift_is_repaired_and_named_within_five_seconds(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        command("nft", "delete", "table", "inet", "portico")
        await until(lambda: agent.drifts and agent.drifts[-1].repaired, 5)
        assert any("inet portico" in change for change in agent.drifts[-1].changes)
        command("nft", "list", "table", "inet", "portico")
        command("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
        await until(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() == "1", 5)
        pid = agent.gateway.supervisor.pid
        command("ip", "link", "del", TUNNEL)
        await until(lambda: agent.gateway.supervisor.pid not in (None, pid) and agent.gateway.running)
        assert f"{ORGANISATION}:1000::1" in command("ip", "-6", "addr", "show", "dev", TUNNEL)

    on_a_machine(body, tmp_path / "state")


@isolated
def test_every_kind_of_drift_is_named_within_five_seconds(tmp_path: Path) -> None:
    """All of it at once: reported while the settings say so, and repaired when they say that. The seconds are in
    tests/unit/server/test_kept_files.py, where no busy machine changes them."""
    clients, state = f"{ORGANISATION}:1000::/64", tmp_path / "state"
    breakages: dict[str, tuple[str | Callable[[], object], str]] = {
        "address removed": (f"ip -6 addr del {ORGANISATION}:1000::2/128 dev {TUNNEL}", "add address {}:1000::2/128 on"),
        "address added": (f"ip -6 addr add fd00::bad/64 dev {TUNNEL}", "remove address fd00::bad/64 on"),
        "route removed": ("ip route flush table 6464", "add route default dev portico-nat64 table 6464"),
        "route to our device": (f"ip -6 route add fd00:77::/64 dev {TUNNEL}", "remove route fd00:77::/64"),
        "route taken elsewhere": (f"ip -6 route add {clients} dev eth1 metric 5", "remove route {}:1000::/64 dev eth1"),
        "route that swallows": (f"ip -6 route add blackhole {clients} metric 7", "remove route {}:1000::/64 dev lo"),
        "rule of routing": ("ip rule del pref 100", "add rule 100: fwmark"),
        "sysctl": ("sysctl -qw net.ipv6.conf.all.forwarding=0", "set sysctl net/ipv6/conf/all/forwarding: 0 -> 1"),
        "nftables rule deleted": ("nft flush chain inet portico to_clients", "add {nft}: rule of chain to_clients"),
        "nftables rule added": ("nft insert rule inet portico input accept", "remove {nft}: rule of chain input"),
        "nftables chain": ("nft add chain inet portico theirs", "remove {nft}: chain theirs"),
        "user": ("nft add element inet portico users { fd00::9 timeout 1h }", "remove {nft}: element fd00::9 of set"),
        "mtu": (f"ip link set {TUNNEL} mtu 1400", "set device portico-iphttps mtu: 1400 -> 1280"),
        "file content": (lambda: (state / "applied.yaml").write_text("{}"), "applied.yaml content"),
        "file mode": (lambda: (state / "certificates" / "server.pem").chmod(0o644), "server.pem mode: 0644 -> 0600"),
        "file owner": (lambda: os.chown(state / "kernel.json", 65534, -1), "kernel.json owner: 65534 -> 0"),
        "file removed": (lambda: (state / "certificates" / "ticket_keys.json").unlink(), "ticket_keys.json"),
    }  # fmt: skip
    authority = tmp_path / "users.pem"
    users = UserCa("Users", datetime.now(UTC))
    authority.write_bytes(users.certificate.public_bytes(serialization.Encoding.PEM))
    settings = document(drift="report", access__user_authentication="certificate", access__user_ca=[str(authority)])

    async def body(agent: Agent) -> None:
        await until(lambda: agent.users._given is not None, 30)  # the set of users is as the agent keeps it
        for breakage, _ in breakages.values():
            if isinstance(breakage, str):
                command(*breakage.split())
            else:
                breakage()

        def unnamed() -> list[str]:
            said = "\n".join(agent.drifting)
            return [
                kind
                for kind, (_, name) in breakages.items()
                if name.format(ORGANISATION, nft="nftables in inet portico") not in said
            ]

        try:
            await until(lambda: not unnamed(), 30)
        except AssertionError:
            raise AssertionError(f"not named: {unnamed()}; named: {agent.drifting}") from None
        assert f"{ORGANISATION}:1000::2" not in command("ip", "-6", "addr", "show", "dev", TUNNEL), "only reported"
        data = agent.platform.settings.as_data() if agent.platform.settings is not None else {}
        await agent.change(load_data({**data, "drift": "repair"}), expected=1, author="test")
        await until(lambda: not agent.drifting and agent.drifts[-1].repaired, 30)
        assert await agent.platform.drift() == []
        assert '"number": 2' in (state / "applied.yaml").read_text()
        assert "blackhole" not in command("ip", "-6", "route")
        before = len(agent.drifts)
        command("nft", "add", "rule", "inet", "portico", "input", "counter")
        (state / "kernel.json").unlink()
        await until(lambda: (state / "kernel.json").exists() and len(agent.drifts) > before and not agent.drifting, 30)

    on_a_machine(body, state, settings)


@isolated
def test_listeners_and_queues_follow_the_settings(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        pid = agent.gateway.supervisor.pid
        await agent.change(document(server__workers=1, ip_https__port=8443), expected=1, author="test")
        listening = command("ss", "-Hlnt")
        assert listening.count(":8443 ") == 1
        assert "%eth0:443 " not in listening
        assert agent.gateway.supervisor.pid != pid
        assert agent.gateway.running
        assert len(agent.platform.kernel.devices[TUNNEL].fds) == 1
        await agent.change(document(nat64__state="disabled"), expected=2, author="test")
        assert "portico-nat64" not in command("ip", "-o", "link")
        assert "6464" not in command("ip", "rule")
        taken = command("ss", "-Hlnt")
        assert taken.count("%eth0:443 ") == 2

    on_a_machine(body, tmp_path / "state")


@isolated
def test_port_that_is_taken_costs_nothing(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::", 8443))
            other.listen()
            with pytest.raises((SettingsRefused, ApplyFailed)):
                await agent.change(document(ip_https__port=8443), expected=1, author="test")
        assert agent.gateway.running
        assert command("ss", "-Hlnt").count("%eth0:443 ") == 2

    on_a_machine(body, tmp_path / "state")


@pytest.mark.alone
@isolated
def test_killed_gateway_is_back_and_devices_keep_their_addresses(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        addresses = command("ip", "-o", "-6", "addr", "show", "dev", TUNNEL)
        pid = agent.gateway.supervisor.pid
        assert pid is not None
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: agent.gateway.supervisor.pid not in (None, pid) and agent.gateway.running)
        assert time.monotonic() - started < 1
        assert command("ip", "-o", "-6", "addr", "show", "dev", TUNNEL) == addresses

    on_a_machine(body, tmp_path / "state")


@pytest.mark.alone
@isolated
def test_enrol_list_and_revoke_within_a_second(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        gateway = agent.gateway
        async with api(agent) as http:
            token = (await http.post("/v1/ca/tokens", json={"name": "client1"})).json()
            fields = json.loads(base64.urlsafe_b64decode(token["token"] + "=="))
            _, csr = make_request("ignored")
            request = {"id": fields["id"], "secret": fields["secret"], "csr": csr}
            answer = agent.enrolment.answer(
                gateway_module.Request(
                    1, "203.0.113.101:5000", "POST", "/portico/v1/enrol", json.dumps(request).encode(), None
                )
            )
            assert answer.status == 200
            assert json.loads(answer.body)["settings"]["url"] == "https://203.0.113.11:443/IPHTTPS"
            again = agent.enrolment.answer(
                gateway_module.Request(
                    2, "203.0.113.101:5000", "POST", "/portico/v1/enrol", json.dumps(request).encode(), None
                )
            )
            assert again.status == 403, "a token works once"
            (client,) = (await http.get("/v1/clients")).json()["clients"]
            assert client["state"] == "never seen"
            record = agent.credentials.usable_store().issued(kind="client")[0]
            identity = {
                "serial": record.serial,
                "issuer_sha256": record.issuer_sha256,
                "subject": "client1",
                "not_after": 0,
            }
            session = {"session": 7, "peer": "203.0.113.101:5001", "identity": identity, "addresses": []}
            await gateway.supervisor.request("connect", session=session)
            assert (await http.get("/v1/clients/client1")).json()["state"] == "connected"
            started = time.monotonic()
            revoked = (await http.post("/v1/revocations", json={"name": "client1"})).json()
            assert time.monotonic() - started < 1
            assert revoked == {"serials": [record.serial], "closed": 1}
            assert (await http.get("/v1/clients/client1")).json()["state"] == "revoked"
            assert (agent.credentials.directory / "crl.pem").exists()
            unknown = await http.post("/v1/revocations", json={"name": "nobody"})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "CERTIFICATE_NOT_FOUND")

    on_a_machine(body, tmp_path / "state")


@isolated
def test_corrupt_store_does_not_stop_the_service(tmp_path: Path) -> None:
    gateway_module.MODULE = "tests.lab.fake_gateway"
    gateway_module.USER = "nobody"
    state = tmp_path / "state"

    async def once(check: Callable[[Agent], Awaitable[None]]) -> None:
        async with serving(state) as agent:
            await check(agent)

    async def fine(agent: Agent) -> None:
        assert agent.problem is None

    async def read_only(agent: Agent) -> None:
        assert agent.problem is None, "it serves from the applied revision"
        async with api(agent) as http:
            status = (await http.get("/v1/status")).json()
            assert status["serving"]
            assert status["settings_read_only"]
            refused = await http.post("/v1/settings", json={"yaml": "x: 1"})
            assert refused.status_code == 422
            body = {"settings": document(drift="report").as_data()}
            refused = await http.post("/v1/settings", json=body)
            assert refused.json()["error"]["code"] == "STORE_READ_ONLY"
            repaired = (await http.post("/v1/settings/repair")).json()
            assert repaired["set_aside"]
            assert (await http.post("/v1/settings", json=body)).status_code == 200

    with corporate_network():
        install(state)
        asyncio.run(once(fine))
        for damage in (b"", b"garbage" * 1000):
            (state / "settings.sqlite").write_bytes(damage)
            for leftover in state.glob("settings.sqlite-*"):
                leftover.unlink()
            asyncio.run(once(read_only if damage else fine))
        for name in ("kernel.json", "revisions.json", "seen.json", "certificates/ticket_keys.json"):
            (state / name).write_bytes(b"\xff{garbage")
        asyncio.run(once(fine))


@isolated
def test_stop_and_uninstall_leave_no_trace(tmp_path: Path) -> None:
    gateway_module.MODULE = "tests.lab.fake_gateway"
    gateway_module.USER = "nobody"
    state = tmp_path / "state"

    def snapshot() -> list[str]:
        # The kernel is still looking whether its new addresses are unique (RFC 4862, 5.4).
        wait.until("addresses that stay", lambda: "tentative" not in command("ip", "-o", "addr"), timeout=30.0)
        return [
            command("ip", "-o", "addr"),
            command("ip", "rule"),
            command("ip", "-6", "route"),
            command("nft", "list", "ruleset"),
            command("sysctl", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_local_port_range"),
            command("sysctl", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth1.accept_ra"),
        ]

    async def once() -> None:
        async with serving(state) as agent:
            assert agent.problem is None

    with corporate_network():
        before = snapshot()
        install(state)
        asyncio.run(once())
        assert snapshot() == before
        for step in uninstall_steps(state, purge=True):
            if step.needed():
                step.do()
        assert snapshot() == before
        assert not state.exists()
