"""Exit codes of every command. They are API: scripts depend on them."""

from __future__ import annotations

from enum import IntEnum

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError, Unavailable


class ExitCode(IntEnum):
    """What the exit status of a `portico` command means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """The settings were refused: verification found problems."""
    NO_ANSWER = 4
    """The agent or the server does not answer."""
    NOT_PERMITTED = 5
    NOT_FOUND = 6
    CONFLICT = 7


HELP = (
    "Exit status: 0 done; 1 failed; 2 usage; 3 settings refused; 4 no answer from the agent or server; "
    "5 not permitted; 6 not found; 7 conflict."
)

SETTINGS_REFUSED = "SETTINGS_REFUSED"
"""Code of the error that carries the problems `verify` found."""

_BY_CODE = {
    SETTINGS_REFUSED: ExitCode.REFUSED,
    "UNAVAILABLE": ExitCode.NO_ANSWER,
    "NOT_PERMITTED": ExitCode.NOT_PERMITTED,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "CONFLICT": ExitCode.CONFLICT,
}

_BY_CLASS: tuple[tuple[type[PorticoError], ExitCode], ...] = (
    (Unavailable, ExitCode.NO_ANSWER),
    (NotPermitted, ExitCode.NOT_PERMITTED),
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.CONFLICT),
    (InvalidInput, ExitCode.FAILED),
)


def exit_code(error: PorticoError) -> ExitCode:
    """The exit status for an error, by its code first (errors that crossed the API keep only that), then its class."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED
