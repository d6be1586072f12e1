"""BIND: the corporate DNS and the public one. Both write every query they get into /var/log/named.log."""

from __future__ import annotations

import os
import pwd
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence

from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.topology import CONNECT_TO, CORP_DOMAIN, Topology

SERVICE = "named"
SERVERS_KEY, ADMINISTRATORS_KEY = "portico", "administrator"
"""Keys that corp.example.net takes updates with: addresses only, and everything."""

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
    check-names primary ignore;
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
        *(f'large TXT "{index:02d} {"x" * 200}"' for index in range(12)),
    ]
    name_server = f"\nns.{CORP_DOMAIN}."
    policy = f"grant {SERVERS_KEY} wildcard *.{CORP_DOMAIN} A AAAA; grant {ADMINISTRATORS_KEY} zonesub ANY;"
    serve(
        host,
        {
            CORP_DOMAIN: _HEAD + "\n".join(lines),
            "0.0.10.in-addr.arpa": _HEAD.replace(" ns", f" {name_server.strip()}") + "\n".join(reverse4),
            "d.4.c.3.b.2.a.1.c.7.d.f.ip6.arpa": _HEAD.replace(" ns", f" {name_server.strip()}") + "\n".join(reverse6),
        },
        probe=f"app4.{CORP_DOMAIN}",
        policies={CORP_DOMAIN: policy},
    )


def secondary_dns(host: Host, primary: Host) -> None:
    """A second name server of corp.example.net, which gets the zone when it starts and looks for changes once a minute;
    nobody tells it of them."""
    address = primary.state.topology.host(primary.name).address(4)
    zone = f'zone "{CORP_DOMAIN}" {{ type secondary; file "/var/cache/bind/corp"; primaries {{ {address}; }}; }};'
    _start(host, zone, probe=f"app4.{CORP_DOMAIN}")


def update(host: Host, *lines: str) -> None:
    """Changes corp.example.net by hand, as its administrator: lines of nsupdate(1), on the zone's primary."""
    text = "\n".join(["server 127.0.0.1", f"zone {CORP_DOMAIN}.", *lines, "send", ""])
    host.run("nsupdate", "-k", key_path(ADMINISTRATORS_KEY), input_text=text)


def key_path(name: str) -> str:
    """Where a key for updates is on the name server."""
    return f"/etc/bind/lab/{name}.key"


def public_dns(host: Host, topology: Topology) -> None:
    """The Internet's DNS: example.net with the ConnectTo address, example.org. It knows nothing of the intranet."""
    own4, own6 = topology.host(host.name).address(4), topology.host(host.name).address(6)
    # One server's own address, or the VIP of all of them.
    entrance = f"{CONNECT_TO.split('.')[0]} A {topology.host(topology.servers()[0]).address(4)}"
    common = _HEAD + f"ns A {own4}\n"
    serve(
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


def serve(host: Host, zones: dict[str, str], *, probe: str, policies: Mapping[str, str] | None = None) -> None:
    """Starts BIND, authoritative for zones given as text; `probe` is a name with an address in one of them.

    Args:
        policies: update-policy of the zones that take updates, with keys that are made here.
    """
    policies = policies or {}
    declared = []
    if policies:
        for name in (SERVERS_KEY, ADMINISTRATORS_KEY):
            _make_key(host, name)
            declared.append(f'include "{key_path(name)}";')
    for zone, text in zones.items():
        path, extra = f"/etc/bind/lab/{zone}", ""
        if zone in policies:  # its journal lies beside it
            path, extra = f"/var/lib/bind/{zone}", f"update-policy {{ {policies[zone]} }};"
        host.write(path, text + "\n")
        declared.append(f'zone "{zone}" {{ type primary; file "{path}"; {extra} }};')
    _start(host, "\n".join(declared), probe=probe)


def _make_key(host: Host, name: str) -> None:
    """A key that a restart of the host keeps, as a file that BIND and nsupdate read."""
    path = host.disk / key_path(name).lstrip("/")
    if not path.exists():
        secret = b64encode(secrets.token_bytes(32)).decode()
        host.write(key_path(name), f'key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};\n', 0o640)
        os.chown(path, 0, pwd.getpwnam("bind").pw_gid)


def _start(host: Host, zones: str, *, probe: str) -> None:
    host.write("/etc/bind/lab.conf", _CONFIGURATION.format(zones=zones))
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
