"""The client's TUN device and this machine's kernel, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")]

INSIDE_NAMESPACE = """
import json, os, socket, sys, time
from pyroute2 import IPRoute
from portico.client import device
from portico.client.network import paths_to

advertisement, server = bytes.fromhex(sys.argv[1]), sys.argv[2]
tunnel = device.Tunnel(secret=b"\\x11" * 16)
tunnel.open()
sent = os.read(tunnel.fd, 4096)[10:]
os.write(tunnel.fd, bytes(10) + advertisement)
deadline = time.monotonic() + 5
while not tunnel.state().addresses and time.monotonic() < deadline:
    time.sleep(0.01)
state = tunnel.state()
through_tunnel = paths_to([server])[0].interface
device.protect([server])
protected = paths_to([server])[0].interface
device.unprotect()
unprotected = paths_to([server])[0].interface
found = {
    "addresses": state.addresses, "routes": state.routes, "bytes_in": state.bytes_in, "link_local": tunnel.link_local,
    "solicitation": sent.hex(), "index": tunnel.index, "through_tunnel": through_tunnel, "protected": protected,
    "unprotected": unprotected,
}
with IPRoute() as ip:
    found["mtu"] = next(iter(ip.get_links(tunnel.index))).get_attr("IFLA_MTU")
tunnel.close()
with IPRoute() as ip:
    found["left"] = list(ip.link_lookup(ifname=tunnel.name))
print(json.dumps(found))
"""


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def router_advertisement(prefix: IPv6Network, *routes: IPv6Network) -> bytes:
    """From fe80::1 to all nodes: router lifetime 0, one prefix, routes (RFC 4861 4.2, RFC 4191 2.3)."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0)
    body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 2592000, 604800, 0) + prefix.network_address.packed
    for route in routes:
        body += struct.pack("!BBBBI", 24, 3, route.prefixlen, 0, 1800) + route.network_address.packed
    source, destination = IPv6Address("fe80::1").packed, IPv6Address("ff02::1").packed
    sum_ = checksum(source + destination + struct.pack("!II", len(body), 58) + body)
    body = body[:2] + struct.pack("!H", sum_) + body[4:]
    return struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + destination + body


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    advertisement = router_advertisement(
        IPv6Network("fd7c:1a2b:3c4d:1000::/64"),
        IPv6Network("fd7c:1a2b:3c4d::/48"),
        IPv6Network("fd7c:1a2b:3c4d:7777::/96"),
        IPv6Network("2001:db8:aaaa::/48"),
    )
    result = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", INSIDE_NAMESPACE, advertisement.hex(), "2001:db8:aaaa::11"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_kernel_takes_address_and_routes_from_the_advertisement(found: dict[str, Any]) -> None:
    (address,) = found["addresses"]
    assert IPv6Address(address) in IPv6Network("fd7c:1a2b:3c4d:1000::/64")
    assert {"fd7c:1a2b:3c4d::/48", "fd7c:1a2b:3c4d:7777::/96"} <= set(found["routes"])
    assert "::/0" not in found["routes"]
    assert found["bytes_in"] > 0
    assert found["mtu"] == 1280


def test_kernel_solicits_routers_without_link_layer_options(found: dict[str, Any]) -> None:
    packet = bytes.fromhex(found["solicitation"])
    assert IPv6Address(packet[24:40]) == IPv6Address("ff02::2")
    assert packet[40] == 133
    assert len(packet) == 48


def test_the_way_to_the_server_never_leads_into_the_tunnel(found: dict[str, Any]) -> None:
    assert found["through_tunnel"] == found["index"]
    assert found["protected"] is None
    assert found["unprotected"] == found["index"]


def test_nothing_is_left_of_a_closed_device(found: dict[str, Any]) -> None:
    assert found["left"] == []
