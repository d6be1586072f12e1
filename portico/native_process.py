"""The child's half of a native process: a control socket on one side, an object of `portico._gateway` on the other.

`portico.supervisor` describes the channel. The process holds keys, so nobody may trace it or read its memory, it never
gains a privilege, it ends with its agent, and once it runs the kernel lets it do nothing but what it is for (seccomp:
`portico._gateway.confine`).

The agent either starts it, with the number of its end of the channel as argument, or it was started by the service
manager in a unit of its own and connects to the agent's socket (`--connect PATH`, see `portico.connected`).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from portico._gateway import confine
from portico.connecting import connect, take_descriptors
from portico.errors import InvalidInput, PorticoError

MAX_LINE = 4 * 1024 * 1024
"""Bytes in one line of the channel, both ways."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_F_SETSIG = 10
"""asm-generic/fcntl.h; the module `fcntl` has it on some machines only."""

_EVENT_WAIT = 0.25


class Native(Protocol):
    """What both native classes can do."""

    def next_events(self, timeout: float) -> list[str]: ...
    def close(self) -> None: ...


Operation = Callable[[Any, Mapping[str, Any]], Any]
"""Carries out one request on the native object; its result must be JSON."""


MAX_SLOW = 4
"""Slow operations that run at one time; as many again may wait."""


@dataclass(frozen=True)
class Slow:
    """An operation that may take seconds: it runs beside the others, so that none waits behind it."""

    carry_out: Operation


def harden(*, dies_with_parent: bool = True) -> None:
    """No privilege can be gained, nobody can trace this process or make it dump core, and it dies with its parent.

    Args:
        dies_with_parent: the parent is the agent. Otherwise `hold` does the same.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    options = [(_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)]
    if dies_with_parent:
        options.append((_PR_SET_PDEATHSIG, int(signal.SIGKILL)))
    for option, value in options:
        if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")
    if os.getppid() != parent:
        raise OSError("the parent ended while this process started")


def hold(lifeline: socket.socket) -> None:
    """From now on the kernel kills this process when the agent closes its end of the lifeline, or dies.

    It needs nothing of this process for that, which may hang or be stopped.

    Raises:
        OSError: the kernel refused, or the other end is closed already.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):  # it was closed before the kernel was told to watch it
        raise OSError("the agent ended while this process started")


def open_all_descriptors() -> None:
    """Raises the soft limit of open descriptors to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Channel:
    """Lines of JSON over a stream socket. Sending is safe from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()

    def receive(self) -> dict[str, Any] | None:
        """The next object; None when the parent closed the channel.

        Raises:
            InvalidInput: the line is too long or not a JSON object.
        """
        line = self._lines.readline(MAX_LINE + 1)
        if not line:
            return None
        if len(line) > MAX_LINE:
            raise InvalidInput("The control channel is broken", why=f"a line of more than {MAX_LINE} bytes")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise InvalidInput("The control channel is broken", why=f"a line is not JSON: {error}") from None
        if not isinstance(message, dict):
            raise InvalidInput("The control channel is broken", why="a line is not a JSON object")
        return message

    def send(self, text: str) -> None:
        """Sends one line; silently does nothing when the parent is gone, which `receive` will show."""
        data = text.encode() + b"\n"
        with self._sending:
            try:
                self._connection.sendall(data)
            except OSError:
                return

    def reply(self, number: object, result: object) -> None:
        text = json.dumps({"id": number, "ok": True, "result": result})
        if len(text) >= MAX_LINE:
            self.fail(number, f"the result is longer than {MAX_LINE} bytes")
        else:
            self.send(text)

    def fail(self, number: object, error: str) -> None:
        self.send(json.dumps({"id": number, "ok": False, "error": error}))

    def close(self) -> None:
        self._connection.close()


def serve(
    channel: Channel,
    start: Callable[[str, Mapping[str, Sequence[int]]], Native],
    operations: Mapping[str, Operation | Slow],
    received: Sequence[int] | None = None,
) -> None:
    """Starts the native object that the first line describes and serves until the parent closes or says so.

    Everything is open when the native object exists, so from then on the process is confined.

    Args:
        received: the descriptors that came over the channel: the first line names them by their places in it. None:
            they were inherited, and the line has their numbers.
    """
    first = channel.receive()
    if first is None:
        return
    if first.get("op") != "start" or not isinstance(first.get("config"), dict):
        channel.fail(first.get("id"), "the first line must be a start with a configuration")
        return
    try:
        fds: Mapping[str, Sequence[int]] = first.get("fds") or {}
        if received is not None:
            fds = {name: [received[place] for place in places] for name, places in fds.items()}
        native = start(json.dumps(first["config"]), fds)
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        confine()
    except (ValueError, OSError, TypeError, LookupError) as error:
        channel.fail(first.get("id"), str(error))
        return
    del first  # it holds keys
    stopping = threading.Event()
    pump = threading.Thread(target=_pump, args=(channel, native, stopping), name="events")
    pump.start()
    channel.reply(0, {"descriptors": allowed})
    aside = _Aside()
    try:
        while (message := channel.receive()) is not None:
            number, name = message.get("id"), message.get("op")
            if name == "close":
                channel.reply(number, None)
                break
            operation = operations.get(name) if isinstance(name, str) else None
            if operation is None:
                channel.fail(number, f"there is no operation {name!r}")
            elif not isinstance(operation, Slow):
                _carry_out(channel, native, operation, message)
            elif not aside.run(_carry_out, channel, native, operation.carry_out, message):
                channel.fail(number, f"{name}: busy with {2 * MAX_SLOW} of its kind; try again in a moment")
    finally:
        stopping.set()
        pump.join()
        native.close()
        aside.close()


class _Aside:
    """Threads for slow operations, a bounded number with a bounded queue; made when the first one comes."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._free = threading.BoundedSemaphore(2 * MAX_SLOW)

    def run(self, work: Callable[..., None], *arguments: Any) -> bool:
        """False when there is no room."""
        if not self._free.acquire(blocking=False):
            return False
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_SLOW, thread_name_prefix="slow")
        self._threads.submit(work, *arguments).add_done_callback(lambda _: self._free.release())
        return True

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def _carry_out(channel: Channel, native: Native, operation: Operation, message: dict[str, Any]) -> None:
    """Answers one request."""
    number, name = message.get("id"), message.get("op")
    try:
        result = operation(native, message)
    except (ValueError, OSError, TypeError, KeyError, OverflowError) as error:
        channel.fail(number, f"{name}: {error}" if str(error) else f"{name}: {type(error).__name__}")
    else:
        channel.reply(number, result)


def _pump(channel: Channel, native: Native, stopping: threading.Event) -> None:
    while not stopping.is_set():
        for event in native.next_events(_EVENT_WAIT):
            channel.send(event)


def main(
    start: Callable[[str, Mapping[str, Sequence[int]]], Native],
    operations: Mapping[str, Operation | Slow],
) -> int:
    """Entry point of a child: the channel's descriptor number, or `--connect` and the agent's socket."""
    inherited = len(sys.argv) == 2 and sys.argv[1].isdigit()
    if not inherited and (len(sys.argv) != 3 or sys.argv[1] != "--connect"):
        sys.stderr.write(
            "This is started by Portico's agent, with the number of its control socket as argument, or by its unit: "
            "--connect PATH\n"
        )
        return 2
    received: list[int] | None = None
    # The agent ends its children itself; a terminal's interrupt is meant for the agent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        harden(dies_with_parent=inherited)
        if inherited:
            connection = socket.socket(fileno=int(sys.argv[1]))
        else:
            open_all_descriptors()
            connection = connect(sys.argv[2])
            taken = take_descriptors(connection)
            if taken is None:
                return 0
            # It lives as long as this frame does, and must: closing it would free this process of its agent.
            lifeline, received = socket.socket(fileno=taken[0]), taken[1:]
            hold(lifeline)
        channel = Channel(connection)
    except (OSError, PorticoError) as error:
        sys.stderr.write(f"Cannot start: {error}\n")
        return 1
    try:
        serve(channel, start, operations, received)
    except InvalidInput as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        channel.close()
    return 0
