"""The client tunnel's process: `python -m portico.client.tunnel_process CONTROL_FD`, started by the client's agent."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from portico import native_process
from portico._gateway import ClientTunnel


def start(config: str, fds: Mapping[str, Sequence[int]]) -> ClientTunnel:
    """Makes the tunnel from the first line of the channel: one TUN queue under the name `tunnel`."""
    [fd] = fds["tunnel"]
    return ClientTunnel(config, tunnel_fd=fd)


def _configure(tunnel: ClientTunnel, message: Mapping[str, Any]) -> None:
    tunnel.configure(json.dumps(message["config"]))


def _redial(tunnel: ClientTunnel, _message: Mapping[str, Any]) -> None:
    tunnel.redial()


def _status(tunnel: ClientTunnel, _message: Mapping[str, Any]) -> object:
    return json.loads(tunnel.status())


OPERATIONS: Mapping[str, native_process.Operation] = {
    "configure": _configure,
    "redial": _redial,
    "status": _status,
}


if __name__ == "__main__":
    sys.exit(native_process.main(start, OPERATIONS))
