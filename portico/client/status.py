"""How it stands, in the words of the field: connection status and sub-status, IP-HTTPS interface status and code.

Status and sub-status have the names `Get-DAConnectionStatus` shows; the interface's text and code are those of
`netsh interface httpstunnel show interfaces`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The answer in one word."""

    CONNECTED_REMOTELY = "ConnectedRemotely"
    CONNECTED_LOCALLY = "ConnectedLocally"
    CONNECTING = "Connecting"
    ACTIONABLE_ERROR = "ActionableError"
    """Whoever sits at this computer can do something about it."""
    ERROR = "Error"
    DISCONNECTED = "Disconnected"
    """As asked for."""
    NOT_ENROLLED = "NotEnrolled"


class Substatus(StrEnum):
    """The reason behind `Status`."""

    NONE = "None"
    INTERNET_CONNECTIVITY_DOWN = "InternetConnectivityDown"
    COULD_NOT_CONTACT_SERVER = "CouldNotContactDirectAccessServer"
    NAME_RESOLUTION_FAILURE = "NameResolutionFailure"
    AUTHENTICATION_FAILURE = "RemoteNetworkAuthenticationFailure"


NO_CERTIFICATE = 0x103
"""IP-HTTPS error: no usable certificate found."""
NO_SUCH_HOST = 0x2AF9
NO_HOST_DATA = 0x2AFC

INTERFACE_ACTIVE = "IPHTTPS interface active"
DEACTIVATED = "IPHTTPS interface deactivated"
"""Inside the corporate network."""
WAITING = "Failed to connect to the IPHTTPS server. Waiting to reconnect"


@dataclass(frozen=True)
class Failure:
    """The last error: the field's code, its text, and when (seconds since the epoch)."""

    code: int
    text: str
    at: float

    @property
    def hexadecimal(self) -> str:
        """The code as the field writes it."""
        return f"0x{self.code:X}"


@dataclass(frozen=True)
class Facts:
    """What the status is derived from.

    Attributes:
        link: the child's state: disabled, link_down, established or link_up; empty before it has said anything.
        reachable: whether this computer has a path towards the server; None when that is not known.
        problem: what keeps the agent from trying at all.
    """

    enrolled: bool
    wish: bool
    link: str = ""
    addresses: tuple[str, ...] = ()
    reachable: bool | None = None
    failure: Failure | None = None
    problem: str = ""
    certificate_valid: bool = True


def derive(facts: Facts) -> tuple[Status, Substatus]:
    """Status and sub-status. Pure."""
    if not facts.enrolled:
        return Status.NOT_ENROLLED, Substatus.NONE
    if not facts.wish:
        return Status.DISCONNECTED, Substatus.NONE
    if facts.problem:
        return Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER
    if facts.link == "link_up":
        return (Status.CONNECTED_REMOTELY if facts.addresses else Status.CONNECTING), Substatus.NONE
    if facts.reachable is False:
        return Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN
    if not facts.certificate_valid or (facts.failure is not None and facts.failure.code == NO_CERTIFICATE):
        return Status.ERROR, Substatus.AUTHENTICATION_FAILURE
    if facts.failure is None:
        return Status.CONNECTING, Substatus.NONE
    if facts.failure.code in (NO_SUCH_HOST, NO_HOST_DATA):
        return Status.ERROR, Substatus.NAME_RESOLUTION_FAILURE
    return Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER


def interface_text(facts: Facts) -> str:
    """The IP-HTTPS interface's text, as netsh prints it."""
    if facts.link == "link_up":
        return INTERFACE_ACTIVE
    if facts.failure is not None and facts.failure.code == NO_CERTIFICATE:
        return "No usable certificate found"
    if facts.failure is not None:
        return WAITING
    return "Connecting to the IPHTTPS server" if facts.enrolled and facts.wish else "Disabled"


@dataclass(frozen=True)
class ClientStatus:
    """Everything `portico client status` shows."""

    status: Status
    substatus: Substatus
    transition_technology: str
    interface_status: str
    link: str
    wish: str
    name: str = ""
    server: str = ""
    peer: str = ""
    proxy: str = ""
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    since: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    last_error: Failure | None = None
    next_attempt: float | None = None
    certificate_expires: float | None = None
    settings_revision: int | None = None
    nrpt: tuple[dict[str, Any], ...] = ()
    dns_mode: str = "none"
    resolver: str = ""
    outside_resolvers: tuple[str, ...] = ()
    queries: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    restarts: int = 0
    level: str = ""
    user: str = ""
    user_since: float | None = None
    user_until: float | None = None
    assistant: dict[str, Any] | None = None
    """`portico.client.assistant.report.Report` in its JSON form; None while there is none."""

    def as_dict(self) -> dict[str, Any]:
        """The form of the control socket and of `--json`."""
        data = asdict(self)
        if self.last_error is not None:
            data["last_error"] = {**asdict(self.last_error), "hex": self.last_error.hexadecimal}
        return data
