"""BIND on loopback: a primary that takes signed updates, and a secondary."""

from __future__ import annotations

import secrets
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from portico.settings.addresses import DnsServer
from tests.dns64.conftest import Server, free_port, needed, wait_for

ZONE = "corp.example.net"
_CONTENT = """\
$TTL 60
@ IN SOA ns root 1 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
app4 IN A 10.0.0.4
alias IN CNAME app4
"""


@dataclass
class Bind:
    """One name server and the key that it takes updates with."""

    address: str
    port: int
    directory: Path
    key_file: Path

    @property
    def server(self) -> DnsServer:
        return DnsServer.parse(f"{self.address}:{self.port}")

    def records(self, name: str, kind: str) -> list[str]:
        answer = Server(self.port, self.address).ask(name, kind)
        return sorted(str(rdata) for rrset in answer.answer for rdata in rrset)


def write_key(path: Path, name: str = "portico", secret: bytes | None = None) -> Path:
    """A key file as tsig-keygen prints it."""
    text = b64encode(secret if secret is not None else secrets.token_bytes(32)).decode()
    path.write_text(f'key "{name}" {{\n\talgorithm hmac-sha256;\n\tsecret "{text}";\n}};\n')
    path.chmod(0o600)
    return path


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Bind]:
    """A fresh primary of the zone; only the key may change the deployment's names."""
    named = needed("named", "bind9")
    key, port = write_key(tmp_path / "dns.key"), free_port()
    (tmp_path / "corp.zone").write_text(_CONTENT)
    (tmp_path / "named.conf").write_text(f"""
include "{key}";
options {{
    directory "{tmp_path}"; pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no;
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
}};
controls {{ }};
zone "{ZONE}" {{
    type primary; file "corp.zone";
    update-policy {{ grant portico wildcard *.{ZONE} A AAAA; deny * wildcard *; }};
}};
""")
    log = tmp_path / "log"
    with ExitStack() as ends:
        output = ends.enter_context(log.open("w"))
        process = ends.enter_context(
            subprocess.Popen([named, "-g", "-n", "1", "-c", str(tmp_path / "named.conf")], stdout=output, stderr=output)
        )
        ends.callback(process.terminate)
        wait_for(Server(port), process, log, f"app4.{ZONE}")
        yield Bind("127.0.0.1", port, tmp_path, key)
