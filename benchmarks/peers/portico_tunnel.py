"""Portico: its own client and a standard client (1280-byte packets, many in a record), both also through NAT64, and a
foreign client that seals each packet alone."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from benchmarks.network import PREFIX, SERVER_IPV4, SERVER_IPV6, Network
from benchmarks.peers import Path, credentials
from benchmarks.peers.portico_end import PREPARE_CLIENT, client_configuration
from benchmarks.programs import REPOSITORY, example

_PROGRAM = [sys.executable, "-m", "benchmarks.peers.portico_end"]
_PATH = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


Client = Callable[[Network], AbstractContextManager[int]]


@contextlib.contextmanager
def server(net: Network) -> Iterator[int]:
    """The gateway's end; its process."""
    credentials.make(net.directory)
    pid = net.start("gateway", *_PROGRAM, "server", str(net.directory), log="portico-server.log", environment=_PATH)
    try:
        net.wait(pid, lambda: ":443 " in net.call("gateway", "ss", "-tln"), "Portico to listen")
        yield pid
    finally:
        net.stop(pid)
        _put_back_rules(net)


@contextlib.contextmanager
def _portico(net: Network, client: Client, target: str) -> Iterator[Path]:
    with server(net) as pid, client(net) as other:
        net.wait(other, lambda: net.routes_through("iphttps", target), "the advertised route")
        net.wait(other, lambda: net.answers(target), "the first answer through the tunnel")
        yield Path(target, [pid])


@contextlib.contextmanager
def _end(net: Network, role: str) -> Iterator[int]:
    client = net.start("client", *_PROGRAM, role, str(net.directory), log="portico-client.log", environment=_PATH)
    try:
        yield client
    finally:
        net.stop(client)


@contextlib.contextmanager
def _foreign(net: Network) -> Iterator[int]:
    """A native peer that seals each packet alone. Its device is there before it, ready for the first RA."""
    file = net.directory / "foreign-peer.json"
    file.touch(mode=0o600)
    file.write_text(client_configuration(net.directory, segments=False))
    device = ("dev", "iphttps", "mode", "tun")
    net.call("client", "ip", "tuntap", "add", *device, "vnet_hdr")
    client = None
    try:
        for line in PREPARE_CLIENT:
            net.call("client", *line.split())
        client = net.start("client", example("foreign_peer"), str(file), "iphttps", log="foreign-peer.log")
        yield client
    finally:
        if client is not None:
            net.stop(client)
        net.call("client", "ip", "tuntap", "del", *device, check=False)


def _put_back_rules(net: Network) -> None:
    """The server end moved the local table behind its NAT64 rules; the next peer finds it where it was."""
    net.call("gateway", "ip", "rule", "add", "pref", "0", "lookup", "local", check=False)
    for preference in ("10", "11", "12", "20"):
        net.call("gateway", "ip", "rule", "del", "pref", preference, check=False)


def _through_nat64() -> str:
    prefix = ipaddress.IPv6Address(f"{PREFIX}:7777::")
    return str(prefix + int(ipaddress.IPv4Address(SERVER_IPV4)))


def _own(net: Network) -> AbstractContextManager[int]:
    return _end(net, "client")


def _standard(net: Network) -> AbstractContextManager[int]:
    return _end(net, "standard-client")


def portico(net: Network) -> AbstractContextManager[Path]:
    return _portico(net, _own, SERVER_IPV6)


def portico_nat64(net: Network) -> AbstractContextManager[Path]:
    return _portico(net, _own, _through_nat64())


def portico_standard(net: Network) -> AbstractContextManager[Path]:
    return _portico(net, _standard, SERVER_IPV6)


def portico_standard_nat64(net: Network) -> AbstractContextManager[Path]:
    return _portico(net, _standard, _through_nat64())


def portico_foreign(net: Network) -> AbstractContextManager[Path]:
    return _portico(net, _foreign, SERVER_IPV6)
