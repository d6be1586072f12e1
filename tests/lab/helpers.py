"""What several scenarios do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

from portico.lab import wait
from portico.lab.deployment import SERVER
from portico.lab.hosts import CODE, PYTHON, Host
from portico.lab.topology import CORP_DOMAIN, NAT64_PREFIX

APP4, APP6 = f"app4.{CORP_DOMAIN}", f"app6.{CORP_DOMAIN}"
ECHO_PORT = 7000
SERVER_ADDRESS = "203.0.113.11"
LONGEST = 10.0
"""Seconds within which everybody must be back on a machine that does other things too; `make bench` has the figures."""


def through_nat64(address: str) -> IPv6Address:
    """The IPv6 address that stands for an IPv4 one on the intranet (RFC 6052)."""
    return IPv6Address(int(IPv6Network(NAT64_PREFIX).network_address) | int(IPv4Address(address)))


def gateway_pid(server: Host) -> int:
    """The gateway process, as the server's own process numbers go."""
    lines = server.output("pgrep", "-f", "portico.server.gateway_process").split()
    return int(lines[-1])


def agent_pid(host: Host, service: str = SERVER) -> int:
    pid = host.service(service)["pid"]
    assert pid is not None, f"{service} does not run: {host.log_tail(service)}"
    return int(pid)


def reaches(host: Host, name: str = APP6, seconds: float = 2.0) -> bool:
    """Whether a web server answers."""
    return host.run("curl", "-sf", "--max-time", str(seconds), f"http://{name}/", check=False).returncode == 0


def time_until(what: str, host: Host, name: str = APP6, timeout: float = 60.0) -> float:
    """Seconds until a web server answers; it must within `timeout`."""
    started = time.monotonic()
    wait.until(what, lambda: reaches(host, name, 1.0), timeout=timeout, interval=0.02)
    return time.monotonic() - started


@contextmanager
def slow_answers(dns: Host, address: str) -> Iterator[None]:
    """A DNS server answers every question over UDP after more than a second during the block."""
    dns.start_service("slow", [PYTHON, f"{CODE}/tests/peers/slow_dns.py", "5300", address, "53", "1.2"])
    try:
        wait.until("the slow way", lambda: dns.output("ss", "-Hlun", "sport = :5300"))
        dns.run("nft", "add table ip slow { chain way { type nat hook prerouting priority dstnat; }; }")
        dns.run("nft", "add rule ip slow way udp dport 53 redirect to :5300")
        yield
    finally:
        dns.run("nft", "delete", "table", "ip", "slow", check=False)
        dns.stop_service("slow")


@contextmanager
def echo_service(host: Host, address: str) -> Iterator[None]:
    """The echo peer (UDP and TCP on 7000, digest on 7001) runs on a host during the block."""
    host.start_service("echo", [PYTHON, f"{CODE}/tests/peers/echo.py", address, str(ECHO_PORT)])
    family = "-6" if ":" in address else "-4"
    try:
        wait.until(
            "the echo service",
            lambda: host.output("ss", family, "-Hltn", f"sport = :{ECHO_PORT + 1}"),
            evidence=lambda: host.log_tail("echo"),
        )
        yield
    finally:
        host.stop_service("echo")


@dataclass
class Download:
    """A transfer that runs in the background."""

    process: subprocess.Popen[str]
    file: Path

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def finish(self, timeout: float = 120.0) -> None:
        """Waits for its end; curl's own error is the failure."""
        _, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, f"curl ended with {self.process.returncode}: {errors}"


def start_download(host: Host, url: str, *, rate: str | None = None, name: str = "download") -> Download:
    """Starts a download into the host's /var/lib; `rate` as curl's --limit-rate."""
    limit = ["--limit-rate", rate] if rate else []
    # What an earlier download left would look like progress of this one.
    (host.disk / "var/lib" / name).unlink(missing_ok=True)
    process = host.popen(
        ["curl", "-sSf", *limit, "-o", f"/var/lib/{name}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Download(process, host.disk / "var/lib" / name)
