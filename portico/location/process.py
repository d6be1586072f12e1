"""The process of the pages: `python -m portico.location.process CONTROL_FD`, or `--connect PATH` from its unit.

It has listening sockets, one certificate with its key, and nothing else of the server: no file, no capability. A new
certificate means a new process; the sockets stay open in the agent meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from portico import native_process
from portico.location.availability import Availability
from portico.location.pages import Site
from portico.location.service import Service

T = TypeVar("T")

_ANSWER_TIMEOUT = 5.0


class Pages:
    """The service on a loop in a thread of its own. See `portico.native_process.Native`.

    Args:
        chain, key: PEM of the network location server's certificate; None without one.
        listeners: descriptors of listening sockets by site.

    Raises:
        ValueError: certificate and key cannot be used.
    """

    def __init__(self, chain: str | None, key: str | None, listeners: Mapping[Site, Sequence[int]]) -> None:
        context = _context(chain, key) if chain is not None and key is not None else None
        if listeners.get(Site.NLS) and context is None:
            raise ValueError("the network location server has no certificate")
        self._service = Service(context)
        self._loop = asyncio.new_event_loop()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
        self._thread.start()
        sockets = [(site, socket.socket(fileno=fd)) for site, fds in listeners.items() for fd in fds]
        self._call(lambda: self._listen(sockets))

    def say(self, said: Availability) -> None:
        """Whether clients can be served."""
        self._call(lambda: self._service.say(said))

    def stats(self) -> dict[str, Any]:
        """Counters, and what the web probe says."""

        def read() -> dict[str, Any]:
            said = self._service.availability()
            return {
                **self._service.counters.as_dict(),
                "connections": self._service.connections,
                "available": said.available,
                **said.as_dict(),
            }

        return self._call(read)

    def next_events(self, timeout: float) -> list[str]:
        """There are none: the agent asks for the counters."""
        self._ended.wait(timeout)
        return []

    def close(self) -> None:
        self._ended.set()
        asyncio.run_coroutine_threadsafe(self._service.close(), self._loop).result(_ANSWER_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_TIMEOUT)

    def _listen(self, sockets: Sequence[tuple[Site, socket.socket]]) -> None:
        for site, listener in sockets:
            self._service.listen(site, listener)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Callable[[], T]) -> T:
        """Does something on the loop's thread. A loop that hangs makes the agent end this process."""
        done: Future[T] = Future()

        def carry_out() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(carry_out)
        return done.result(_ANSWER_TIMEOUT)


def _context(chain: str, key: str) -> ssl.SSLContext:
    """A server context from PEM text. OpenSSL's binding reads files only: one in memory that nobody else opens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    descriptor = os.memfd_create("nls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(chain.encode() + b"\n" + key.encode())
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"the certificate of the network location server cannot be used: {error}") from None
    return context


def start(config: str, fds: Mapping[str, Sequence[int]]) -> Pages:
    """Makes the service from the first line of the channel."""
    settings = json.loads(config)
    listeners = {site: list(fds.get(site.value, ())) for site in Site}
    pages = Pages(settings.get("chain"), settings.get("key"), listeners)
    if isinstance(said := settings.get("availability"), Mapping):
        pages.say(Availability.from_dict(said))
    return pages


def _say(pages: Pages, message: Mapping[str, Any]) -> None:
    pages.say(Availability.from_dict(message["availability"]))


def _stats(pages: Pages, _message: Mapping[str, Any]) -> object:
    return pages.stats()


OPERATIONS: Mapping[str, native_process.Operation | native_process.Slow] = {"say": _say, "stats": _stats}


if __name__ == "__main__":
    # Its error messages would come from modules that are first loaded when they are needed, behind the filter.
    import encodings.idna  # noqa: F401

    sys.exit(native_process.main(start, OPERATIONS))
