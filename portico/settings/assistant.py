"""The section about the connectivity assistant: what it probes besides what every deployment has. Pure.

The forms are those of Windows' Network Connectivity Assistant (nca.admx): `HTTP:URL`, `PING:HOST`,
`FILE:\\\\HOST\\SHARE\\FILE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from portico.settings.kinds import Section, host_name

Kind = Literal["HTTP", "PING", "FILE"]

LONGEST: int = 300
"""Characters of a probe."""

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,40}@[A-Za-z0-9.-]{1,48}", flags=re.ASCII)
# A path goes to another program as an argument of a command of its own: nothing that could end that.
_SHARE = re.compile(r"\\\\([A-Za-z0-9._:-]{1,253})\\([A-Za-z0-9$._ -]{1,80})\\([A-Za-z0-9$._ \\-]{1,200})", re.ASCII)


@dataclass(frozen=True)
class Probe:
    """One probe.

    Attributes:
        target: URL, host or path.
        host: whom it asks: a name in lower case or an IPv6 address.
        share, path: of a file.
    """

    kind: Kind
    target: str
    host: str
    share: str = ""
    path: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


def parse_probe(text: str) -> Probe:
    """Reads one probe. Raises ValueError with what is wrong about the text."""
    kind, colon, target = text.strip().partition(":")
    target = target.strip()
    if len(text) > LONGEST or not text.isprintable():
        raise ValueError(f"a probe has at most {LONGEST} printable characters")
    match kind.upper(), colon:
        case "HTTP", ":":
            return Probe("HTTP", target, _url_host(target))
        case "PING", ":":
            return Probe("PING", target, _host(target))
        case "FILE", ":":
            found = _SHARE.fullmatch(target)
            if found is None or ".." in found.group(3).split("\\"):
                raise ValueError(rf"'{target}' is not of the form \\host\share\file with plain characters")
            return Probe("FILE", target, _host(found.group(1)), found.group(2), found.group(3))
    raise ValueError(rf"'{text.strip()}' is none of HTTP:URL, PING:HOST, FILE:\\host\share\file")


def _url_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"'{url}' is no URL: {error}") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or "@" in parts.netloc or " " in url:
        raise ValueError(f"'{url}' is not of the form http://host/path or https://host/path")
    return _host(parts.hostname)


def _host(text: str) -> str:
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return host_name(text)
    if address.version != 6:
        raise ValueError(f"clients reach {address} by its name only: the tunnel carries IPv6")
    return str(address)


def _probe(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text was expected")
    return str(parse_probe(value))


def _email(value: object) -> str:
    if not isinstance(value, str) or len(value.strip()) > 50 or not _ADDRESS.fullmatch(value.strip()):
        raise ValueError("a mail address of at most 50 characters was expected, as help@corp.example.net")
    return value.strip()


ProbeText = Annotated[str, BeforeValidator(_probe)]
Email = Annotated[str, BeforeValidator(_email)]


class ConnectivityAssistant(Section):
    """What clients look at to say whether the intranet works for them, and whom their users may ask."""

    probes: list[ProbeText] = Field(
        default_factory=list,
        max_length=16,
        description=r"'HTTP:URL', 'PING:HOST' or 'FILE:\\HOST\SHARE\FILE' on the intranet, tried through the tunnel "
        "besides corpConnectivityHost and the web probe",
    )
    support_email: Email | None = Field(
        default=None, description="shown to users whose connection does not work; null: none"
    )
