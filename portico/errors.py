"""Errors as an administrator reads them: what happened, why, what to do next.

Every error that can reach a person derives from `PorticoError`. Its code is API: stable, documented, never reused.
"""

from __future__ import annotations

from typing import Any


class PorticoError(Exception):
    """A failure with a stable code, a cause and a resolution.

    Args:
        what: what could not be done, one sentence without a full stop.
        why: the cause, as found (an error of the system, a value that was refused).
        resolution: what the reader does next; a command wherever one exists.
        code: overrides the class's code where one class covers several cases.
    """

    code = "PORTICO_ERROR"

    def __init__(self, what: str, *, why: str = "", resolution: str = "", code: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.resolution = resolution
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        if self.resolution:
            text += f". {self.resolution}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """The error as the API and `--json` show it."""
        return {"code": self.code, "what": self.what, "why": self.why, "resolution": self.resolution}


class InvalidInput(PorticoError):
    """A file, flag, field or message that cannot be what it claims to be."""

    code = "INVALID_INPUT"


class NotFound(PorticoError):
    """The named thing does not exist."""

    code = "NOT_FOUND"


class NotPermitted(PorticoError):
    """The caller lacks the privilege or the identity."""

    code = "NOT_PERMITTED"


class Conflict(PorticoError):
    """Somebody changed the thing first, or it is in a state that forbids the change."""

    code = "CONFLICT"


class Unavailable(PorticoError):
    """A process, server or device that should answer does not."""

    code = "UNAVAILABLE"


class LimitReached(PorticoError):
    """A table or queue is full; nothing was changed."""

    code = "LIMIT_REACHED"
