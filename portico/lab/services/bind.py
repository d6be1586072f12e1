"""BIND: the corporate DNS and the public one. Both write every query they get into /var/log/named.log."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.topology import CONNECT_TO, CORP_DOMAIN, NAT64_PREFIX, Topology

SERVICE = "named"

# Paths are those Debian's AppArmor profile of named allows.
_CONFIGURATION = """\
controls {{ }};
options {{
    directory "/var/cache/bind";
    pid-file "/run/named/named.pid";
    session-keyfile "/run/named/session.key";
    listen-on {{ any; }};
    listen-on-v6 {{ any; }};
    recursion no;
    dnssec-validation no;
    querylog yes;
    notify no;
}};
{zones}
"""

_HEAD = """\
$TTL 60
@ IN SOA ns hostmaster 1 60 60 3600 60
@ NS ns
"""


def corporate_dns(host: Host, topology: Topology) -> None:
    """Authoritative for corp.example.net and its reverse zones."""
    computers = {name: topology.host(name) for name in ("dns", "app4", "app6", "mgmt", *topology.servers())}
    lines: list[str] = []
    reverse4: list[str] = []
    reverse6: list[str] = []
    for name, computer in computers.items():
        for parsed in (parsed for card in computer.interfaces if card.network == "corp" for parsed in card.parsed()):
            lines.append(f"{name} {'A' if parsed.version == 4 else 'AAAA'} {parsed.ip}")
            (reverse4 if parsed.version == 4 else reverse6).append(
                f"{parsed.ip.reverse_pointer}. PTR {name}.{CORP_DOMAIN}."
            )
    own4, own6 = computers["dns"].address(4), computers["dns"].address(6)
    lines += [
        f"ns A {own4}",
        f"ns AAAA {own6}",
        f"dual A {computers['app4'].address(4)}",
        f"dual AAAA {computers['app6'].address(6)}",
        "intranet CNAME app4",
        "directaccess-corpConnectivityHost A 127.0.0.1",
        f"directaccess-corpConnectivityHost AAAA {ip_network(NAT64_PREFIX)[int(ip_address('127.0.0.1'))]}",
        f"directaccess-WebProbeHost A {computers[topology.servers()[0]].address(4, 'eth1')}",
        *(f'large TXT "{index:02d} {"x" * 200}"' for index in range(12)),
    ]
    name_server = f"\nns.{CORP_DOMAIN}."
    _start(
        host,
        {
            CORP_DOMAIN: _HEAD + "\n".join(lines),
            "0.0.10.in-addr.arpa": _HEAD.replace(" ns", f" {name_server.strip()}") + "\n".join(reverse4),
            "d.4.c.3.b.2.a.1.c.7.d.f.ip6.arpa": _HEAD.replace(" ns", f" {name_server.strip()}") + "\n".join(reverse6),
        },
        probe=f"app4.{CORP_DOMAIN}",
    )


def public_dns(host: Host, topology: Topology) -> None:
    """The Internet's DNS: example.net with the ConnectTo address, example.org. It knows nothing of the intranet."""
    own4, own6 = topology.host(host.name).address(4), topology.host(host.name).address(6)
    # One server's own address, or the VIP of all of them.
    entrance = f"{CONNECT_TO.split('.')[0]} A {topology.host(topology.servers()[0]).address(4)}"
    common = _HEAD + f"ns A {own4}\n"
    _start(
        host,
        {
            "example.net": common + entrance,
            "example.org": common + f"www A {own4}\nwww AAAA {own6}\nonly4 A {own4}\n",
        },
        probe="www.example.org",
    )


def query_log(host: Host) -> str:
    """Everything a name server on the host has written, queries among it."""
    path = host.log(SERVICE)
    return path.read_text(errors="replace") if path.exists() else ""


def _start(host: Host, zones: dict[str, str], *, probe: str) -> None:
    for zone, text in zones.items():
        host.write(f"/etc/bind/lab/{zone}", text + "\n")
    declared = [f'zone "{zone}" {{ type primary; file "/etc/bind/lab/{zone}"; }};' for zone in zones]
    host.write("/etc/bind/lab.conf", _CONFIGURATION.format(zones="\n".join(declared)))
    _give_to(host, "bind", ("var/cache/bind", "var/lib/bind", "var/log/named"))
    host.start_service(
        SERVICE, ["/bin/sh", "-c", "chown bind /run/named && exec named -g -u bind -n 1 -c /etc/bind/lab.conf"]
    )

    def answers() -> bool:
        found = host.run("dig", "+short", "+time=1", "+tries=1", "@127.0.0.1", probe, check=False).stdout
        return found[:1].isdigit()

    wait.until(
        f"BIND on {host.name} to answer for {probe}",
        answers,
        timeout=15.0,
        evidence=lambda: host.log_tail(SERVICE),
    )


def _give_to(host: Host, user: str, directories: Sequence[str]) -> None:
    account = pwd.getpwnam(user)
    for directory in directories:
        os.chown(host.disk / directory, account.pw_uid, account.pw_gid)
