"""Load balancing enabled, disabled and failed on a machine of its own; the gateway is a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx

from portico.server import gateway as gateway_module
from portico.server.agent import Agent
from portico.server.desired import kept_addresses
from portico.server.install import uninstall_steps
from portico.server.machine import NAME_FILE
from portico.settings.addresses import Address

from .namespace import ORGANISATION, command, corporate_network, isolated
from .test_agent import api, install, on_a_machine, pytestmark, serving, until

__all__ = ["pytestmark"]

ENABLE: dict[str, Any] = {
    "internet_dedicated_addresses": ["203.0.113.12 /255.255.255.0"],
    "internal_dedicated_addresses": ["10.0.0.12/24", f"{ORGANISATION}:1::12/64"],
}


def addresses() -> dict[str, list[str]]:
    """Global addresses of the machine's interfaces, as `ip` prints them."""
    found: dict[str, list[str]] = {}
    for name in ("lo", "eth0", "eth1"):
        lines = command("ip", "-o", "addr", "show", "dev", name).splitlines()
        found[name] = [line.split()[3] for line in lines if "fe80" not in line and " host " not in line]
    return found


def machine() -> list[str]:
    """Everything of the machine that load balancing may touch, as text."""
    routes = command("ip", "-6", "route", "show", "table", "main") + command(
        "ip", "-4", "route", "show", "table", "all"
    )
    sysctls = command("sysctl", "net.ipv4.conf.eth0.promote_secondaries", "net.ipv4.conf.eth1.promote_secondaries")
    lines = [line for line in routes.splitlines() if "fe80" not in line and "portico-" not in line]
    return [json.dumps(addresses()), *sorted(lines), sysctls]


async def post(http: httpx.AsyncClient, what: str, **body: Any) -> dict[str, Any]:
    answer = await http.post(f"/v1/load-balancing/{what}", json=body)
    found: dict[str, Any] = answer.json()
    return found


@isolated
def test_load_balancing_is_enabled_and_disabled_as_one_transaction_each(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        command("ip", "route", "add", "default", "via", "203.0.113.1")
        command("ip", "addr", "add", "198.51.100.5/24", "dev", "eth0")
        before = machine()
        gateway = agent.gateway.supervisor.pid
        async with api(agent) as http:
            planned = await post(http, "enable", **ENABLE, dry_run=True)
            assert machine() == before
            assert planned["revision"] is None
            lines = "\n".join(planned["difference"]["lines"])
            for text in (
                "existing address 203.0.113.11 becomes a VIP",
                "203.0.113.12, 10.0.0.12",
                f"intranet routers must route {ORGANISATION}:1000::/59 to {ORGANISATION}:1::2",
            ):
                assert text in lines

            outcome = await post(http, "enable", **ENABLE)
            assert outcome["revision"]["number"] == 2, outcome
            assert addresses() == {
                "lo": ["203.0.113.11/32", "10.0.0.2/32", f"{ORGANISATION}:1::2/128"],
                "eth0": ["198.51.100.5/24", "203.0.113.12/24"],
                "eth1": ["10.0.0.12/24", f"{ORGANISATION}:1::12/64"],
            }
            assert "default via 203.0.113.1" in command("ip", "route")
            values = agent.platform.values
            assert values is not None
            assert str(values.nat64_pool[0].address) == "10.0.0.12"
            assert str(values.client_prefix) == f"{ORGANISATION}:1000::/59"
            assert agent.gateway.supervisor.pid == gateway, "tunnels live on"
            shown = (await http.get("/v1/load-balancing")).json()
            assert (shown["own_name"], shown["internet_virtual_addresses"]) == ("da1", ["203.0.113.11/255.255.255.0"])
            assert json.loads((agent.state / NAME_FILE).read_text()) == {"server": "da1"}
            again = await post(http, "enable", **ENABLE)
            assert again["error"]["code"] == "LB_ENABLED"

            command("ip", "addr", "del", "203.0.113.12/24", "dev", "eth0")
            await until(lambda: "203.0.113.12/24" in addresses()["eth0"] and agent.drifts, 5)
            assert any("203.0.113.12/24 on eth0" in change for change in agent.drifts[-1].changes)

            assert (await post(http, "mode", mode="multicast"))["revision"]["number"] == 3
            outcome = await post(http, "disable")
            assert outcome["revision"]["number"] == 4, outcome
            assert machine() == before
            assert not (agent.state / NAME_FILE).exists()
            assert (await http.get("/v1/load-balancing")).status_code == 404
            assert (await post(http, "disable"))["error"]["code"] == "LB_DISABLED"

    on_a_machine(body, tmp_path / "state")


@isolated
def test_a_failure_in_the_middle_puts_everything_back(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        command("ip", "route", "add", "default", "via", "203.0.113.1")
        command("sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")
        before = machine()
        async with api(agent) as http:
            wanted = {**ENABLE, "internal_virtual_addresses": ["10.0.0.2/24", f"{ORGANISATION}:1::2/64"]}
            failed = await post(http, "enable", **wanted)
            assert failed["error"]["code"] == "APPLY_FAILED", failed
            assert "eth1" in failed["error"]["why"]
            assert machine() == before
            assert not (agent.state / NAME_FILE).exists()
            latest = agent.store().latest()
            assert latest is not None
            assert latest.settings.load_balancing is None
            assert agent.problem is None
            assert agent.drifting == []
            assert (await http.get("/v1/status")).json()["serving"] is True
            usable = {**ENABLE, "internal_dedicated_addresses": ["10.0.0.12/24"]}
            assert (await post(http, "enable", **usable))["revision"]["number"] == 4
            assert (await post(http, "disable"))["revision"]["number"] == 5
            assert machine() == before

    on_a_machine(body, tmp_path / "state")


@isolated
def test_an_address_that_another_machine_has_is_not_taken(tmp_path: Path) -> None:
    asked: list[tuple[str, list[Address]]] = []

    def probe(interface: str, wanted: Sequence[Address], _ignored: Sequence[str] = ()) -> dict[Address, str]:
        asked.append((interface, list(wanted)))
        return {address: "02:00:00:00:00:07" for address in wanted if address == ip_address("10.0.0.12")}

    async def body(agent: Agent) -> None:
        agent.machine.probe = probe
        before = machine()
        async with api(agent) as http:
            refused = await post(http, "enable", **ENABLE, dry_run=True)
        codes = [problem["code"] for problem in refused["error"]["problems"]]
        assert codes[0] == "LB_ADDRESS_IN_USE"
        assert asked == [
            ("eth0", [IPv4Address("203.0.113.12")]),
            ("eth1", [IPv4Address("10.0.0.12"), IPv6Address(f"{ORGANISATION}:1::12")]),
        ]
        assert machine() == before

    on_a_machine(body, tmp_path / "state")


@isolated
def test_a_stop_gives_the_machine_back_and_a_start_takes_it_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    seen: dict[str, Any] = {}

    async def scenario() -> None:
        async with serving(state) as agent:
            async with api(agent) as http:
                assert (await post(http, "enable", **ENABLE))["revision"]["number"] == 2
            seen["balanced"] = addresses()
        assert machine() == seen["before"]
        async with serving(state) as again:
            assert again.problem is None
            assert addresses() == seen["balanced"]
            # What a crash leaves: no undo, a ledger on the disk.
            again.upkeep.close()
            for task in again._tasks:
                task.cancel()
            await again.gateway.supervisor.stop()
            again.platform.kernel._close_devices()
            async with serving(state) as third:
                assert third.problem is None
                assert addresses() == seen["balanced"]
                async with api(third) as http:
                    await post(http, "disable")
                assert machine() == seen["before"]

    gateway_module.MODULE = "tests.lab.fake_gateway"
    gateway_module.USER = "nobody"
    with corporate_network():
        install(state)
        seen["before"] = machine()
        asyncio.run(scenario())
        assert machine() == seen["before"]


@isolated
def test_a_server_among_others_keeps_its_dedicated_addresses_when_it_stops(tmp_path: Path) -> None:
    async def body(agent: Agent) -> None:
        before = machine()
        async with api(agent) as http:
            await post(http, "enable", **ENABLE)
            added = await post(
                http,
                "add",
                name="da2",
                internet_dedicated_addresses=["203.0.113.13/24"],
                internal_dedicated_addresses=["10.0.0.13/24", f"{ORGANISATION}:1::13/64"],
            )
            assert added["revision"]["number"] == 3, added
        async with agent.transactions.lock:  # nobody repairs meanwhile
            assert agent.platform.settings is not None
            keep = kept_addresses(agent.platform.settings)
            assert await asyncio.to_thread(agent.platform.kernel.undo, keep) == []
            assert addresses() == {
                "lo": [],
                "eth0": ["203.0.113.12/24"],
                "eth1": ["10.0.0.12/24", f"{ORGANISATION}:1::12/64"],
            }
            assert await asyncio.to_thread(agent.platform.kernel.undo) == []
            assert machine() == before

    on_a_machine(body, tmp_path / "state")


@isolated
def test_taking_the_role_off_a_server_among_others_leaves_it_no_virtual_address(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def scenario() -> None:
        async with serving(state) as agent, api(agent) as http:
            await post(http, "enable", **ENABLE)
            other = {
                "internet_dedicated_addresses": ["203.0.113.13/24"],
                "internal_dedicated_addresses": ["10.0.0.13/24", f"{ORGANISATION}:1::13/64"],
            }
            assert (await post(http, "add", name="da2", **other))["revision"]["number"] == 3
        assert addresses()["eth0"] == ["203.0.113.12/24"], "stopped, not removed"

    gateway_module.MODULE = "tests.lab.fake_gateway"
    gateway_module.USER = "nobody"
    with corporate_network():
        install(state)
        asyncio.run(scenario())
        (step,) = (step for step in uninstall_steps(state, purge=False) if "kernel" in step.name)
        assert "dedicated" in step.do()
        assert addresses() == {
            "lo": [],
            "eth0": ["203.0.113.12/24"],
            "eth1": ["10.0.0.12/24", f"{ORGANISATION}:1::12/64"],
        }
        assert not (state / "kernel.json").exists()
