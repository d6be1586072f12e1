"""One end of Portico's data plane alone: `python -m benchmarks.peers.portico_end server|client DIRECTORY`.

The agents around it (settings, reconciliation, names) are left out on purpose: the figures are the packet path's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from benchmarks.network import GATEWAY_INNER_IPV4, GATEWAY_OUTER, PREFIX
from portico._gateway import ClientTunnel, Gateway

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0001, 0x1000, 0x4000, 0x0100
PORTS = (32768, 60999)
TABLE = "6464"


def _tun(name: str, queues: int) -> list[int]:
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    descriptors = []
    for _ in range(queues):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        descriptors.append(fd)
    return descriptors


def _run(*lines: str) -> None:
    for line in lines:
        subprocess.run(line.split(), check=True, timeout=20)


def _serve(directory: Path) -> Gateway:
    workers = os.cpu_count() or 1
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tunnel, nat64 = _tun("iphttps", workers), _tun("nat64", workers)
    _run(
        "sysctl -qw net.ipv6.conf.iphttps.addr_gen_mode=1 net.ipv6.conf.iphttps.accept_dad=0",
        "ip link set iphttps mtu 1280 up",
        "ip link set nat64 up",
        "ip addr add fe80::1/64 dev iphttps nodad",
        f"ip addr add {PREFIX}:1000::1/64 dev iphttps nodad",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.nat64.accept_local=1 net.ipv4.conf.nat64.rp_filter=0",
        f"ip route add default dev nat64 table {TABLE}",
        "ip rule add pref 20 lookup local",
        f"ip rule add pref 10 iif inner ipproto tcp dport {PORTS[0]}-{PORTS[1]} lookup {TABLE}",
        f"ip rule add pref 11 iif inner ipproto udp dport {PORTS[0]}-{PORTS[1]} lookup {TABLE}",
        f"ip rule add pref 12 iif inner ipproto icmp lookup {TABLE}",
        "ip rule del pref 0 lookup local",
    )
    listeners = []
    for _ in range(workers):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((GATEWAY_OUTER, 443))
        listener.listen(1024)
        listener.setblocking(False)
        listeners.append(listener.detach())
    configuration = {
        "workers": workers,
        "iphttps": {
            "authentication": "certificates",
            "link_local": "fe80::1",
            "addresses": [f"{PREFIX}:1000::1"],
            "prefix": f"{PREFIX}:1000::/64",
            "routes": [f"{PREFIX}::/48", "fd00:9::/64"],
            "route_lifetime": 1800,
            "router_lifetime": 0,
            "advertise_interval": 600,
            "max_sessions": 10_000,
            "max_addresses_per_session": 8,
            "max_handshakes": 512,
            "handshake_timeout": 15.0,
            "request_timeout": 10.0,
            "idle_probe": 30.0,
            "segments": True,
            "queue_bytes": 1 << 20,
        },
        "http": {"paths": [], "max_body": 32_768, "max_pending": 64, "timeout": 15.0},
        "revoked": [],
        "dns64": None,
        "tls": {
            "certificate_chain": (directory / "server.pem").read_text(),
            "private_key": (directory / "server.key").read_text(),
            "client_ca": (directory / "ca.pem").read_text(),
            "ticket_keys": [os.urandom(32).hex()],
            "minimum_version": "1.2",
        },
        "nat64": {
            "prefix": f"{PREFIX}:7777::/96",
            "pool": [{"address": GATEWAY_INNER_IPV4, "ports": list(PORTS)}],
            "address": f"{PREFIX}:1000::1",
            "mtu": 1500,
            "ipv6_mtu": 1280,
            "tcp_established": 7440,
            "tcp_transitory": 240,
            "udp": 300,
            "icmp": 60,
            "max_bindings": 262_144,
            "max_bindings_per_client": 4096,
        },
    }
    return Gateway(
        json.dumps(configuration),
        tunnel_fds=tunnel,
        nat64_fds=nat64,
        listener_fds=listeners,
        dns_udp_fds=[],
        dns_tcp_fds=[],
    )


PREPARE_CLIENT = (
    "sysctl -qw net.ipv6.conf.iphttps.accept_ra=2 net.ipv6.conf.iphttps.accept_ra_rt_info_max_plen=128",
    "sysctl -qw net.ipv6.conf.iphttps.accept_dad=0 net.ipv6.conf.iphttps.addr_gen_mode=1",
    "ip link set iphttps mtu 1280 up",
    "ip addr add fe80::2/64 dev iphttps nodad",
)


def client_configuration(directory: Path, segments: bool) -> str:
    """Of a client's end, as JSON. `segments`: super-segments travel whole; else 1280-byte packets, as others do."""
    return json.dumps({
        "url": "https://server.example.net:443/IPHTTPS",
        "addresses": [GATEWAY_OUTER],
        "trust": (directory / "ca.pem").read_text(),
        "certificate_chain": (directory / "client.pem").read_text(),
        "private_key": (directory / "client.key").read_text(),
        "proxy": None,
        "link_local": "fe80::2",
        "segments": segments,
    })  # fmt: skip


def _connect(directory: Path, segments: bool) -> ClientTunnel:
    [tunnel] = _tun("iphttps", 1)
    _run(*PREPARE_CLIENT)
    return ClientTunnel(client_configuration(directory, segments), tunnel_fd=tunnel)


def main() -> None:
    """`server`, `client` (super-segments whole) or `standard-client` (1280-byte packets, as a foreign peer)."""
    role, directory = sys.argv[1], Path(sys.argv[2])
    if role not in ("server", "client", "standard-client"):
        sys.exit(f"unknown role {role}: server, client or standard-client")
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    end = _serve(directory) if role == "server" else _connect(directory, role == "client")
    with contextlib.closing(end):
        while not stopped:
            for event in end.next_events(0.5):
                print(event, flush=True)


if __name__ == "__main__":
    main()
