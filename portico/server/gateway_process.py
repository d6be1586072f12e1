"""The gateway's process: `python -m portico.server.gateway_process CONTROL_FD`, started by the server's agent."""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from portico import native_process
from portico._gateway import Gateway
from portico.server.handover import take

MAX_PAGE = 2000
"""Sessions in one answer: a line of the channel holds many more of the usual ones (600 bytes), and these with eight
addresses and every reason for drops (1,900 bytes)."""

LONGEST = 60.0
"""Seconds to wait for a worker: more than the agent waits for this process before it starts another."""

_handover: list[socket.socket] = []
"""Where descriptors come from while the gateway runs, see `portico.server.handover`."""


def start(config: str, fds: Mapping[str, Sequence[int]]) -> Gateway:
    """Makes the gateway from the first line of the channel; `fds` names are those of the running agent."""
    _handover[:] = [socket.socket(fileno=fd) for fd in fds.get("handover", ())]
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


def _turned(gateway: Gateway, _message: Mapping[str, Any]) -> None:
    """The sign of life: all of the gateway turns, each worker and, for its counters, DNS64."""
    if not gateway.turned(LONGEST):
        raise OSError(f"a worker has stood still for {LONGEST:.0f} s")
    gateway.stats()


def _answer(gateway: Gateway, message: Mapping[str, Any]) -> bool:
    body = base64.b64decode(message["body_base64"], validate=True)
    return gateway.answer(int(message["request"]), int(message["status"]), str(message["content_type"]), body)


def _dns_sockets(gateway: Gateway, message: Mapping[str, Any]) -> None:
    if not _handover:
        raise OSError("this gateway was started without a socket for descriptors")
    fds = take(_handover[0], str(message["token"]))
    udp = int(message["udp"])
    gateway.replace_dns_sockets(fds[:udp], fds[udp:])


def _asks(name: str, argument: str) -> native_process.Slow:
    """An operation that takes one object and returns one, both as JSON."""

    def carry_out(gateway: Gateway, message: Mapping[str, Any]) -> object:
        return json.loads(getattr(gateway, name)(json.dumps(message[argument])))

    return native_process.Slow(carry_out)


OPERATIONS: Mapping[str, native_process.Operation | native_process.Slow] = {
    "configure": _configure,
    "sessions": _sessions,
    "disconnect": _disconnect,
    "stats": _stats,
    "turned": native_process.Slow(_turned),
    "answer": _answer,
    "dns_sockets": _dns_sockets,
    "nat64_sessions": _asks("nat64_sessions", "filter"),
    "nat64_bindings": _asks("nat64_bindings", "filter"),
    "nat64_open": _asks("nat64_open", "opened"),
    "dns64_flush": _asks("dns64_flush", "query"),
    "dns64_query": _asks("dns64_query", "query"),
}


if __name__ == "__main__":
    sys.exit(native_process.main(start, OPERATIONS))
