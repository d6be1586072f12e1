"""The states a component can be in, and how several become one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class HealthState(StrEnum):
    """The words of `Get-RemoteAccessHealth` (HealthState)."""

    OK = "OK"
    WARNING = "Warning"
    """It works, and somebody should look before it does not."""
    ERROR = "Error"
    """Clients or administrators lack something now."""
    UNKNOWN = "Unknown"
    """It could not be looked at."""
    DISABLED = "Disabled"
    """The settings do not enable it."""


_RANK: Final = {
    HealthState.DISABLED: 0,
    HealthState.OK: 1,
    HealthState.UNKNOWN: 2,
    HealthState.WARNING: 3,
    HealthState.ERROR: 4,
}


def rank(state: HealthState) -> int:
    """Larger is worse."""
    return _RANK[state]


def worst(states: Iterable[HealthState]) -> HealthState:
    """The roll-up: red over yellow over unknown over green. Disabled ones do not count; nothing else gives Disabled."""
    return max(states, key=rank, default=HealthState.DISABLED)
