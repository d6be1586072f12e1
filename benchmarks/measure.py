"""What is measured on each path, and how."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.network import CONGESTION_CONTROL, Network

ATTEMPTS = 4
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Round:
    """One round on one path.

    up, down: Gbit/s received, one TCP stream, client to server and back.
    small_up, small_down: 200-byte UDP datagrams received a second, offered without limit.
    ping: median round trip, milliseconds.
    cpu_per_gb: CPU seconds of the gateway's tunnel processes (user and system) per gigabyte of bulk in both directions;
        None for plain routing, which has none.
    """

    up: float
    down: float
    small_up: float
    small_down: float
    ping: float
    cpu_per_gb: float | None


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and their children, living and waited for.

    Raises:
        OSError: a process is gone; its figures would be wrong.
    """
    total = 0
    for pid in _with_children(pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def _with_children(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split() if int(child) not in found)
    return found


Result = dict[str, Any]


def _iperf(net: Network, target: str, seconds: int, *options: str) -> Result:
    for _ in range(ATTEMPTS - 1):
        # An unlimited UDP load can starve iperf3's own control connection; that says nothing about the path.
        with contextlib.suppress(RuntimeError):
            return _iperf_once(net, target, seconds, *options)
    return _iperf_once(net, target, seconds, *options)


def _iperf_once(net: Network, target: str, seconds: int, *options: str) -> Result:
    output = net.call("client", "iperf3", "-J", "-c", target, "-t", str(seconds), *options, check=False)
    try:
        result: Result = json.loads(output)
    except ValueError as error:
        raise RuntimeError(f"iperf3 to {target} printed no result: {output[:200]!r}") from error
    if "error" in result:
        raise RuntimeError(f"iperf3 to {target}: {result['error']}")
    return result


def _bulk(net: Network, target: str, seconds: int, *options: str) -> tuple[float, float]:
    """Gbit/s and gigabytes received."""
    received = _iperf(net, target, seconds, "-C", CONGESTION_CONTROL, *options)["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 1e9


def _small(net: Network, target: str, seconds: int, *options: str) -> float:
    """Datagrams a second that arrived, by the receiver's own intervals (the summaries mix in what was sent)."""
    result = _iperf(net, target, seconds, "-u", "-l", "200", "-b", "0", "--get-server-output", *options)
    receiver = result if "-R" in options else result["server_output_json"]
    intervals = [interval["sum"] for interval in receiver["intervals"]]
    arrived: float = sum(one["packets"] - one["lost_packets"] for one in intervals)
    taken: float = sum(one["seconds"] for one in intervals)
    return arrived / taken


def _ping(net: Network, target: str) -> float:
    output = net.call("client", "ping", "-q", "-c", "50", "-i", "0.02", target)
    match = re.search(r"= [\d.]+/([\d.]+)/", output)
    if match is None:
        raise RuntimeError(f"ping {target} printed no round trip: {output[-200:]}")
    return float(match[1])


def measure(net: Network, target: str, gateway_pids: list[int], seconds: int) -> Round:
    """One round: bulk both ways, small packets both ways, round trip.

    Raises:
        RuntimeError: a tool failed; a figure is measured or there is none.
    """
    before = cpu_seconds(gateway_pids)
    up, up_gb = _bulk(net, target, seconds)
    down, down_gb = _bulk(net, target, seconds, "-R")
    spent = cpu_seconds(gateway_pids) - before
    return Round(
        up=up,
        down=down,
        small_up=_small(net, target, seconds),
        small_down=_small(net, target, seconds, "-R"),
        ping=_ping(net, target),
        cpu_per_gb=spent / (up_gb + down_gb) if gateway_pids else None,
    )
