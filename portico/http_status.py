"""Errors over HTTP: which status an error has, and what an error with a status was. One table for every listener.

The API, the peers' channel, the requests of remote computers and the client's control socket all answer with it, and
their callers make the error anew from it: {"error": {code, what, why, resolution}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from portico.errors import (
    Conflict,
    InvalidInput,
    LimitReached,
    NotFound,
    NotPermitted,
    PorticoError,
    Unavailable,
)
from portico.settings.problems import SettingsRefused

STATUSES: Final[tuple[tuple[type[PorticoError], int], ...]] = (
    (SettingsRefused, 422),
    (InvalidInput, 400),
    (NotPermitted, 403),
    (NotFound, 404),
    (Conflict, 409),
    (LimitReached, 429),
    (Unavailable, 503),
)
"""The first that fits holds."""

_KINDS: Final[Mapping[int, type[PorticoError]]] = {
    **{status: kind for kind, status in STATUSES},
    401: NotPermitted,
    413: LimitReached,
    422: InvalidInput,  # its problems are made anew by who can read them
}


def status_of(error: PorticoError, otherwise: int = 500) -> int:
    """The status; `otherwise` for an error of no kind that a caller could do something about."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), otherwise)


def kind_of(status: int, otherwise: type[PorticoError] = PorticoError) -> type[PorticoError]:
    """What an error with this status is; `otherwise` for a status of no kind."""
    return _KINDS.get(status, otherwise)
