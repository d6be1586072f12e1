"""What works, measured from the client by really fetching it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from portico.lab.deployment import tunnel_address
from portico.lab.hosts import Host, LabFailure
from portico.lab.lab import Lab
from portico.lab.topology import CORP_DOMAIN, NAT64_PREFIX, ORGANISATION_PREFIX

_TARGETS = (
    ("intranet, IPv4 only", f"app4.{CORP_DOMAIN}"),
    ("intranet, IPv6", f"app6.{CORP_DOMAIN}"),
    ("public web, not through the tunnel", "www.example.org"),
)


@dataclass(frozen=True)
class Result:
    """One fetch: what, by which name and address, on which path, how long (milliseconds), what was answered."""

    what: str
    name: str
    address: str
    path: str
    milliseconds: float | None
    answer: str
    works: bool

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def fetch(host: Host, what: str, name: str) -> Result:
    """Fetches http://NAME/ on a host and says how it went."""
    form = '{"address": "%{remote_ip}", "seconds": %{time_total}, "status": %{http_code}}'
    got = host.run("curl", "-s", "-S", "--max-time", "10", "-w", f"\n{form}", f"http://{name}/", check=False)
    body, _, measured = got.stdout.rstrip().rpartition("\n")
    try:
        numbers = json.loads(measured)
    except ValueError:
        numbers = {"address": "", "seconds": 0.0, "status": 0}
    works = got.returncode == 0 and numbers["status"] == 200
    address = str(numbers["address"])
    return Result(
        what,
        name,
        address,
        path_of(address),
        round(numbers["seconds"] * 1000, 1) if works else None,
        body.strip() if works else (got.stderr.strip() or f"HTTP status {numbers['status']}"),
        works,
    )


def path_of(address: str) -> str:
    """How packets to an address travel, in the words of the manual."""
    if not address:
        return ""
    parsed = ip_address(address)
    if parsed in ip_network(NAT64_PREFIX):
        return "IP-HTTPS, DNS64, NAT64"
    if parsed in ip_network(ORGANISATION_PREFIX):
        return "IP-HTTPS, native IPv6"
    return "direct"


def measure(lab: Lab) -> list[Result]:
    """Everything the summary shows. A thing that does not work is a row, not an exception."""
    client = lab.host(lab.topology.clients()[0])
    results = [fetch(client, what, name) for what, name in _TARGETS]
    results.append(_manage_out(lab, client))
    return results


def _manage_out(lab: Lab, client: Host) -> Result:
    name = f"{client.name} from mgmt"
    address = ""
    with contextlib.suppress(LabFailure):
        address = tunnel_address(client)
    if not address:
        return Result("intranet to client", name, "", "", None, "the client has no address in the tunnel", False)
    got = lab.host("mgmt").run("ping", "-c", "1", "-W", "5", address, check=False)
    works = got.returncode == 0
    time = got.stdout.partition("time=")[2].split(" ", 1)[0] if works else ""
    answer = "echo reply" if works else (got.stderr or got.stdout).strip()[-200:]
    return Result(
        "intranet to client", name, address, "native IPv6, IP-HTTPS", float(time) if time else None, answer, works
    )


def command() -> str:
    """How this `portico` is called from where the person stands."""
    beside = Path(sys.executable).with_name("portico")
    if shutil.which("portico") is not None or not beside.exists():
        found = "portico"
    else:
        found = str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
    return f"sudo {found}" if os.environ.get("SUDO_USER") else found


def what_to_try(lab: Lab, *, bare: bool = False) -> list[str]:
    """Commands worth typing next; `bare`: Portico is not installed."""
    name = "" if lab.name == "portico" else f" --name {lab.name}"
    portico = command()
    servers = lab.topology.servers()
    victim = servers[min(1, len(servers) - 1)]
    if bare:
        return [
            f"{portico} lab status{name}",
            f"{portico} lab exec{name} client1 -- curl http://www.example.org/",
            f"{portico} lab exec{name} mgmt -- ping -c 1 {lab.topology.host(victim).address(6, 'eth1')}",
            f"{portico} lab kill{name} {victim}; {portico} lab restart{name} {victim}",
            f"{portico} lab console{name} {victim}",
        ]
    return [
        f"{portico} lab exec{name} client1 -- curl http://app4.{CORP_DOMAIN}/",
        f"{portico} lab exec{name} client1 -- portico client status",
        f"{portico} lab exec{name} da1 -- portico clients list",
        *([f"{portico} lab exec{name} {victim} -- portico cluster status"] if len(servers) > 1 else []),
        f"{portico} lab kill{name} {victim}; {portico} lab restart{name} {victim}",
        f"{portico} lab pcap{name} da1 eth1",
        f"{portico} lab console{name} client1",
    ]
