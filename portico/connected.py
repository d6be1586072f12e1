"""Children that the service manager starts, each in a unit of its own, and that connect to the agent.

The agent has no privilege over them: it can neither become their account nor send them signals. So the socket lies in a
directory that only that account enters, the kernel says who is at the other end (SO_PEERCRED), and one process at a
time is taken. Before the lines of the channel begin, the agent sends descriptors (SCM_RIGHTS, unix(7)), each message of
them with one byte, `MORE` or `LAST`; a process that is not wanted gets `REFUSED` and a reason.

The first descriptor is the child's *lifeline*. The child has the kernel kill it when the other end of that is closed
(fcntl(2), F_SETSIG), which is what the agent does to end it, and what its own death does. That works on a child that
hangs or was stopped, as a parent's SIGKILL would; the service manager starts the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import select
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from portico.child import BATCH, LAST, MORE, REFUSED, Begun, Program, Start
from portico.errors import NotFound, Unavailable

log = logging.getLogger("portico.connected")

REAP_TIMEOUT = 5.0
"""Seconds in which a child whose lifeline was cut is gone, unless it is not one of ours any more."""

ACCEPT_AGAIN = 1.0
"""Seconds until the next attempt when a connection cannot be accepted."""

_BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")


class Door:
    """Where the processes of one unit connect. See `portico.child.Source`.

    Args:
        path: of the socket. Its directory belongs to root and is entered by the account's group alone.
        account: who may connect; None is the account of this process.
        unit: the unit whose process is expected, for messages.
    """

    def __init__(self, path: Path, account: str | None, unit: str) -> None:
        self.path = path
        self.unit = unit
        self.strangers = 0
        """Connections of other accounts."""
        self.refused = 0
        """Connections of a second process while one was there."""
        self._uid = _uid(account, unit)
        self._listener: socket.socket | None = None
        self._candidate: _Candidate | None = None
        self._current: ConnectedChild | None = None
        self._came = asyncio.Event()

    @property
    def awaited(self) -> str:
        if self._candidate is not None:
            return ""
        return f"no process has connected to {self.path}; look at it with: systemctl status {self.unit}"

    def open(self) -> None:
        """Listens, in place of a socket that a dead agent left. The caller is the only agent.

        Raises:
            Unavailable: code DOOR_NOT_MADE.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.path.unlink(missing_ok=True)
            listener.bind(str(self.path))
            # Who may try is the directory's decision, who is let in that of the credentials.
            self.path.chmod(0o666)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise Unavailable(
                f"Cannot listen on {self.path}, where {self.unit} connects",
                why=error.strerror or str(error),
                resolution=f"Its directory is made when the agent's unit starts; look at it: ls -ld {self.path.parent}",
                code="DOOR_NOT_MADE",
            ) from None
        self._listener = listener
        self._listen()

    def close(self) -> None:
        """Stops listening. A process that waits to be taken ends by that."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._forget()

    async def available(self) -> None:
        """Returns when a process waits to be taken."""
        while self._candidate is None:
            self._came.clear()
            await self._came.wait()

    async def begin(self, program: Program, start: Start) -> Begun:
        """Takes the process that waits, and gives it its descriptors.

        Raises:
            Unavailable: it has gone, or does not take them.
            OSError: no more descriptors can be had.
        """
        candidate, self._candidate = self._candidate, None
        if candidate is None:
            raise Unavailable(f"The {program.name} process cannot be taken", why="it has gone")
        asyncio.get_running_loop().remove_reader(candidate.connection)
        ours, theirs = socket.socketpair()
        numbers = [fd for group in start.fds.values() for fd in group]
        places: dict[int, int] = {}
        for number in numbers:
            places.setdefault(number, len(places))
        with theirs:
            try:
                _send(candidate.connection, [theirs.fileno(), *places])
            except OSError as error:
                ours.close()
                candidate.close()
                raise Unavailable(
                    f"The {program.name} process does not take its descriptors", why=error.strerror or str(error)
                ) from None
        child = self._current = ConnectedChild(candidate, ours, self.unit)
        fds = {name: [places[number] for number in group] for name, group in start.fds.items()}
        return Begun(child, candidate.connection, fds)

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor is left; whoever dials waits in the backlog meanwhile
            log.warning("unit=%s cannot be let in: %s", self.unit, error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN, self._listen)
            return
        connection.setblocking(False)
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid != self._uid:
            self.strangers += 1
            log.warning("unit=%s refused pid=%d uid=%d: only uid=%d may connect", self.unit, pid, uid, self._uid)
            _refuse(connection, "this is not the account that may connect")
            return
        if self._candidate is not None or (self._current is not None and self._current.alive):
            self.refused += 1
            log.warning("unit=%s refused pid=%d: another process is there", self.unit, pid)
            _refuse(connection, "another process is there")
            return
        try:
            self._candidate = _Candidate(connection, pid)
        except OSError as error:  # it has ended already
            log.info("unit=%s pid=%d has gone: %s", self.unit, pid, error)
            connection.close()
            return
        # It has nothing to say before it is taken: what can be read is its end.
        asyncio.get_running_loop().add_reader(connection, self._forget)
        self._came.set()

    def _forget(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            asyncio.get_running_loop().remove_reader(candidate.connection)
            candidate.close()


class _Candidate:
    """A process of the right account that has connected and was not taken yet."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def close(self) -> None:
        self.connection.close()
        os.close(self.pidfd)


class ConnectedChild:
    """A process that the service manager started. See `portico.child.Child`."""

    def __init__(self, candidate: _Candidate, lifeline: socket.socket, unit: str) -> None:
        self.pid = candidate.pid
        self._unit = unit
        self._channel = candidate.connection
        self._pidfd: int | None = candidate.pidfd
        self._lifeline = lifeline

    @property
    def alive(self) -> bool:
        if self._pidfd is None:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def ended(self) -> None:
        if self._pidfd is None:
            return
        # A number of its own for each who waits: the loop knows one callback for each.
        watched = os.dup(self._pidfd)
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(watched, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)

    def status(self) -> str:
        return ""

    def terminate(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        self._lifeline.close()

    async def reap(self) -> None:
        try:
            await asyncio.wait_for(self.ended(), REAP_TIMEOUT)
        except TimeoutError:
            # Its successor comes when the service manager has ended it.
            log.error(
                "unit=%s pid=%d does not end though its lifeline is cut; end it: systemctl kill -s KILL %s",
                self._unit,
                self.pid,
                self._unit,
            )
        self._lifeline.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _uid(account: str | None, unit: str) -> int:
    if account is None:
        return os.geteuid()
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        raise NotFound(
            f"Nobody can connect as {unit}",
            why=f"there is no user {account}",
            resolution=f"Create it: useradd --system --no-create-home --shell /usr/sbin/nologin {account}",
        ) from None


def _send(connection: socket.socket, fds: Sequence[int]) -> None:
    for at in range(0, len(fds), BATCH):
        batch = list(fds[at : at + BATCH])
        socket.send_fds(connection, [LAST if at + BATCH >= len(fds) else MORE], batch)


def _refuse(connection: socket.socket, why: str) -> None:
    with connection, contextlib.suppress(OSError):
        connection.send(REFUSED + why.encode())
