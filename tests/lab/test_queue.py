"""A line slower than its senders: what the tunnel carries beside a download does not wait behind it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab

RATE = 100e6
SECONDS = 4
SERVER = "fd7c:1a2b:3c4d:1::6"

pytestmark = pytest.mark.alone
"""app6, by its address: the load is the packet path's."""


@pytest.fixture(scope="module")
def load_server(lab: Lab) -> Iterator[Host]:
    """app6 takes and gives as much as is asked."""
    app6 = lab.host("app6")
    app6.start_service("iperf3", ["iperf3", "--server"])
    wait.until("iperf3 to listen", lambda: app6.output("ss", "-Hltn", "sport = :5201"))
    yield app6
    app6.stop_service("iperf3")


@contextmanager
def slow_line(lab: Lab) -> Iterator[None]:
    """The client's access line, at its router: 100 Mbit/s each way, and 10 ms of buffer."""
    router = lab.host("nat1")
    for device in ("eth0", "eth1"):
        router.run(
            *("tc", "qdisc", "replace", "dev", device, "root", "tbf"),
            *("rate", "100mbit", "burst", "16kb", "latency", "10ms"),
        )
    try:
        yield
    finally:
        for device in ("eth0", "eth1"):
            router.run("tc", "qdisc", "del", "dev", device, "root")


def load(client: Host, *options: str, seconds: int = SECONDS) -> subprocess.Popen[str]:
    """A transfer as fast as it goes. Reno fills whatever queue there is, and every kernel allows it."""
    arguments = ["iperf3", "--json", "--client", SERVER, "--congestion", "reno", "--time", str(seconds), *options]
    return client.popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def pings(client: Host) -> list[float]:
    """Round trips while the load has settled, in milliseconds."""
    time.sleep(1.5)
    count = int((SECONDS - 2.5) / 0.02)
    output = client.run("ping", "-c", str(count), "-i", "0.02", "-W", "1", SERVER, check=False, timeout=30.0).stdout
    times = [float(found) for found in re.findall(r"time=([\d.]+)", output)]
    assert len(times) >= count * 0.95, f"{len(times)} of {count} came back"
    return times


def check(client: Host, *options: str) -> None:
    transfer = load(client, *options)
    times = pings(client)
    text, _ = transfer.communicate(timeout=30.0)
    result = json.loads(text)
    assert "error" not in result, result
    rate = result["end"]["sum_received"]["bits_per_second"]
    median, tenth = statistics.median(times), sorted(times)[int(len(times) * 0.9)]
    print(f"{rate / 1e6:.1f} Mbit/s, ping median {median:.1f} ms, 90 % below {tenth:.1f} ms")
    assert median < 25.0
    assert rate > 0.85 * RATE


def session(server: Host) -> dict[str, Any]:
    """client1's tunnel, as the server shows it."""
    found: dict[str, Any] = deployment.ask_server(server, "/v1/clients/client1")["sessions"][0]
    return found


@pytest.mark.parametrize("streams", [1, 4])
def test_ping_stays_low_while_a_download_fills_a_slow_line(
    lab: Lab, client: Host, server: Host, load_server: Host, streams: int
) -> None:
    with slow_line(lab):
        check(client, "--reverse", "--parallel", str(streams))
    assert session(server)["queue"]["queued"] > 0, "the line never was the bottleneck"


def test_ping_stays_low_while_an_upload_fills_a_slow_line(lab: Lab, client: Host, load_server: Host) -> None:
    with slow_line(lab):
        check(client)


def test_a_queue_ends_with_what_made_it(lab: Lab, client: Host, server: Host, load_server: Host) -> None:
    with slow_line(lab):
        load(client, "--reverse", seconds=2).wait(30.0)
    assert session(server)["queue"]["queued"] > 0
    wait.until("the queue's memory to be given back", lambda: session(server)["queue_bytes"] == 0, timeout=30.0)
