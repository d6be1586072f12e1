"""NAT64 without a tunnel: TAYGA, and our translator between two TUN devices.

The client's IPv6 packets are routed to the gateway, which translates; the server answers to an address of the pool.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator

from benchmarks.network import SERVER_IPV4, Network
from benchmarks.peers import Path
from benchmarks.programs import example

PREFIX = "fd00:64::"
CLIENT, GATEWAY = "fd00:8::2", "fd00:8::1"
POOL = "192.168.255"
TARGET = str(ipaddress.IPv6Address(PREFIX) + int(ipaddress.IPv4Address(SERVER_IPV4)))

_TAYGA = f"""\
tun-device tayga
ipv4-addr {POOL}.1
prefix {PREFIX}/96
dynamic-pool {POOL}.0/24
data-dir {{directory}}
"""


@contextlib.contextmanager
def _ipv6(net: Network) -> Iterator[None]:
    """IPv6 between client and gateway, and the client's route to the translated prefix."""
    addresses = (("client", CLIENT), ("gateway", GATEWAY))
    for role, address in addresses:
        net.call(role, "ip", "addr", "add", f"{address}/64", "dev", "outer", "nodad")
    net.call("client", "ip", "route", "add", f"{PREFIX}/96", "via", GATEWAY)
    try:
        yield
    finally:
        for role, address in addresses:
            net.call(role, "ip", "addr", "del", f"{address}/64", "dev", "outer", check=False)


def _route(net: Network, translator: int, six: str, four: str) -> None:
    """Sends both directions through the translator's devices."""
    for device in {six, four}:
        net.call("gateway", "ip", "link", "set", device, "mtu", "1500", "up")
    net.call("gateway", "ip", "route", "add", f"{PREFIX}/96", "dev", six)
    net.call("gateway", "ip", "route", "add", f"{POOL}.0/24", "dev", four)
    net.wait(translator, lambda: net.answers(TARGET), "the translator's first answer")


@contextlib.contextmanager
def tayga(net: Network) -> Iterator[Path]:
    file = net.directory / "tayga.conf"
    file.write_text(_TAYGA.format(directory=net.directory))
    with _ipv6(net):
        net.call("gateway", "tayga", "--mktun", "-c", str(file))
        translator = net.start("gateway", "tayga", "--nodetach", "-c", str(file), log="tayga.log")
        try:
            _route(net, translator, "tayga", "tayga")
            yield Path(TARGET, [translator])
        finally:
            net.stop(translator)
            net.call("gateway", "tayga", "--rmtun", "-c", str(file), check=False)


@contextlib.contextmanager
def nat64_alone(net: Network) -> Iterator[Path]:
    file = net.directory / "nat64.json"
    file.write_text(json.dumps({
        "prefix": f"{PREFIX}/96",
        "pool": [{"address": f"{POOL}.1", "ports": [1024, 65535]}],
        "address": GATEWAY,
        "mtu": 1500,
        "ipv6_mtu": 1500,
        "tcp_established": 7440,
        "tcp_transitory": 240,
        "udp": 300,
        "icmp": 60,
        "max_bindings": 262_144,
        "max_bindings_per_client": 4096,
    }))  # fmt: skip
    with _ipv6(net):
        translator = net.start("gateway", example("nat64"), str(file), "n64six", "n64four", log="nat64.log")
        try:
            net.wait(translator, lambda: "n64four" in net.call("gateway", "ip", "-br", "link"), "its devices")
            _route(net, translator, "n64six", "n64four")
            yield Path(TARGET, [translator])
        finally:
            net.stop(translator)
