"""A DNS server that sends its clients to TCP and there does what the first label of the question says."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

LARGE = 240
"""Records of 250 bytes in the answer to a question about `large`: nearly as much as TCP carries."""


class FakeServer:
    """By UDP every answer is "ask by TCP", but to names under `datagram`, which get theirs at once."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self.asked: list[str] = []
        """First labels that were asked by TCP, in order."""
        self.busy = 0
        """Connections on which something is being done about a question."""
        self._open: list[socket.socket] = []
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        for end in (self.listener, self.datagrams, *self._open):
            # A thread that waits in a call does not notice that its socket is closed.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self.datagrams.recvfrom(4096)
                if not query:
                    return
                answer = respond(query)
                if b"datagram" not in query.lower():
                    answer = respond(query, truncated=True)
                self.datagrams.sendto(answer, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            for query in messages(connection):
                label = query[13 : 13 + query[12]].decode().lower().split("-")[0]
                self.asked.append(label)
                behave = BEHAVIOURS.get(label, answer_well)
                self.busy += 1
                try:
                    behave(connection, query)
                finally:
                    self.busy -= 1


def messages(connection: socket.socket) -> Iterator[bytes]:
    """The messages of a TCP connection (RFC 1035 section 4.2.2) until its end."""

    def exactly(length: int) -> bytes:
        data = b""
        while len(data) < length:
            got = connection.recv(length - len(data))
            if not got:
                raise EOFError
            data += got
        return data

    while True:
        yield exactly(struct.unpack("!H", exactly(2))[0])


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def respond(query: bytes, *, truncated: bool = False) -> bytes:
    """A TXT record, or many, or none and TC, without an OPT record."""
    end = query.index(b"\0", 12) + 5
    large = query[13:18].lower() == b"large"
    texts = [] if truncated else [b"x" * 249] * LARGE if large else [b"honest"]
    records = [struct.pack("!HHHIHB", 0xC00C, 16, 1, 300, len(text) + 1, len(text)) + text for text in texts]
    head = query[:2] + struct.pack("!5H", 0x8380 if truncated else 0x8180, 1, len(records), 0, 0)
    return head + query[12:end] + b"".join(records)


def answer_well(connection: socket.socket, query: bytes) -> None:
    connection.sendall(framed(respond(query)))


def zero(connection: socket.socket, _query: bytes) -> None:
    connection.sendall(b"\0\0")


def short(connection: socket.socket, query: bytes) -> None:
    connection.sendall(framed(query[:11]))


def trickle(connection: socket.socket, query: bytes) -> None:
    """As long as can be promised, a byte at a time, for as long as anybody listens."""
    connection.sendall(b"\xff\xff" + query[:2])
    connection.settimeout(0.02)
    while True:
        connection.sendall(b"\0")
        with contextlib.suppress(TimeoutError):
            if not connection.recv(4096):
                return


def cut(connection: socket.socket, query: bytes) -> None:
    answer = framed(respond(query))
    connection.sendall(answer[: len(answer) // 2])
    raise EOFError


def wrong_id(connection: socket.socket, query: bytes) -> None:
    answer = respond(query)
    connection.sendall(framed(bytes([answer[0] ^ 1]) + answer[1:]))


def wrong_question(connection: socket.socket, query: bytes) -> None:
    answer = bytearray(respond(query))
    answer[13] ^= 1
    connection.sendall(framed(bytes(answer)))


def twice(connection: socket.socket, query: bytes) -> None:
    connection.sendall(2 * framed(respond(query)))


def silent(_connection: socket.socket, _query: bytes) -> None:
    pass


def reset(connection: socket.socket, _query: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError


def garbage_first(connection: socket.socket, query: bytes) -> None:
    noise = b"".join(framed(bytes([query[0] ^ number]) + os.urandom(50)) for number in range(1, 9))
    connection.sendall(noise + framed(respond(query)))


def flood(connection: socket.socket, query: bytes) -> None:
    stray = framed(bytes([query[0] ^ 1]) + query[1:])
    while True:
        connection.sendall(100 * stray)


def truncated(connection: socket.socket, query: bytes) -> None:
    connection.sendall(framed(respond(query, truncated=True)))


BEHAVIOURS = {
    "zero": zero,
    "short": short,
    "trickle": trickle,
    "cut": cut,
    "wrongid": wrong_id,
    "wrongquestion": wrong_question,
    "twice": twice,
    "silent": silent,
    "reset": reset,
    "garbage": garbage_first,
    "flood": flood,
    "truncated": truncated,
}
