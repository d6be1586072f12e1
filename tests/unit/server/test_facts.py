"""What is seen of this machine's sockets."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address

from portico.server.facts import read_facts
from portico.settings.facts import Listener

CONNECTIONS = 100
MANY = f"""
import socket
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
held = []
for _ in range({CONNECTIONS}):
    held.append(socket.create_connection(("127.0.0.1", port)))
    held.append(server.accept()[0])
print(port, flush=True)
input()
"""


def test_many_connections_to_one_place_are_told_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MANY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        try:
            place = Listener("tcp", IPv4Address("127.0.0.1"), int(other.stdout.readline()))
            found = read_facts(None)
        finally:
            other.communicate("\n")
    assert found.listeners is not None and found.connections is not None
    assert found.listeners.count(place) == 1
    assert found.connections.count(place) == 1
    assert sum(one.address == place.address for one in found.connections) > CONNECTIONS, "and each end that dialled"
