"""Requests to the API, over a Unix socket or any httpx transport. Errors come out as the PorticoError they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from portico.errors import (
    NotPermitted,
    PorticoError,
    Unavailable,
)
from portico.files import whole_file
from portico.http_status import kind_of

PAGE: Final = 1000
"""Entries of a list asked for at a time."""


class ApiClient:
    """Speaks to one agent. A context manager.

    Args:
        path: the agent's socket.
        what: names the agent in errors: "Portico server".
        start: what starts it, for the resolution.
        timeout: seconds for an answer; applying settings takes a while.
        transport: how the server is reached; None is its Unix socket.
        auth: what identifies the caller there, for transports other than the socket.
    """

    def __init__(
        self,
        path: Path,
        *,
        what: str = "Portico server",
        start: str = "portico server start",
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
        auth: httpx.Auth | None = None,
    ) -> None:
        self._path = path
        self._what = what
        self._start = start
        self._http = httpx.Client(
            transport=transport if transport is not None else httpx.HTTPTransport(uds=str(path)),
            auth=auth,
            base_url="http://portico",
            timeout=httpx.Timeout(timeout, connect=5.0),
        )

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to a GET; parameters that are None are left out."""
        return self._call("GET", path, params={key: value for key, value in query.items() if value is not None})

    def entries(self, path: str, key: str, **query: Any) -> Iterator[Any]:
        """The entries of a list that comes in pages, all of them, page after page.

        Args:
            key: where a page has its entries; `next` beside it is asked for as `after`.
        """
        after: Any = None
        while True:
            page = self.get(path, **{"limit": PAGE, **query, "after": after})
            yield from page[key]
            after = page["next"]
            if after is None:
                return

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer to a POST."""
        return self._call("POST", path, json=body if body is not None else {})

    def lines(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The JSON objects of an answer that comes line by line, each as soon as it is there."""
        try:
            with self._http.stream(method, path, json=body) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._error(answer.status_code, self._data(answer))
                for line in answer.iter_lines():
                    data = json.loads(line)
                    if "error" in data:
                        raise self._error(int(data.get("status", 500)), data)
                    yield data
        except (httpx.HTTPError, ValueError) as error:
            raise self._broken(error) from None

    def save(self, path: str, file: Path) -> int:
        """Writes the answer to a GET into a file of mode 0600, whole or not at all; returns how many bytes it has.

        Raises:
            PorticoError: as the server answered, or the file cannot be written.
        """
        try:
            with whole_file(file) as target, self._http.stream("GET", path) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._error(answer.status_code, self._data(answer))
                for piece in answer.iter_bytes():
                    target.write(piece)
                return target.tell()
        except httpx.HTTPError as error:
            raise self._broken(error) from None

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._broken(error) from None
        data = self._data(answer)
        if answer.is_success:
            return data
        raise self._error(answer.status_code, data)

    @staticmethod
    def _data(answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            return None

    def _broken(self, error: Exception) -> PorticoError:
        """Why there is no whole answer."""
        if isinstance(error, httpx.ConnectError):
            return self._no_answer(error)
        if isinstance(error, httpx.TimeoutException):
            return Unavailable(
                f"The {self._what} does not answer",
                why="no answer in time",
                resolution="Look at its log: journalctl -u portico-server",
            )
        return Unavailable(
            f"The {self._what} broke the connection", why=str(error), resolution="Try again; look at its log"
        )

    def _error(self, status: int, data: Any) -> PorticoError:
        fields = data.get("error") if isinstance(data, dict) else None
        if not isinstance(fields, dict):
            return Unavailable(f"The {self._what} failed", why=f"HTTP status {status}")
        error = kind_of(status)(
            str(fields.get("what", "")),
            why=str(fields.get("why", "")),
            resolution=str(fields.get("resolution", "")),
            code=str(fields.get("code", "UNKNOWN")),
        )
        if isinstance(fields.get("problems"), list):
            error.problems = fields["problems"]  # type: ignore[attr-defined]
        return error

    def _no_answer(self, error: Exception) -> PorticoError:
        text = str(error)
        if "Permission denied" in text:
            return NotPermitted(
                f"Cannot talk to the {self._what}",
                why=f"{self._path}: permission denied",
                resolution="Run as root, for example with sudo",
            )
        why = "it does not run" if not self._path.exists() else f"{self._path}: {text}"
        return Unavailable(f"The {self._what} does not answer", why=why, resolution=f"Start it: {self._start}")
