"""Reads the status socket, as any user of this computer may."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from portico.client.assistant.report import Report
from portico.client.surface.feed import MAXIMUM_LINE
from portico.errors import InvalidInput, LimitReached, PorticoError, Unavailable
from portico.paths import client_status_socket

_NEWER = "Install the same version of Portico's program and agent, and restart: systemctl restart portico-client"


def read(path: Path | None = None, *, patience: float = 5.0) -> Report:
    """How it stands now.

    Args:
        patience: seconds for the whole of it.

    Raises:
        Unavailable: code AGENT_NOT_RUNNING, nobody answers.
        LimitReached: the socket has as many readers as it takes.
        InvalidInput: what came is no report.
    """
    place = client_status_socket() if path is None else path
    try:
        data = _line(place, time.monotonic() + patience)
    except TimeoutError:
        raise _not_running(place, f"it says nothing within {patience:g} s") from None
    except OSError as error:
        raise _not_running(place, str(error)) from None
    if not data:
        raise LimitReached(
            "The client's agent does not tell its status",
            why=f"{place} was closed without a word: it has as many readers as it takes, or the agent is stopping",
            resolution="Close programs that show the status, or ask as root: sudo portico client status",
        )
    try:
        return Report.from_dict(json.loads(data))
    except ValueError as error:
        raise InvalidInput(f"What {place} says is no status", why=str(error), resolution=_NEWER) from None


def _line(place: Path, deadline: float) -> bytes:
    """The first line; empty when the other side ends before it. Raises OSError."""
    data = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_left(deadline))
        connection.connect(str(place))
        while b"\n" not in data and len(data) <= MAXIMUM_LINE:
            connection.settimeout(_left(deadline))
            part = connection.recv(1 << 16)
            if not part:
                return b""
            data += part
    return bytes(data).partition(b"\n")[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _not_running(place: Path, why: str) -> PorticoError:
    return Unavailable(
        "The client's agent does not answer",
        why=f"{place}: {why}",
        resolution="Start it: systemctl start portico-client (or in the foreground: portico client run)",
        code="AGENT_NOT_RUNNING",
    )
