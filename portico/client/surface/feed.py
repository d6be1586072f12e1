"""The status socket: every user of this computer may read how it stands, and nobody can say anything there.

One JSON line when a reader connects and one whenever something changes. Readers are bounded, together and for each
user; one that does not take its lines is dropped. What is counted is in `Counters`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import select
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from portico.client.assistant.report import Check, Report
from portico.client.surface.words import word
from portico.files import not_written

log = logging.getLogger("portico.client.feed")

VERSION: Final = 1
"""Of the line's form. Keys may be added to it; a change of what a key means makes it another one."""

MAXIMUM_READERS: Final = 64
MAXIMUM_PER_USER: Final = 16
BACKLOG: Final = 8
"""Lines that a reader may leave lying before it is dropped."""

MAXIMUM_TEXT: Final = 300
"""Characters of each text in a line."""
MAXIMUM_LINE: Final = 1 << 20
"""Bytes of a line: 200 checks of five texts, in UTF-8, fit."""

_ACCEPT_AGAIN = 0.5
"""Seconds until the next attempt when nothing can be accepted (no descriptor is left)."""
_CREDENTIALS = struct.Struct("3i")


@dataclass
class Counters:
    """What happened since the start."""

    accepted: int = 0
    refused: int = 0
    """Readers for whom there was no place."""
    dropped_slow: int = 0
    dropped_speaking: int = 0
    """Readers that sent something."""
    lines: int = 0

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


def line(report: Report) -> bytes:
    """A report as the socket tells it: one line of JSON, at most `MAXIMUM_LINE` bytes."""
    cut = report.model_copy(
        update={
            "technology": _text(report.technology),
            "network": _text(report.network),
            "support_email": _text(report.support_email),
            "checks": tuple(_cut(check) for check in report.checks),
        }
    )
    data = {"version": VERSION, "word": word(report.status).value, **cut.as_dict()}
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def listen(path: Path) -> socket.socket:
    """The listening socket, mode 0666, in a directory of its own that everybody enters and only its owner changes.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.parent.chmod(0o755)  # whatever the umask made of it
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(MAXIMUM_READERS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise not_written(path, error) from None
    return listener


@dataclass(eq=False)
class _Reader:
    """One connection."""

    connection: socket.socket
    user: int
    lines: asyncio.Queue[bytes]
    half_closed: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Feed:
    """Tells readers what changes. Belongs to the running loop's thread.

    Args:
        listener: from `listen`; the feed closes it.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        maximum: int = MAXIMUM_READERS,
        per_user: int = MAXIMUM_PER_USER,
        backlog: int = BACKLOG,
    ) -> None:
        self.counters = Counters()
        self._listener = listener
        self._maximum = maximum
        self._per_user = per_user
        self._backlog = backlog
        self._line: bytes | None = None
        self._readers: dict[_Reader, None] = {}
        self._users: Counter[int] = Counter()
        self._accepting = asyncio.create_task(self._accept(), name="status socket")

    @property
    def readers(self) -> int:
        return len(self._readers)

    def status(self) -> dict[str, Any]:
        """Readers now, and the counters."""
        return {"readers": self.readers, **self.counters.as_dict()}

    def tell(self, line: bytes) -> None:
        """Gives every reader a line, unless it is the one they have."""
        if line == self._line:
            return
        self._line = line
        self.counters.lines += 1
        for reader in tuple(self._readers):
            self._give(reader, line)

    async def close(self) -> None:
        """Ends everything."""
        tasks = [self._accepting, *(task for reader in self._readers for task in reader.tasks)]
        for reader in tuple(self._readers):
            self._drop(reader)
        self._accepting.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("status socket accept: %s", error)
                await asyncio.sleep(_ACCEPT_AGAIN)
                continue
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        user = _user(connection)
        if not self._has_place(user):
            self._sweep()
        if not self._has_place(user):
            self.counters.refused += 1
            connection.close()
            return
        self.counters.accepted += 1
        connection.setblocking(False)
        reader = _Reader(connection, user, asyncio.Queue(self._backlog))
        self._readers[reader] = None
        self._users[user] += 1
        reader.tasks = [asyncio.create_task(self._write(reader)), asyncio.create_task(self._listen_to(reader))]
        if self._line is not None:
            self._give(reader, self._line)

    def _has_place(self, user: int) -> bool:
        return len(self._readers) < self._maximum and self._users[user] < self._per_user

    def _give(self, reader: _Reader, line: bytes) -> None:
        try:
            reader.lines.put_nowait(line)
        except asyncio.QueueFull:
            self.counters.dropped_slow += 1
            self._drop(reader)

    async def _write(self, reader: _Reader) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await loop.sock_sendall(reader.connection, await reader.lines.get())
        except OSError:
            self._drop(reader)

    async def _listen_to(self, reader: _Reader) -> None:
        """Learns that a reader has gone, and that one says something."""
        try:
            said = await asyncio.get_running_loop().sock_recv(reader.connection, 1)
        except OSError:
            said = b""
        if said:
            self.counters.dropped_speaking += 1
            self._drop(reader)
        elif _gone(reader.connection):
            self._drop(reader)
        else:
            reader.half_closed = True  # it says nothing more and may read on: nc -N, a shell without input

    def _sweep(self) -> None:
        """Lets go of readers that closed their second half too; of that nobody tells."""
        for reader in [reader for reader in self._readers if reader.half_closed and _gone(reader.connection)]:
            self._drop(reader)

    def _drop(self, reader: _Reader) -> None:
        if reader not in self._readers:
            return
        del self._readers[reader]
        self._users[reader.user] -= 1
        if not self._users[reader.user]:
            del self._users[reader.user]
        current = asyncio.current_task()
        for task in reader.tasks:
            if task is not current:
                task.cancel()
        # The loop still watches the descriptor for a task that is cancelled at its next step; it must let go first.
        loop = asyncio.get_running_loop()
        loop.remove_reader(reader.connection)
        loop.remove_writer(reader.connection)
        reader.connection.close()


def _user(connection: socket.socket) -> int:
    size = _CREDENTIALS.size
    return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def _gone(connection: socket.socket) -> bool:
    """Whether the peer has closed both directions."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def _cut(check: Check) -> Check:
    texts = {name: _text(getattr(check, name)) for name in ("name", "detail", "cause", "resolution")}
    return check.model_copy(update=texts)


def _text(text: str) -> str:
    """One line of printable text; a word from a server or a resolver may hold anything."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= MAXIMUM_TEXT else clean[: MAXIMUM_TEXT - 1] + "…"
