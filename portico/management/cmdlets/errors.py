"""Errors of cmdlet lines, in PowerShell's words and with the place in the text. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portico.errors import InvalidInput, PorticoError


@dataclass(frozen=True)
class Place:
    """Where something stands in the script: line and character, both from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line:{self.line} char:{self.column}"


class CmdletError(InvalidInput):
    """A line that cannot be read, bound or run as it is written.

    Args:
        what: PowerShell's own words where it has some, without the full stop.
        error_id: what PowerShell calls FullyQualifiedErrorId.
        place: where in the text; None when the text is not to blame.
    """

    code = "CMDLET_ERROR"

    def __init__(
        self,
        what: str,
        *,
        code: str,
        error_id: str = "",
        place: Place | None = None,
        why: str = "",
        resolution: str = "",
    ) -> None:
        self.place = place
        self.error_id = error_id
        at = f"at {place}" if place is not None else ""
        super().__init__(what, why=", ".join(part for part in (why, at) if part), resolution=resolution, code=code)

    def as_dict(self) -> dict[str, Any]:
        found = {**super().as_dict(), "error_id": self.error_id or None}
        if self.place is not None:
            found |= {"line": self.place.line, "column": self.place.column}
        return found


class IncompleteScript(CmdletError):
    """The text ends within something that was begun; more lines could complete it."""


class NotBuilt(PorticoError):
    """A cmdlet or parameter that Windows has, and whose feature Portico does not have. Nothing was changed."""

    code = "CMDLET_NOT_BUILT"


def not_built(what: str, feature: str, *, resolution: str = "") -> NotBuilt:
    """The error for `what` (`-TeredoState Enabled`), which needs `feature` (`Teredo`)."""
    return NotBuilt(
        f"{what} cannot be used",
        why=f"{feature} is not built into this version of Portico; nothing was changed",
        resolution=resolution or "docs/cmdlets.md lists what can be used",
    )
