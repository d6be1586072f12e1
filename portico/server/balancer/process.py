"""The balancer's process: `python -m portico.server.balancer.process CONTROL_FD`, started by the server's agent.

In a unit of its own it has `--connect PATH` in place of that number (`portico.connected`).

`portico.supervisor` describes the channel. When the agent dies the channel ends, and this process gives the server's
buckets to the others before it ends too: the gateway is gone by then, and nobody here would answer.

A configuration without settings makes a process that is no member of a cluster yet: the agent, which may have no raw
sockets, has it ask the link who has the addresses that this server would take.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import json
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from portico.connecting import connect, take_descriptors
from portico.errors import InvalidInput, PorticoError
from portico.server.balancer.ask_link import ask_link
from portico.server.balancer.explaining import packet
from portico.server.balancer.plans import Assignment
from portico.server.balancer.shell import GOODBYE, Shell
from portico.supervisor import MAX_LINE

log = logging.getLogger("portico.balancer")

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "PERFMON": 38, "BPF": 39}
"""capabilities(7): filters and their leases, frames, and the eBPF program."""

PRIORITY = -15
"""As nice(1) counts, of a process that needs little time but now, for heartbeats and leases: a server that is only busy
must not pass for dead. Its unit says the same."""

REFUSING = 0.1
"""Seconds for which buckets stay here when the agent is gone, and with it the gateway. All its clients dial again at
once; the kernel refuses them, and they try again in a moment, when others have the buckets. Buckets on their way have
no owner for some hundredths of a second, and who dials into that repeats it after a whole second."""

GRACE = 2 * GOODBYE
"""Seconds between the end of the agent and that of a process that does not end by itself."""

MAX_ASIDE = 4
"""Operations that take their time, at one time; more are refused."""

_AUTOGROUP = Path("/proc/self/autogroup")

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION = 0x20080522


def hasten() -> None:
    """Has the kernel prefer this process, unless its unit has done it."""
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) > PRIORITY:
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            # Where sessions share the processor (sched(7), "The autogroup feature"), it counts within its own only.
            if os.getsid(0) == os.getpid() and _AUTOGROUP.exists():
                _AUTOGROUP.write_text(str(PRIORITY))
    except OSError as error:
        log.warning("the balancer has to wait for the processor like everybody: %s", error)


def confine() -> None:
    """Keeps the capabilities that balancing needs, gives the others away for good, and lets nobody trace this process.

    Under its unit there are no others, and the unit does not let it change them.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    options = ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL))
    for option, value in options:
        if libc.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3) != 0:
            raise _last_error(f"prctl({option})")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise _last_error("capget")
    excess = False
    for word in range(2):
        keep = sum(1 << (number - 32 * word) for number in CAPABILITIES.values() if number // 32 == word)
        excess = excess or bool(data[3 * word + 1] & ~keep)
        # Effective, permitted, inheritable of each word.
        data[3 * word] &= keep
        data[3 * word + 1] &= keep
        data[3 * word + 2] = 0
    if excess and libc.capset(header, data) != 0:
        raise _last_error("capset")


def guard(lifeline: socket.socket, channel: socket.socket) -> None:
    """From now on another process kills this one GRACE seconds after the agent closed its end of the lifeline, or died.

    Not at once, as the kernel does it for a packet path (`portico.native_process.hold`): the other servers must be told
    that they have this one's buckets. A balancer that hangs does no harm meanwhile, because the kernel's filter drops
    everything once the lease is over that it does not renew.

    Raises:
        OSError: no process can be had.
    """
    ourselves = os.pidfd_open(os.getpid())
    if os.fork() != 0:
        os.close(ourselves)
        lifeline.close()
        return
    try:
        channel.close()  # its end is seen when nobody has it any more
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the unit's stop is meant for the one that is guarded
        poll = select.poll()
        poll.register(ourselves, select.POLLIN)
        poll.register(lifeline, select.POLLIN)
        poll.poll()
        poll.unregister(lifeline)
        if not poll.poll(1000.0 * GRACE):
            signal.pidfd_send_signal(ourselves, signal.SIGKILL)
    finally:
        os._exit(0)


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


async def _configure(shell: Shell, message: Mapping[str, Any]) -> None:
    """What is said meanwhile waits; heartbeats go on."""
    told = Assignment.from_config(message["config"])
    await asyncio.to_thread(shell.prepare, told)
    shell.configure(told)


def _command(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.command(str(message["name"]))


def _health(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.health(bool(message["ok"]), str(message["why"]))


def _sessions(shell: Shell, message: Mapping[str, Any]) -> None:
    shell.clients.replace(
        (int(number), str(peer), int(owner), texts) for number, peer, owner, texts in message["sessions"]
    )


def _tunnels(shell: Shell, message: Mapping[str, Any]) -> None:
    """What happened to tunnels, in order: [name, session, peer and owner's tag, or address]."""
    for name, session, *rest in message["events"]:
        if name == "session_up":
            shell.clients.up(int(session), str(rest[0]), int(rest[1]))
        elif name == "session_address":
            shell.clients.address(int(session), str(rest[0]))
        elif name == "session_down":
            shell.clients.down(int(session))


def _status(shell: Shell, _message: Mapping[str, Any]) -> dict[str, Any]:
    return shell.status()


def _explain(shell: Shell, message: Mapping[str, Any]) -> dict[str, Any]:
    source, destination, protocol = (str(message[key]) for key in ("source", "destination", "protocol"))
    return shell.explain(packet(source, destination, protocol, established=bool(message["established"])))


def _give_back(shell: Shell, _message: Mapping[str, Any]) -> None:
    shell.give_back()


OPERATIONS: Mapping[str, Callable[[Shell, Mapping[str, Any]], Any]] = {
    "configure": _configure,  # awaited
    "command": _command,
    "health": _health,
    "give_back": _give_back,
    "sessions": _sessions,
    "tunnels": _tunnels,
    "status": _status,
    "explain": _explain,
}


def _ask_link(message: Mapping[str, Any]) -> dict[str, str]:
    addresses = [ip_address(text) for text in message["addresses"]]
    ignored = [str(text) for text in message.get("ignored", ())]
    return {str(address): mac for address, mac in ask_link(str(message["interface"]), addresses, ignored).items()}


ASIDE: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {"ask_link": _ask_link}
"""What blocks: in a thread, beside the heartbeats."""


class Serving:
    """The channel of one balancer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._reading: asyncio.Future[bytes] | None = None
        self._ended = False
        self._aside: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """As if the agent were gone."""
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self) -> int:
        """Serves until the agent says so, or is gone.

        Raises:
            InvalidInput: the channel is broken.
            NotPermitted, Unavailable: raw sockets cannot be had.
        """
        first = await self._next()
        if first is None:
            return 0
        config = first.get("config")
        if first.get("op") != "start" or not isinstance(config, dict) or not isinstance(config.get("boot"), int):
            self._send({"id": first.get("id"), "ok": False, "error": "the first line must be a start with a boot"})
            return 1
        shell = Shell(self._send, config["boot"])
        try:
            if "settings" in config:
                shell.configure(Assignment.from_config(config))
        except (PorticoError, OSError) as error:
            self._send({"id": first.get("id"), "ok": False, "error": str(error)})
            await shell.leave(remove=False)
            return 1
        del first, config  # they hold keys
        self._send({"id": 0, "ok": True, "result": {}})
        while (message := await self._next()) is not None:
            if message.get("op") == "close":
                await shell.leave(remove=True)
                self._send({"id": message.get("id"), "ok": True, "result": None})
                return 0
            await self._carry_out(shell, message)
        await asyncio.sleep(REFUSING)
        await shell.leave(remove=False)
        return 0

    async def _carry_out(self, shell: Shell, message: Mapping[str, Any]) -> None:
        number, name = message.get("id"), message.get("op")
        if isinstance(name, str) and name in ASIDE:
            if len(self._aside) >= MAX_ASIDE:
                self._send({"id": number, "ok": False, "error": f"busy with {MAX_ASIDE} others; try again in a moment"})
                return
            task = asyncio.get_running_loop().create_task(self._carry_out_aside(name, message))
            self._aside.add(task)
            task.add_done_callback(self._aside.discard)
            return
        operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if operation is None:
            self._send({"id": number, "ok": False, "error": f"there is no operation {name!r}"})
            return
        try:
            result = operation(shell, message)
            if inspect.isawaitable(result):
                result = await result
        except (PorticoError, OSError, ValueError, TypeError, KeyError) as error:
            self._send({"id": number, "ok": False, "error": str(error) or type(error).__name__})
        else:
            self._send({"id": number, "ok": True, "result": result})

    async def _carry_out_aside(self, name: str, message: Mapping[str, Any]) -> None:
        number = message.get("id")
        try:
            result = await asyncio.to_thread(ASIDE[name], message)
        except (PorticoError, OSError, ValueError, TypeError, KeyError) as error:
            self._send({"id": number, "ok": False, "error": str(error) or type(error).__name__})
        else:
            self._send({"id": number, "ok": True, "result": result})

    async def _next(self) -> dict[str, Any] | None:
        """The next message; None when the agent is gone.

        Raises:
            InvalidInput: a line is too long or no JSON object.
        """
        if self._ended:
            return None
        self._reading = asyncio.ensure_future(self._reader.readuntil(b"\n"))
        try:
            message = json.loads(await self._reading)
        except asyncio.CancelledError:
            if self._ended:
                return None
            raise
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
    """Serves one channel, until SIGTERM at the latest: the others are told before the process ends."""
    reader, writer = await asyncio.open_connection(sock=channel, limit=MAX_LINE)
    serving = Serving(reader, writer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.end)
    try:
        return await serving.run()
    finally:
        with suppress(OSError):
            await writer.drain()
        writer.close()


def main() -> int:
    """Entry point: the channel's descriptor number, or `--connect` and the agent's socket."""
    inherited = len(sys.argv) == 2 and sys.argv[1].isdigit()
    if not inherited and (len(sys.argv) != 3 or sys.argv[1] != "--connect"):
        sys.stderr.write(
            "This is started by Portico's agent, with the number of its control socket as argument, or by its unit: "
            "--connect PATH\n"
        )
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is meant for the agent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        hasten()
        confine()
        if inherited:
            channel = socket.socket(fileno=int(sys.argv[1]))
        else:
            channel = connect(sys.argv[2])
            taken = take_descriptors(channel)
            if taken is None:
                return 0
            guard(socket.socket(fileno=taken[0]), channel)
    except (OSError, PorticoError) as error:
        sys.stderr.write(f"Cannot start: {error}\n")
        return 1
    try:
        return asyncio.run(serve(channel))
    except PorticoError as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
