"""The loads on a path, and what each tells."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from benchmarks.cpu import cpu_seconds
from benchmarks.line import line
from benchmarks.network import CONGESTION_CONTROL, Network
from benchmarks.peers import Path

ATTEMPTS = 4
PINGS, PING_INTERVAL = 50, 0.02
# TCP finds the rate of a slow line in this time; it is not counted.
SETTLING = 2.0
# Seconds that iperf3 takes beside its load, and those after which it will not end any more.
OVERHEAD, PATIENCE = 0.4, 12.0

T = TypeVar("T")
Result = dict[str, Any]
Figures = dict[str, float]


def _patiently(once: Callable[[], T]) -> T:
    for _ in range(ATTEMPTS - 1):
        # An unlimited UDP load can starve iperf3's own control connection; that says nothing about the path.
        with contextlib.suppress(RuntimeError):
            return once()
    return once()


def _iperf(net: Network, target: str, seconds: float, *options: str) -> Result:
    # A server for each attempt: one whose client is gone may wait for it for minutes.
    server = net.start("server", "iperf3", "--server", "--one-off", "--json", log="iperf3-server.log")
    try:
        net.wait(server, lambda: ":5201" in net.call("server", "ss", "-tln"), "iperf3 to listen")
        output = net.call(
            "client", "iperf3", "-J", "-c", target, "-t", f"{seconds:g}", *options,
            check=False, seconds=seconds + SETTLING + PATIENCE,
        )  # fmt: skip
    finally:
        net.stop(server)
    try:
        result: Result = json.loads(output)
    except ValueError as error:
        raise RuntimeError(f"iperf3 to {target} printed no result: {output[:200]!r}") from error
    if "error" in result:
        raise RuntimeError(f"iperf3 to {target}: {result['error']}")
    return result


def _tcp(net: Network, target: str, seconds: float, *options: str) -> tuple[float, float]:
    """Bits a second and bytes received, one stream."""
    result = _patiently(lambda: _iperf(net, target, seconds, "-C", CONGESTION_CONTROL, *options))
    received = result["end"]["sum_received"]
    return received["bits_per_second"], received["bytes"]


def bulk(net: Network, path: Path, seconds: float) -> Figures:
    """One TCP stream up, then down; Gbit/s that arrived, and the gateway's processor time for it."""
    before = cpu_seconds(path.gateway_pids)
    up, up_bytes = _tcp(net, path.target, seconds)
    down, down_bytes = _tcp(net, path.target, seconds, "-R")
    figures = {"up": up / 1e9, "down": down / 1e9}
    if path.gateway_pids:
        figures["cpu_per_gb"] = (cpu_seconds(path.gateway_pids) - before) / ((up_bytes + down_bytes) / 1e9)
    return figures


def _delivered(net: Network, role: str) -> int:
    """UDP datagrams that reached a host, also those for which the program that reads them had no room left."""
    total = 0
    for row in net.call(role, "cat", "/proc/net/snmp6").splitlines():
        name, _, value = row.partition(" ")
        if name in ("Udp6InDatagrams", "Udp6RcvbufErrors"):
            total += int(value)
    rows = [row.split() for row in net.call(role, "cat", "/proc/net/snmp").splitlines() if row.startswith("Udp: ")]
    counters = dict(zip(rows[0], rows[1], strict=True))
    return total + int(counters["InDatagrams"]) + int(counters["RcvbufErrors"])


def _datagrams(net: Network, target: str, seconds: float, *options: str) -> float:
    """Datagrams a second that the path delivered, counted by the receiving host.

    Not by the receiving program: it shares the processors with the path, and what overflows its socket while it waits
    says how fast it is. A path that delivers in bursts would be judged by the size of that socket's buffer.
    """
    return _patiently(lambda: _datagrams_once(net, target, seconds, *options))


def _datagrams_once(net: Network, target: str, seconds: float, *options: str) -> float:
    receiver = "client" if "-R" in options else "server"
    before = _delivered(net, receiver)
    result = _iperf(net, target, seconds, "-u", "-l", "200", "-b", "0", "--get-server-output", *options)
    received = result if "-R" in options else result["server_output_json"]
    taken: float = sum(interval["sum"]["seconds"] for interval in received["intervals"])
    return (_delivered(net, receiver) - before) / taken


def small(net: Network, path: Path, seconds: float) -> Figures:
    """200-byte UDP datagrams offered without limit."""
    return {
        "small_up": _datagrams(net, path.target, seconds),
        "small_down": _datagrams(net, path.target, seconds, "-R"),
    }


def round_trips(output: str) -> list[float]:
    """The round trips that `ping` printed, in milliseconds."""
    return [float(value) for value in re.findall(r"time=([\d.]+)", output)]


def _ping(net: Network, target: str, count: int) -> float:
    """The median round trip, milliseconds."""
    output = net.call("client", "ping", "-c", str(count), "-i", str(PING_INTERVAL), "-W", "1", target, check=False)
    times = round_trips(output)
    if len(times) < count / 2:
        raise RuntimeError(f"ping {target}: {len(times)} of {count} answers came: {output[-200:]}")
    return median(times)


def ping(net: Network, path: Path, seconds: float) -> Figures:
    """The round trip while nothing else is on the path."""
    return {"ping": _ping(net, path.target, PINGS)}


def saturated(net: Network, path: Path, seconds: float) -> Figures:
    """One TCP stream each way over a slow line, and the round trip meanwhile."""
    figures: Figures = {}
    with line(net):
        for direction, options in (("up", ()), ("down", ("-R",))):
            rate, trip = _beside(net, path.target, seconds, *options)
            figures |= {f"line_{direction}": rate, f"line_ping_{direction}": trip}
    return figures


def _beside(net: Network, target: str, seconds: float, *options: str) -> tuple[float, float]:
    """Mbit/s of one TCP stream and the round trip beside it, after TCP has settled."""
    rates: list[float] = []
    failures: list[Exception] = []

    def load() -> None:
        try:
            rates.append(_tcp(net, target, seconds, "-O", f"{SETTLING:g}", *options)[0] / 1e6)
        except (RuntimeError, OSError) as error:
            failures.append(error)

    sender = threading.Thread(target=load)
    sender.start()
    try:
        sender.join(SETTLING)
        trip = _ping(net, target, int(seconds / PING_INTERVAL))
    finally:
        sender.join()
    if failures:
        raise failures[0]
    return rates[0], trip


@dataclass(frozen=True)
class Load:
    """figures: what it gives; cost: seconds it takes, from the length of a load."""

    figures: frozenset[str]
    run: Callable[[Network, Path, float], Figures]
    cost: Callable[[float], float]


# In this order: what must find the path idle first, what leaves full queues behind last.
LOADS: dict[str, Load] = {
    "ping": Load(frozenset({"ping"}), ping, lambda seconds: PINGS * PING_INTERVAL),
    "bulk": Load(frozenset({"up", "down", "cpu_per_gb"}), bulk, lambda seconds: 2 * (seconds + OVERHEAD)),
    "small": Load(frozenset({"small_up", "small_down"}), small, lambda seconds: 2 * (seconds + OVERHEAD)),
    "line": Load(
        frozenset({"line_up", "line_down", "line_ping_up", "line_ping_down"}),
        saturated,
        lambda seconds: 2 * (seconds + SETTLING + OVERHEAD),
    ),
}
TUNNEL = frozenset().union(*(load.figures for load in LOADS.values()))
"""Everything that a tunnel is measured by."""


def measure(net: Network, path: Path, wanted: frozenset[str], seconds: float) -> Figures:
    """Puts every load on the path that gives a wanted figure.

    Raises:
        RuntimeError: a tool failed; a figure is measured or there is none.
    """
    figures: Figures = {}
    for load in LOADS.values():
        if load.figures & wanted:
            figures |= load.run(net, path, seconds)
    return figures
