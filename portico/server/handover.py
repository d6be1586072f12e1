"""Descriptors for a running gateway: it gets most at its start, and those that change while it runs through here.

The control channel carries lines, which cannot carry descriptors. Beside it each gateway inherits the end of a second
socket; what goes through it (SCM_RIGHTS, unix(7)) is named by a token that the request on the channel repeats.
"""

from __future__ import annotations

import array
import contextlib
import os
import secrets
import socket
from collections.abc import Sequence

from portico.errors import Unavailable

MAXIMUM = 64
"""Descriptors in one message."""

_TIMEOUT = 5.0
_TOKEN_LENGTH = 32


class Handover:
    """The agent's side. The gateway's end stays open here, for its successors.

    Raises:
        Unavailable: no socket can be had.
    """

    def __init__(self) -> None:
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise Unavailable("Descriptors cannot be handed over", why=error.strerror or str(error)) from None
        self._ours.setblocking(False)

    @property
    def fd(self) -> int:
        """What a gateway inherits."""
        return self._theirs.fileno()

    def send(self, fds: Sequence[int]) -> str:
        """Sends descriptors, which stay open here, and returns the token that names them.

        Raises:
            Unavailable: the gateway does not take what was sent before.
        """
        token = secrets.token_hex(_TOKEN_LENGTH // 2)
        try:
            socket.send_fds(self._ours, [token.encode()], list(fds))
        except OSError as error:
            raise Unavailable("Descriptors cannot be handed over", why=error.strerror or str(error)) from None
        return token

    def discard(self) -> None:
        """Throws away what a gateway that died did not take: it would hold sockets open that nobody serves."""
        with contextlib.suppress(OSError):
            while True:
                data, fds = _receive(self._theirs, socket.MSG_DONTWAIT)
                _close(fds)
                if not data:
                    return

    def close(self) -> None:
        self.discard()
        self._ours.close()
        self._theirs.close()


def take(end: socket.socket, token: str) -> list[int]:
    """The gateway's side: the descriptors of a token, which belong to the caller.

    Raises:
        OSError: they did not come.
    """
    end.settimeout(_TIMEOUT)
    while True:
        data, fds = _receive(end, 0)
        if data == token.encode():
            return fds
        _close(fds)
        if not data:
            raise OSError("the agent closed its end")


def _receive(end: socket.socket, flags: int) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(MAXIMUM * array.array("i").itemsize)
    data, ancillary, _, _ = end.recvmsg(_TOKEN_LENGTH, space, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
