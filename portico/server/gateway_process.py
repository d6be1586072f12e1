"""The gateway's process: `python -m portico.server.gateway_process CONTROL_FD`, started by the server's agent."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from portico import native_process
from portico._gateway import Gateway

MAX_PAGE = 2000
"""Sessions in one answer: a line of the channel holds many more of the usual ones (600 bytes), and these with eight
addresses and every reason for drops (1,900 bytes)."""


def start(config: str, fds: Mapping[str, Sequence[int]]) -> Gateway:
    """Makes the gateway from the first line of the channel; `fds` names are those of the running agent."""
    return Gateway(
        config,
        tunnel_fds=list(fds.get("tunnel", ())),
        nat64_fds=list(fds.get("nat64", ())),
        listener_fds=list(fds.get("listener", ())),
        dns_udp_fds=list(fds.get("dns_udp", ())),
        dns_tcp_fds=list(fds.get("dns_tcp", ())),
    )


def _configure(gateway: Gateway, message: Mapping[str, Any]) -> None:
    gateway.configure(json.dumps(message["config"]))


def _sessions(gateway: Gateway, message: Mapping[str, Any]) -> object:
    return json.loads(gateway.sessions(int(message.get("after", 0)), int(message.get("limit", MAX_PAGE))))


def _disconnect(gateway: Gateway, message: Mapping[str, Any]) -> int:
    return gateway.disconnect([int(number) for number in message["sessions"]])


def _stats(gateway: Gateway, _message: Mapping[str, Any]) -> object:
    return json.loads(gateway.stats())


def _answer(gateway: Gateway, message: Mapping[str, Any]) -> bool:
    body = base64.b64decode(message["body_base64"], validate=True)
    return gateway.answer(int(message["request"]), int(message["status"]), str(message["content_type"]), body)


OPERATIONS: Mapping[str, native_process.Operation] = {
    "configure": _configure,
    "sessions": _sessions,
    "disconnect": _disconnect,
    "stats": _stats,
    "answer": _answer,
}


if __name__ == "__main__":
    sys.exit(native_process.main(start, OPERATIONS))
