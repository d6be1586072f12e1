"""The lab server under load, and what can be read from it while it works."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portico.lab import deployment
from portico.lab.hosts import Host
from portico.lab.lab import Lab, destroy
from portico.management.client import ApiClient
from tests.peers.crowd import Credentials
from tests.peers.enrolment import enrol

SERVER = "203.0.113.11"
TARGET = f"{SERVER}:443"
IN_TUNNEL = "fd7c:1a2b:3c4d:1000::1"
APP6 = "fd7c:1a2b:3c4d:1::6"
APP4_THROUGH_NAT64 = "fd7c:1a2b:3c4d:7777::a00:4"
SOURCES = [f"203.0.113.{number}" for number in range(200, 216)]


@dataclass
class Deployment:
    """A running lab with a server.

    Attributes:
        directory: for certificates and messages of programs.
    """

    lab: Lab
    directory: Path

    @property
    def server(self) -> Host:
        return self.lab.host("da1")

    @property
    def internet(self) -> str:
        """The network namespace that clients dial from."""
        return self.lab.state.netns("internet")

    def namespace(self, host: str) -> str:
        return self.lab.state.netns(host)

    def api(self) -> ApiClient:
        """The server's control socket, reached from outside of the host."""
        return ApiClient(Path(f"/proc/{self.server.pid}/root/run/portico/server.sock"), timeout=60.0)

    def identity(self, name: str) -> Credentials:
        """Enrols a client of that name over the network, with a token of the server."""
        token = deployment.enrolment_token(self.server, name)
        with self.lab.host("internet").network():
            found = enrol(SERVER, token, self.directory / name)
        return Credentials(found.trust, found.certificate, found.key)

    def process(self, words: str) -> int:
        """The machine's number of the server's process whose command line has these words.

        Raises:
            LookupError: there is none.
        """
        namespace = Path(f"/proc/{self.server.pid}/ns/pid").readlink()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words in command and "setpriv" not in command and (entry / "ns/pid").readlink() == namespace:
                    return int(entry.name)
            except OSError:
                continue
        raise LookupError(f"the server runs no {words}")

    def gateway_pid(self) -> int:
        return self.process("portico.server.gateway_process")

    def agent_pid(self) -> int:
        return self.process("-m portico server run")


@contextmanager
def deployed(name: str, directory: Path, *, client: bool = True) -> Iterator[Deployment]:
    """Builds a lab and takes it away. Without `client`, the remote computer stays switched off."""
    try:
        lab = Lab.create(name)
        if client:
            deployment.deploy(lab, _say)
        else:
            deployment.install_server(lab, "da1")
        for address in SOURCES:
            lab.host("internet").run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        yield Deployment(lab, directory)
    finally:
        destroy(name)


@contextmanager
def _say(text: str) -> Iterator[None]:
    print(f"  {text}", flush=True)
    yield


def process_figures(pid: int) -> dict[str, float]:
    """Resident and anonymous memory in KiB, threads, descriptors, CPU seconds of a process.

    Raises:
        OSError: it is gone.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    def number(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
        return int(found[1]) if found else 0

    return {
        "rss_kib": number("VmRSS"),
        "anonymous_kib": number("RssAnon"),
        "threads": number("Threads"),
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "cpu_seconds": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    }


def flat(counters: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """All whole numbers of a nested object, with dotted names."""
    found: dict[str, int] = {}
    for name, value in counters.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found
