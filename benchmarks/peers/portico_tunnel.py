"""Portico: its own client, a standard client (1280-byte packets), both also through NAT64."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path as FilePath

from benchmarks.network import PREFIX, SERVER_IPV4, SERVER_IPV6, Network, wait_until
from benchmarks.peers import Path, credentials

_ROOT = FilePath(__file__).resolve().parents[2]


@contextlib.contextmanager
def _portico(net: Network, role: str, target: str) -> Iterator[Path]:
    credentials.make(net.directory)
    program = [sys.executable, "-m", "benchmarks.peers.portico_end"]
    environment = {"PYTHONPATH": f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    directory = str(net.directory)
    server = net.start("gateway", *program, "server", directory, log="portico-server.log", environment=environment)
    client = None
    try:
        wait_until(lambda: ":443 " in net.call("gateway", "ss", "-tln"), "Portico to listen")
        client = net.start("client", *program, role, directory, log="portico-client.log", environment=environment)
        wait_until(lambda: net.routes_through("iphttps", target), "the advertised route")
        net.call("client", "ping", "-c", "1", "-W", "5", target)
        yield Path(target, [server])
    finally:
        if client is not None:
            net.stop(client)
        net.stop(server)
        _put_back_rules(net)


def _put_back_rules(net: Network) -> None:
    """The server end moved the local table behind its NAT64 rules; the next peer finds it where it was."""
    net.call("gateway", "ip", "rule", "add", "pref", "0", "lookup", "local", check=False)
    for preference in ("10", "11", "12", "20"):
        net.call("gateway", "ip", "rule", "del", "pref", preference, check=False)


def _through_nat64() -> str:
    prefix = ipaddress.IPv6Address(f"{PREFIX}:7777::")
    return str(prefix + int(ipaddress.IPv4Address(SERVER_IPV4)))


def portico(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _portico(net, "client", SERVER_IPV6)


def portico_nat64(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _portico(net, "client", _through_nat64())


def portico_standard(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _portico(net, "standard-client", SERVER_IPV6)


def portico_standard_nat64(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _portico(net, "standard-client", _through_nat64())
