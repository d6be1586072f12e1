"""The child's half of `portico.connected`: how a process that the service manager started comes to its agent."""

from __future__ import annotations

import array
import socket
import time

from portico.child import BATCH, LAST, MORE, REFUSED
from portico.errors import InvalidInput, NotPermitted, Unavailable

CONNECT_TIMEOUT = 60.0
"""Seconds in which the agent listens; then the service manager starts this process anew."""
_CONNECT_AGAIN = 0.05


def connect(path: str, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
    """Connects to the agent, which may start later than this process.

    Raises:
        Unavailable: it does not listen.
        OSError: this process may not connect.
    """
    deadline = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"No agent listens on {path}",
                    why=error.strerror or "",
                    resolution="Look at it: systemctl status 'portico-*'",
                ) from None
            time.sleep(_CONNECT_AGAIN)
        except OSError:
            connection.close()
            raise
        else:
            return connection


def take_descriptors(connection: socket.socket) -> list[int] | None:
    """Waits until the agent takes this process; returns the descriptors that come with that, the lifeline first.

    None when the agent closed the connection.

    Raises:
        NotPermitted: it does not take this process.
        InvalidInput: it sent something else.
        OSError: the connection broke.
    """
    fds = array.array("i")
    while True:
        # One byte at a time: what follows the last of them belongs to the channel.
        data, ancillary, flags, _ = connection.recvmsg(
            1, socket.CMSG_SPACE(BATCH * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if not data:
            return None
        if data == REFUSED:
            raise NotPermitted(
                "The agent does not take this process", why=connection.recv(256).decode(errors="replace")
            )
        if data not in (MORE, LAST) or flags & socket.MSG_CTRUNC:
            raise InvalidInput("The control channel is broken", why="the descriptors did not come whole")
        if data == LAST:
            if not fds:
                raise InvalidInput("The control channel is broken", why="no descriptors came")
            return list(fds)
