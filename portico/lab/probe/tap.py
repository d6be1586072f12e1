"""Listens on the switch to what each server answers: whose port a frame came in through is beyond doubt."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import threading
from types import TracebackType
from typing import Self

from portico.errors import InvalidInput
from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.links import SWITCH, port
from portico.lab.probe import wire
from portico.lab.probe.core import Answers
from portico.lab.state import LabState

SNAP = 160
"""Bytes of a frame that are looked at: the headers and a question."""

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER = 16 << 20


class Tap:
    """Counts answers of servers while the block runs.

    A server that loses its power and comes back is still counted: ports are known by name.

    Args:
        servers: names of hosts.
        network: on which of their networks to listen.
        expression: which frames, in the language of tcpdump: `udp src port 7000`, `tcp src port 443`.

    Attributes:
        answers: the count. Read it after the block: then nothing is under way.
        missed: frames the kernel could not keep for us; with any, the count is not complete.

    Raises:
        InvalidInput: the expression is none.
    """

    def __init__(self, state: LabState, servers: list[str], network: str, expression: str) -> None:
        self.answers = Answers()
        self.missed = 0
        self._state = state
        self._ports = {
            port(host.name, card.name): host.name
            for host, card in state.topology.cards(network)
            if host.name in servers
        }
        self._filter = _compiled(expression)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        with Host(self._state, SWITCH).network():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setblocking(False)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        program = ctypes.create_string_buffer(self._filter)
        head = struct.pack("HxxxxxxP", len(self._filter) // 8, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
        while self._frame() is not None:
            continue  # what came before there was a filter
        self._statistics()
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="tap", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stopping)
        assert self._thread is not None
        self._thread.join()
        os.close(self._stop)
        self.missed += self._statistics()
        self._socket.close()
        if self._failure is not None:
            raise self._failure

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Waits until servers have given that many answers.

        Raises:
            NeverHappened: not in time.
        """
        wait.until(f"{count} answers", lambda: sum(self.answers.by_server.values()) >= count, timeout=timeout)

    def _listen(self) -> None:
        try:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), self._stop], [], [])
                while (received := self._frame()) is not None:
                    self._count(*received)
                if self._stop in ready:
                    return
        except BaseException as failure:
            self._failure = failure

    def _frame(self) -> tuple[bytes, str] | None:
        while True:
            try:
                frame, address = self._socket.recvfrom(SNAP)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                continue  # an interface vanished: a power cut
            return frame, str(address[0])

    def _count(self, frame: bytes, name: str) -> None:
        server = self._ports.get(name)
        found = wire.answer(frame) if server is not None else None
        if server is None or found is None:
            return
        if isinstance(found, wire.Datagram):
            self.answers.answered((found.client, found.number), server)
        elif found.accepts is not None:
            self.answers.answered((found.flow, found.accepts), server)
            self.answers.began(found.flow, server)
        else:
            self.answers.spoke(found.flow, server)

    def _statistics(self) -> int:
        """Frames missed since the last call."""
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(dropped)


def _compiled(expression: str) -> bytes:
    """A filter as the kernel takes it: 8 bytes an instruction."""
    result = subprocess.run(
        ["tcpdump", "-y", "EN10MB", "-s", str(SNAP), "-ddd", *expression.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise InvalidInput(
            f"{expression!r} is no capture filter", why=result.stderr.strip(), resolution="See pcap-filter(7)"
        )
    lines = [tuple(map(int, line.split())) for line in result.stdout.splitlines()[1:]]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
