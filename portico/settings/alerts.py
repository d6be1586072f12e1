"""The section `alerts`: who is told when the health of a server changes, and how often at most."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from portico.settings.kinds import FilePath, SecretPath, Section
from portico.settings.urls import HttpsUrl, split_url

Facility = Literal[
    "kern",
    "user",
    "daemon",
    "auth",
    "syslog",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
]


def syslog_address(value: object) -> str:
    """`unix:/path`, `udp://host[:port]` or `tcp://host[:port]`; raises ValueError."""
    text, parts = split_url(value)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return text
    if parts.scheme in ("udp", "tcp") and parts.hostname and parts.path in ("", "/") and parts.username is None:
        return text.rstrip("/")
    raise ValueError("it is none of unix:/dev/log, udp://HOST:514, tcp://HOST:601")


SyslogAddress = Annotated[str, BeforeValidator(syslog_address)]


class Webhook(Section):
    """A receiver of alerts by HTTPS POST, as JSON."""

    url: HttpsUrl = Field(description="where alerts are sent")
    secret_file: SecretPath = Field(
        description="file of at least 16 bytes that root alone may read, on every server; alerts are signed with it "
        "(HMAC-SHA-256, header Portico-Signature)"
    )
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of the CA of the receiver's certificate; null: those of the system"
    )


class Syslog(Section):
    """A receiver of alerts by syslog (RFC 5424)."""

    address: SyslogAddress = Field(
        default="unix:/dev/log",
        description="`unix:/dev/log`, `udp://HOST:514` (RFC 5426) or `tcp://HOST:601` (RFC 6587, octet counting)",
    )
    facility: Facility = Field(default="daemon", description="facility of the messages")


class Alerts(Section):
    """Who is told when health changes. Without webhooks and syslog nobody is; `portico events` shows it anyway."""

    webhooks: list[Webhook] = Field(default_factory=list, max_length=8, description="receivers by HTTPS, see below")
    syslog: list[Syslog] = Field(default_factory=list, max_length=8, description="receivers by syslog, see below")
    minimum: Literal["warning", "error"] = Field(default="warning", description="the mildest state that is told")
    hold_down_seconds: int = Field(
        default=30, ge=0, le=3600, description="so long a change must last before it is told; shorter ones never are"
    )
    flap_changes: int = Field(
        default=6,
        ge=3,
        le=100,
        description="a component that changes so often within `flap_minutes` is flapping: told once",
    )
    flap_minutes: int = Field(default=10, ge=1, le=1440, description="and told again after it was quiet for so long")
    per_hour: int = Field(
        default=60, ge=1, le=3600, description="alerts an hour (ten at once); what is more is told as one summary"
    )
