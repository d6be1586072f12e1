"""Which HTTP status an error has."""

from __future__ import annotations

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
from portico.server.agent import ApplyFailed
from portico.settings.problems import SettingsRefused

STATUSES: Final[tuple[tuple[type[PorticoError], int], ...]] = (
    (SettingsRefused, 422),
    (InvalidInput, 400),
    (NotPermitted, 403),
    (NotFound, 404),
    (Conflict, 409),
    (LimitReached, 429),
    (ApplyFailed, 500),
    (Unavailable, 503),
)


def status_of(error: PorticoError) -> int:
    """The status; 500 for an error of no kind that a caller could do something about."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
