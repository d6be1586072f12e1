"""What the connectivity assistant found: one `Report`, replaced as a whole whenever something in it changes.

Status and sub-status have the names that `Get-DAConnectionStatus` shows. `Report.as_dict` is the form of the control
socket (key `assistant` of the status) and `Report.from_dict` reads it; a report of an older or newer program is read as
far as it is understood. Nothing in it is secret.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from portico.client.status import Status, Substatus


class Place(StrEnum):
    """Where this computer is, as far as it is proven."""

    INSIDE = "inside"
    """The network location server has answered on the network as it is now."""
    OUTSIDE = "outside"
    UNKNOWN = "unknown"
    """No network, or not asked yet."""


class State(StrEnum):
    """How a check stands."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It was not made; `Check.detail` says why."""
    RUNNING = "running"


class Who(StrEnum):
    """Who can put right what a check found."""

    USER = "user"
    ADMINISTRATOR = "administrator"
    NETWORK = "network"
    """Whoever runs the network that this computer is in: a hotel, a provider."""


class Check(BaseModel):
    """One link of the chain. Checks are shown in the order of the report; the first that failed explains the others.

    Attributes:
        name: for people and unique in a report, as `network location server` or `probe HTTP:http://intra.example/`.
        detail: what was found, or why it was skipped.
        cause, resolution, who: only of a check that failed.
        since: when it came to its state.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str
    state: State
    detail: str = ""
    cause: str = ""
    resolution: str = ""
    who: Who | None = None
    since: AwareDatetime


class Report(BaseModel):
    """Everything that was found.

    Attributes:
        since: when it came to its place, status and sub-status.
        technology: the transition technology in use as the field writes it (`IPHTTPS`); `None` for none.
        network: the network this computer is in, for people: interface, own address and gateway; empty without one.
        support_email: whom a user may write to; empty when the administrator gave none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    place: Place
    status: Status
    substatus: Substatus
    since: AwareDatetime
    technology: str = "None"
    checks: tuple[Check, ...] = Field(default=(), max_length=200)
    network: str = ""
    support_email: str = ""

    @property
    def failed(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.state is State.FAILED), None)

    def as_dict(self) -> dict[str, Any]:
        """The form of the control socket: plain JSON values, times in ISO 8601 with UTC."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: object) -> Report:
        """Reads what `as_dict` made. Raises pydantic.ValidationError, a ValueError."""
        return cls.model_validate(data)
