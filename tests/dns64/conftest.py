"""DNS64 on loopback between dnspython as the client and BIND as the corporate DNS. Needs no privileges.

test (dnspython) --- dns64 (cargo example) --- named, authoritative for corp.example.net
                 --- named with dns64      ---'      (oracle)
                 --- unbound with dns64    ---'      (oracle)
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

REPOSITORY = Path(__file__).parents[2]
PREFIX = "fd7c:1a2b:3c4d:7777::"
ZONE = "corp.example.net"

MANY = "".join(f"many IN A 10.1.0.{host}\n" for host in range(1, 91))
CORP_ZONE = f"""
$TTL 300
@ IN SOA ns root 1 3600 600 86400 60
@ IN NS ns
@ IN MX 10 app4
@ IN CAA 0 issue "ca.example.net"
ns IN A 127.0.0.1
app4 IN A 10.0.0.4
app4 IN SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789
multi 900 IN A 10.0.0.7
multi 900 IN A 10.0.0.8
multi 900 IN A 192.0.2.33
app6 IN AAAA fd7c:1a2b:3c4d:1::6
dual IN A 10.0.0.5
dual IN AAAA fd7c:1a2b:3c4d:1::5
mapped IN A 10.0.0.6
mapped IN AAAA ::ffff:10.0.0.6
directaccess-corpConnectivityHost IN A 127.0.0.1
www IN CNAME app4
www6 IN CNAME app6
chain IN CNAME www
dangling IN CNAME nowhere
tree IN DNAME sub
host.sub IN A 10.0.0.9
*.wild IN A 10.0.0.10
text IN TXT "one" "two"
long IN TXT {" ".join('"' + "x" * 250 + '"' for _ in range(12))}
_ldap._tcp IN SRV 0 100 389 app4
_https IN HTTPS 1 app4 alpn=h2,h3 ipv4hint=10.0.0.4
naptr IN NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.net!" .
odd IN TYPE65400 \\# 5 c00c00ffc0
short 7 IN A 10.0.0.11
{MANY}"""
REVERSE_ZONE = f"""
$TTL 300
@ IN SOA ns.{ZONE}. root.{ZONE}. 1 3600 600 86400 60
@ IN NS ns.{ZONE}.
4 IN PTR app4.{ZONE}.
"""


@dataclass(frozen=True)
class Server:
    """A DNS server on loopback."""

    port: int
    address: str = "127.0.0.1"

    def ask(
        self, name: str, kind: str, *, tcp: bool = False, timeout: float = 5, **options: Any
    ) -> dns.message.Message:
        """One query with EDNS 1232 and its answer; by TCP when asked to or when the answer was truncated."""
        options.setdefault("use_edns", 0)
        options.setdefault("payload", 1232)
        query = dns.message.make_query(name, kind, **options)
        if tcp:
            return dns.query.tcp(query, self.address, timeout=timeout, port=self.port)
        return dns.query.udp_with_fallback(query, self.address, timeout=timeout, port=self.port)[0]


class Dns64(Server):
    """The gateway's DNS64, run by the cargo example."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        super().__init__(port)
        object.__setattr__(self, "process", process)

    def command(self, line: str) -> str:
        process: subprocess.Popen[str] = self.__dict__["process"]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(self.command("stats"))
        return stats


def free_port() -> int:
    """A port that was free for UDP and TCP a moment ago."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port: int = stream.getsockname()[1]
            try:
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for(server: Server, process: subprocess.Popen[Any], log: Path, probe: str) -> None:
    """Waits until a server answers for a name; shows its log when it ends instead."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if server.ask(probe, "A", timeout=0.2).rcode() == dns.rcode.NOERROR:
                return
        except (dns.exception.DNSException, OSError):
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no answer; {log.read_text()}"
        time.sleep(0.05)


def run(command: list[str], log: Path, server: Server, probe: str = f"app4.{ZONE}") -> Iterator[Server]:
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(server, process, log, probe)
            yield server
        finally:
            process.terminate()


def needed(program: str, package: str) -> str:
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{program} is not installed; apt-get install {package}")
    return path


@pytest.fixture(scope="session")
def bind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """BIND, authoritative for the test zones."""
    named = needed("named", "bind9")
    directory = tmp_path_factory.mktemp("bind")
    (directory / "corp.zone").write_text(CORP_ZONE)
    (directory / "reverse.zone").write_text(REVERSE_ZONE)
    server = Server(free_port())
    (directory / "named.conf").write_text(f"""
options {{
    directory "{directory}"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
    listen-on port {server.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
}};
controls {{ }};
zone "{ZONE}" {{ type primary; file "corp.zone"; }};
zone "0.0.10.in-addr.arpa" {{ type primary; file "reverse.zone"; }};
""")
    yield from run([named, "-g", "-c", str(directory / "named.conf")], directory / "log", server)


@pytest.fixture(scope="session")
def bind_dns64(bind: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """BIND's own DNS64 in front of the same zones."""
    directory = tmp_path_factory.mktemp("bind-dns64")
    server = Server(free_port())
    (directory / "named.conf").write_text(f"""
options {{
    directory "{directory}"; pid-file none; session-keyfile none; recursion yes; dnssec-validation no;
    listen-on port {server.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    forward only; forwarders {{ 127.0.0.1 port {bind.port}; }}; empty-zones-enable no;
    dns64 {PREFIX}/96 {{ clients {{ any; }}; mapped {{ any; }}; exclude {{ ::ffff:0:0/96; }}; }};
}};
controls {{ }};
""")
    yield from run([needed("named", "bind9"), "-g", "-c", str(directory / "named.conf")], directory / "log", server)


@pytest.fixture(scope="session")
def unbound(bind: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Unbound's DNS64 in front of the same zone."""
    program = needed("unbound", "unbound")
    directory = tmp_path_factory.mktemp("unbound")
    server = Server(free_port())
    (directory / "unbound.conf").write_text(f"""
server:
    directory: "{directory}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    interface: 127.0.0.1
    port: {server.port}
    do-not-query-localhost: no
    module-config: "dns64 iterator"
    dns64-prefix: {PREFIX}/96
remote-control:
    control-enable: no
stub-zone:
    name: "{ZONE}"
    stub-addr: 127.0.0.1@{bind.port}
""")
    yield from run([program, "-d", "-c", str(directory / "unbound.conf")], directory / "log", server)


@pytest.fixture(scope="session")
def example() -> str:
    """The cargo example that runs DNS64 alone."""
    build = ["cargo", "build", "--quiet", "--example", "dns64", "--message-format=json"]
    built = subprocess.run(build, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    artifacts = [json.loads(line) for line in built.stdout.splitlines()]
    executables = [artifact.get("executable") for artifact in artifacts if artifact.get("executable")]
    return str(executables[-1])


@pytest.fixture
def start(bind: Server, example: str, tmp_path: Path) -> Iterator[Callable[..., Dns64]]:
    """Starts DNS64 processes with the given settings; they end with the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(**settings: Any) -> Dns64:
        upstreams = [{"suffix": "", "servers": [f"127.0.0.1:{bind.port}"]}]
        path = tmp_path / f"dns64-{len(processes)}.json"
        path.write_text(
            json.dumps(
                {"prefix": f"{PREFIX}/96", "upstreams": upstreams, "queries_per_second_per_client": 0, **settings}
            )
        )
        command = [example, str(path), "127.0.0.1:0"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        listening = process.stdout.readline()
        assert process.stdout.readline() == "ready\n"
        return Dns64(process, int(listening.rsplit(":", 1)[1]))

    yield begin
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        assert process.stdout is not None
        process.stdout.close()
