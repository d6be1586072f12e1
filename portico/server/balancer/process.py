"""The balancer's process: `python -m portico.server.balancer.process CONTROL_FD`, started by the server's agent.

`portico.supervisor` describes the channel. When the agent dies the channel ends, and this process gives the server's
buckets to the others before it ends too: the gateway is gone by then, and nobody here would answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from portico.errors import InvalidInput, PorticoError
from portico.server.balancer.explaining import packet
from portico.server.balancer.plans import Assignment
from portico.server.balancer.shell import Shell
from portico.supervisor import MAX_LINE

log = logging.getLogger("portico.balancer")

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "PERFMON": 38, "BPF": 39}
"""capabilities(7): filters and their leases, frames, and the eBPF program."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION = 0x20080522


def confine() -> None:
    """Keeps the capabilities that balancing needs, gives the others away for good, and lets nobody trace this process.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3) != 0:
            raise _last_error(f"prctl({option})")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise _last_error("capget")
    for word in range(2):
        keep = sum(1 << (number - 32 * word) for number in CAPABILITIES.values() if number // 32 == word)
        # Effective, permitted, inheritable of each word.
        data[3 * word] &= keep
        data[3 * word + 1] &= keep
        data[3 * word + 2] = 0
    if libc.capset(header, data) != 0:
        raise _last_error("capset")


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _configure(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.configure(Assignment.from_config(message["config"]))


def _command(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.command(str(message["name"]))


def _health(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.health(bool(message["ok"]), str(message["why"]))


def _sessions(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.sessions((int(number), str(peer), int(owner), texts) for number, peer, owner, texts in message["sessions"])


def _tunnels(shell: Shell, message: Mapping[str, Any]) -> None:
    """What happened to tunnels, in order: [name, session, peer and owner's tag, or address]."""
    for name, session, *rest in message["events"]:
        if name == "session_up":
            shell.session_up(int(session), str(rest[0]), int(rest[1]))
        elif name == "session_address":
            shell.session_address(int(session), str(rest[0]))
        elif name == "session_down":
            shell.session_down(int(session))


def _status(shell: Shell, _message: Mapping[str, Any]) -> dict[str, Any]:
    return shell.status()


def _explain(shell: Shell, message: Mapping[str, Any]) -> dict[str, Any]:
    source, destination, protocol = (str(message[key]) for key in ("source", "destination", "protocol"))
    return shell.explain(packet(source, destination, protocol, established=bool(message["established"])))


OPERATIONS: Mapping[str, Callable[[Shell, Mapping[str, Any]], Any]] = {
    "configure": _configure,
    "command": _command,
    "health": _health,
    "sessions": _sessions,
    "tunnels": _tunnels,
    "status": _status,
    "explain": _explain,
}


class Serving:
    """The channel of one balancer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._shell = Shell(self._send)

    async def run(self) -> int:
        """Serves until the agent says so, or is gone."""
        first = await self._next()
        if first is None:
            return 0
        if first.get("op") != "start" or not isinstance(first.get("config"), dict):
            self._send({"id": first.get("id"), "ok": False, "error": "the first line must be a start"})
            return 1
        try:
            self._shell.configure(Assignment.from_config(first["config"]))
        except (PorticoError, OSError) as error:
            self._send({"id": first.get("id"), "ok": False, "error": str(error)})
            await self._shell.leave(remove=False)
            return 1
        del first  # it holds keys
        self._send({"id": 0, "ok": True, "result": {}})
        while (message := await self._next()) is not None:
            if message.get("op") == "close":
                await self._shell.leave(remove=True)
                self._send({"id": message.get("id"), "ok": True, "result": None})
                return 0
            self._carry_out(message)
        await self._shell.leave(remove=False)
        return 0

    def _carry_out(self, message: Mapping[str, Any]) -> None:
        number, name = message.get("id"), message.get("op")
        operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            self._send({"id": number, "ok": False, "error": f"there is no operation {name!r}"})
            return
        try:
            result = operation(self._shell, message)
        except (PorticoError, OSError, ValueError, TypeError, KeyError) as error:
            self._send({"id": number, "ok": False, "error": str(error) or type(error).__name__})
        else:
            self._send({"id": number, "ok": True, "result": result})

    async def _next(self) -> dict[str, Any] | None:
        """The next message; None when the agent is gone.

        Raises:
            InvalidInput: a line is too long or no JSON object.
        """
        try:
            message = json.loads(await self._reader.readuntil(b"\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise InvalidInput("The control channel is broken", why=str(error)) from None
        if not isinstance(message, dict):
            raise InvalidInput("The control channel is broken", why="a line is not a JSON object")
        return message

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")


async def serve(channel: socket.socket) -> int:
    """Serves one channel."""
    reader, writer = await asyncio.open_connection(sock=channel, limit=MAX_LINE)
    try:
        return await Serving(reader, writer).run()
    finally:
        with suppress(OSError):
            await writer.drain()
        writer.close()


def main() -> int:
    """Entry point: the channel's descriptor number is the only argument."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.stderr.write("This is started by Portico's agent, with the number of its control socket as argument.\n")
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is meant for the agent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        confine()
        channel = socket.socket(fileno=int(sys.argv[1]))
    except OSError as error:
        sys.stderr.write(f"Cannot start: {error}\n")
        return 1
    try:
        return asyncio.run(serve(channel))
    except InvalidInput as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
