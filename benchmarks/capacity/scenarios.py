"""What is measured: each scenario gets a running server and returns one row."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.deployment import (
    APP4_THROUGH_NAT64,
    APP6,
    IN_TUNNEL,
    SOURCES,
    TARGET,
    Deployment,
    flat,
    process_figures,
)
from portico.lab import deployment, wait
from tests.peers.crowd import Credentials, Crowd, Responder

PORT = 9000
MBIT_PER_CLIENT = 0.105
"""What a client of the published report moved: 84 Mbit/s for 750."""

PACKETS, PAYLOAD = 8, 1200
"""A client's request asks for so many datagrams of so many bytes."""

SETTLE = 5.0


@dataclass
class Row:
    """One measurement; what was not measured is None.

    Attributes:
        clients: tunnels that were up.
        internal, internet: Mbit/s on either side of the server, both directions together.
        cores: processor seconds of the gateway process in a second.
        kib_per_tunnel: anonymous memory of the gateway process that the tunnels added, for each of them.
        more: further figures by name, for people.
    """

    name: str
    clients: int
    internal: float | None = None
    internet: float | None = None
    cores: float | None = None
    kib_per_tunnel: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def clients_per_core(self) -> float | None:
        return self.clients / self.cores if self.cores and self.internal else None

    @property
    def mbit_per_core(self) -> float | None:
        return self.internal / self.cores if self.cores and self.internal else None


class Bench:
    """A server, an identity for the crowd, and the intranet's end of its traffic."""

    def __init__(self, place: Deployment, seconds: float, say: Callable[[str], None]) -> None:
        self.place, self.seconds, self.say = place, seconds, say
        self.credentials: Credentials = place.identity("crowd")

    def crowd(self, stack: ExitStack, **options: Any) -> Crowd:
        place = self.place
        options = {"sources": SOURCES, "connections_per_second": 1000.0, **options}
        return stack.enter_context(
            Crowd(place.internet, place.directory, [TARGET], self.credentials, IN_TUNNEL, **options)
        )

    def responder(self, stack: ExitStack, host: str = "app4") -> str:
        """Starts the intranet's end; returns what clients send to."""
        address, through = {"app4": ("10.0.0.4", APP4_THROUGH_NAT64), "app6": (APP6, APP6)}[host]
        stack.enter_context(Responder(self.place.namespace(host), address, PORT))
        return f"[{through}]:{PORT}"

    def connect(self, crowd: Crowd, count: int) -> float:
        """Brings clients up; returns KiB of the gateway's memory for each."""
        pid = self.place.gateway_pid()
        before = process_figures(pid)["anonymous_kib"]
        crowd.connect(count)
        for part in range(1, 11):
            crowd.wait(count * part // 10, timeout=120.0)
            if part % 2 == 0:
                self.say(f"    {count * part // 10:,} of {count:,} tunnels")
        time.sleep(SETTLE / 2)
        return (process_figures(pid)["anonymous_kib"] - before) / count

    def watch(self) -> dict[str, Any]:
        """Mbit/s of both networks and processor seconds in a second, over the time of a measurement."""
        pid = self.place.gateway_pid()
        namespace = self.place.namespace("da1")
        began, bytes_before = time.monotonic(), _card_bytes(namespace)
        before = process_figures(pid)["cpu_seconds"]
        time.sleep(self.seconds)
        took = time.monotonic() - began
        spent = process_figures(pid)["cpu_seconds"] - before
        after = _card_bytes(namespace)
        rate = {card: (after[card] - bytes_before[card]) * 8 / 1e6 / took for card in after}
        return {"internet": rate["eth0"], "internal": rate["eth1"], "cores": spent / took}

    def wait_for_nobody(self) -> None:
        """Until the server has forgotten everybody."""
        with self.place.api() as api:
            wait.until(
                "the server to forget the clients",
                lambda: api.get("/v1/status")["counters"]["sessions"] == 0,
                timeout=60.0,
                interval=0.5,
            )


def _card_bytes(namespace: str) -> dict[str, int]:
    done = subprocess.run(
        ["ip", "-j", "-s", "-n", namespace, "link"], capture_output=True, text=True, check=True, timeout=10.0
    )
    return {
        card["ifname"]: card["stats64"]["rx"]["bytes"] + card["stats64"]["tx"]["bytes"]
        for card in json.loads(done.stdout)
        if card["ifname"] in ("eth0", "eth1")
    }


def office(count: int) -> Callable[[Bench], Row]:
    """So many clients that each receive what those of the published report received, through NAT64."""

    def run(bench: Bench) -> Row:
        with ExitStack() as stack:
            target = bench.responder(stack)
            crowd = bench.crowd(stack)
            bench.connect(crowd, count)
            interval = PACKETS * PAYLOAD * 8 / 1000 / MBIT_PER_CLIENT
            crowd.profile({
                "kind": "exchange", "target": target, "up_bytes": 100, "down": PACKETS, "down_bytes": PAYLOAD,
                "interval_ms": interval, "window": 4,
            })  # fmt: skip
            time.sleep(SETTLE)
            crowd.figures(reset=True)
            rates = bench.watch()
            figures = crowd.figures()
        bench.wait_for_nobody()
        lost = figures["exchange_losses"] / max(figures["exchanges"], 1)
        more = {"answer_p50_ms": figures["round_trip"].get("p50_ms"), "answers_lost": lost}
        return Row(f"{count:,} clients, {count * MBIT_PER_CLIENT:,.0f} Mbit/s", count, **rates, more=more)

    return run


def greedy(count: int) -> Callable[[Bench], Row]:
    """As much as goes through, shared by so many clients."""

    def run(bench: Bench) -> Row:
        with ExitStack() as stack:
            target = bench.responder(stack)
            crowd = bench.crowd(stack)
            bench.connect(crowd, count)
            crowd.profile({
                "kind": "exchange", "target": target, "up_bytes": 100, "down": 32, "down_bytes": PAYLOAD, "window": 2,
            }, 0, min(count, 64))  # fmt: skip
            time.sleep(SETTLE)
            rates = bench.watch()
        bench.wait_for_nobody()
        name = f"{count:,} clients, 64 of them without a limit"
        return Row(name, count, **rates)

    return run


def idle(count: int) -> Callable[[Bench], Row]:
    """Tunnels without traffic: what they cost just by being there."""

    def run(bench: Bench) -> Row:
        with ExitStack() as stack:
            crowd = bench.crowd(stack, connections_per_second=0.0)
            pid = bench.place.gateway_pid()
            spent, began = process_figures(pid)["cpu_seconds"], time.monotonic()
            each = bench.connect(crowd, count)
            took = time.monotonic() - began - SETTLE / 2
            spent = process_figures(pid)["cpu_seconds"] - spent
            rates = bench.watch()
            figures = crowd.figures()
        bench.wait_for_nobody()
        more = {
            "seconds_until_up": took,
            "tunnels_per_core_second": count / spent,
            "lost": sum(figures["lost"].values()) + sum(figures["failed"].values()),
        }
        return Row(f"{count:,} idle clients", count, cores=rates["cores"], kib_per_tunnel=each, more=more)

    return run


def storm(count: int) -> Callable[[Bench], Row]:
    """All clients dial at once after the gateway died; then once more while others work."""

    def run(bench: Bench) -> Row:
        more: dict[str, Any] = {}
        with ExitStack() as stack:
            crowd = bench.crowd(stack, reconnect="at_once", resume=True, connections_per_second=0.0)
            bench.connect(crowd, count)
            crowd.figures(reset=True)
            began = time.monotonic()
            bench.place.server.run("kill", "-9", str(_inner_pid(bench.place)))
            wait.until("the tunnels to break", lambda: crowd.state()["reachable"] < count, timeout=10.0, interval=0.01)
            crowd.wait(count, timeout=120.0)
            more["all_back_after_s"] = time.monotonic() - began
            figures = crowd.figures()
            more["resumed"] = figures["resumed"] / max(figures["came_up"], 1)
            more["slowest_ms"] = figures["until_up"]["max_ms"]
            more["refused"] = sum(figures["failed"].values())
        bench.wait_for_nobody()
        with ExitStack() as stack:
            calm = bench.crowd(stack, first=1_000_000)
            bench.connect(calm, 50)
            calm.profile({"kind": "ping", "interval_ms": 100})
            time.sleep(1.0)
            quiet = calm.figures(reset=True)
            time.sleep(2.0)
            quiet = calm.figures(reset=True)
            crowd = bench.crowd(stack, connections_per_second=0.0)
            crowd.connect(count)
            more["all_up_after_s"] = crowd.wait(count, timeout=120.0)
            busy = calm.figures()
            for name, figures in (("quiet", quiet), ("storm", busy)):
                for share in ("p50_ms", "p99_ms"):
                    more[f"ping_{name}_{share}"] = figures["round_trip"].get(share)
            more["pings_lost"] = busy["ping_losses"]
        bench.wait_for_nobody()
        return Row(f"{count:,} clients dial at once", count, more=more)

    return run


def _inner_pid(place: Deployment) -> int:
    """The gateway's number as its host has it."""
    lines = Path(f"/proc/{place.gateway_pid()}/status").read_text().splitlines()
    [numbers] = [line for line in lines if line.startswith("NSpid:")]
    return int(numbers.split()[-1])


def bindings(count: int) -> Callable[[Bench], Row]:
    """So many NAT64 bindings at once, then packets over all of them."""

    def run(bench: Bench) -> Row:
        place = bench.place
        ports = 4000
        clients = -(-count // ports)
        addresses = [f"10.0.0.{number}" for number in range(100, 100 + -(-count // 50_000) + 1)]
        for address in addresses:
            place.server.run("ip", "addr", "replace", f"{address}/24", "dev", "eth1")
        document = deployment.settings("da1")
        document["nat64"] = {
            "ipv4_address_port_pool": [f"{address},1024-65535" for address in addresses],
            "max_bindings": count + count // 10,
            "udp_mapping_timeout_seconds": 3600,
        }
        place.server.write("/etc/portico/bindings.yaml", yaml.safe_dump(document, sort_keys=False), 0o600)
        place.server.run("portico", "settings", "apply", "/etc/portico/bindings.yaml", "--yes", timeout=60.0)
        with ExitStack() as stack:
            target = bench.responder(stack)
            crowd = bench.crowd(stack)
            bench.connect(crowd, clients)
            pid = place.gateway_pid()
            profile = {
                "kind": "exchange", "target": target, "up_bytes": 100, "down_bytes": 100, "window": 8, "ports": 50,
            }  # fmt: skip
            crowd.profile(profile)
            time.sleep(SETTLE)
            few = _per_packet(bench, place)
            before = process_figures(pid)["anonymous_kib"]
            began = time.monotonic()
            crowd.profile({**profile, "ports": ports})
            made = _made(bench, count)
            took = time.monotonic() - began
            many = _per_packet(bench, place)
            kib = process_figures(pid)["anonymous_kib"] - before
        bench.wait_for_nobody()
        more = {
            "bindings": made,
            "seconds_until_made": took,
            "bytes_per_binding": kib * 1024 / made,
            "cpu_us_per_packet_with_few": few,
            "cpu_us_per_packet_with_all": many,
        }
        return Row(f"{count:,} NAT64 bindings", clients, more=more)

    return run


def _counters(place: Deployment) -> dict[str, int]:
    with place.api() as api:
        return flat(api.get("/v1/status")["counters"])


def _made(bench: Bench, count: int) -> int:
    """Waits for nearly so many bindings (some datagrams are lost on the way); how many there are."""
    said = time.monotonic()

    def look() -> int:
        nonlocal said
        found = _counters(bench.place)["nat64.bindings"]
        if time.monotonic() - said >= 5.0:
            said = time.monotonic()
            bench.say(f"    {found:,} of {count:,} bindings")
        return found if found >= count * 98 // 100 else 0

    return wait.until(f"{count:,} bindings", look, timeout=300.0, interval=1.0)


def _per_packet(bench: Bench, place: Deployment) -> float:
    """Processor microseconds of the gateway for each packet that NAT64 translated."""
    names = ("nat64.packets_6to4", "nat64.packets_4to6")
    before = _counters(place)
    spent = float(bench.watch()["cores"]) * bench.seconds
    after = _counters(place)
    return spent * 1e6 / max(sum(after[name] - before[name] for name in names), 1)


SCENARIOS: dict[str, tuple[Callable[[int], Callable[[Bench], Row]], int]] = {
    "idle": (idle, 10_000),
    "office-750": (office, 750),
    "office-1500": (office, 1500),
    "office-5000": (office, 5000),
    "office-10000": (office, 10_000),
    "greedy": (greedy, 1000),
    "storm": (storm, 5000),
    "bindings": (bindings, 500_000),
}
"""What is measured, and with how many clients or bindings."""


def scenario(name: str, scale: float = 1.0) -> Callable[[Bench], Row]:
    """One of the scenarios, with a part of its number."""
    make, count = SCENARIOS[name]
    return make(max(1, round(count * scale)))
