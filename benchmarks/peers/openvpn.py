"""OpenVPN 2 over TCP and UDP, certificates, AES-256-GCM."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.network import GATEWAY_OUTER, SERVER_IPV4, Network
from benchmarks.peers import Path, credentials

_COMMON = ["--ca", "ca.pem", "--data-ciphers", "AES-256-GCM", "--dev-type", "tun", "--verb", "1"]


@contextlib.contextmanager
def _openvpn(net: Network, proto: str, network: str) -> Iterator[Path]:
    credentials.make(net.directory)
    server_proto, client_proto = (proto, proto) if proto == "udp" else ("tcp-server", "tcp-client")
    server = net.start(
        "gateway", "openvpn", *_COMMON, "--dev", "ovpn-server", "--proto", server_proto, "--port", "1194",
        "--topology", "subnet", "--server", network, "255.255.255.0", "--dh", "none",
        "--cert", "server.pem", "--key", "server.key", "--push", "route 10.9.0.0 255.255.255.0",
        log="openvpn-server.log",
    )  # fmt: skip
    client = net.start(
        "client", "openvpn", "--client", *_COMMON, "--dev", "ovpn-client", "--proto", client_proto,
        "--remote", GATEWAY_OUTER, "1194", "--nobind", "--connect-retry", "1",
        "--cert", "client.pem", "--key", "client.key", log="openvpn-client.log",
    )  # fmt: skip
    try:
        net.wait(client, lambda: net.routes_through("ovpn-client", SERVER_IPV4), "OpenVPN's route")
        yield Path(SERVER_IPV4, [server])
    finally:
        net.stop(client)
        net.stop(server)


def openvpn_tcp(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _openvpn(net, "tcp", "10.7.1.0")


def openvpn_udp(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _openvpn(net, "udp", "10.7.2.0")
