"""The HTTP of the pages: one request, one answer, then the connection ends. Sans-IO.

Bytes in, a request out; an answer in, bytes out. Nothing that a peer sends is kept beyond `MAXIMUM_HEAD`, and a body is
never read: the pages need none. The clock is the caller's: `deadline` says when a peer that has not finished its
request has had its time (a slow one keeps a place from others).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11

MAXIMUM_HEAD: Final = 8192
"""Bytes of a request line and headers."""

PATIENCE: Final = 5.0
"""Seconds from the connection's first moment, TLS included, until the request must be complete."""

MAXIMUM_TARGET: Final = 2048


@dataclass(frozen=True)
class Request:
    """What was asked for. The target is its path without the query, as it was sent."""

    method: str
    path: str
    host: str


@dataclass(frozen=True)
class Answer:
    """A page."""

    status: int
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Exchange:
    """One connection's request and answer.

    Args:
        now: seconds on the caller's clock at which the connection began.
    """

    def __init__(self, now: float, patience: float = PATIENCE) -> None:
        self.deadline = now + patience
        self.request: Request | None = None
        self.refusal: Answer | None = None
        """The answer to what was no request; `request` is None then."""
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM_HEAD)

    @property
    def complete(self) -> bool:
        """Whether enough was read to answer."""
        return self.request is not None or self.refusal is not None

    def receive(self, data: bytes) -> None:
        """Takes bytes of the peer; empty when it has sent its last one. Nothing counts after `complete`."""
        if self.complete:
            return
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            self.refusal = refusal(HTTPStatus(_known(error.error_status_hint)))
            return
        if isinstance(event, h11.Request):
            self._take(event)

    def expired(self, now: float) -> bool:
        """Whether the peer has had its time without finishing its request."""
        return not self.complete and now >= self.deadline

    def answer(self, page: Answer, date: str) -> bytes:
        """The bytes of an answer; the connection is to be closed behind them.

        Args:
            date: of the Date header (RFC 9110 section 6.6.1).
        """
        bodiless = self.request is not None and self.request.method == "HEAD"
        status = HTTPStatus(page.status)
        headers = {
            "Date": date,
            "Server": "Portico",
            "Content-Type": page.content_type,
            "Content-Length": str(len(page.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **page.headers,
        }
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return head.encode("latin-1") + b"\r\n" + (b"" if bodiless else page.body)

    def _take(self, event: h11.Request) -> None:
        method, target = event.method.decode("ascii", "replace"), event.target
        if len(target) > MAXIMUM_TARGET:
            self.refusal = refusal(HTTPStatus.REQUEST_URI_TOO_LONG)
            return
        if method not in ("GET", "HEAD"):
            self.refusal = refusal(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
            return
        host = next((value for name, value in event.headers if name == b"host"), b"")
        path = target.decode("ascii", "replace").partition("?")[0]
        self.request = Request(method, path, host.decode("ascii", "replace"))


def refusal(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Answer:
    """The answer to what was no proper request."""
    return Answer(status, f"{status.value} {status.phrase}\n".encode(), "text/plain; charset=utf-8", headers or {})


def _known(status: int) -> int:
    return status if status in HTTPStatus._value2member_map_ else HTTPStatus.BAD_REQUEST
