"""An alert as it goes out: JSON for webhooks, with a signature, and RFC 5424 for syslog. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any, Final

from portico.health.alerting.core import Alert, Kind
from portico.health.states import HealthState

FACILITIES: Final = {
    "kern": 0,
    "user": 1,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    **{f"local{number}": 16 + number for number in range(8)},
}
ENTERPRISE: Final = "portico@32473"
"""Name of the structured data (RFC 5424 section 6.3.2), with the enterprise number for documentation (RFC 5612)."""
MAXIMUM_SYSLOG: Final = 4000
"""Bytes of a syslog message; receivers must take 480 and should take 2048 (RFC 5424 section 6.1), most take 8192."""

_SEVERITY: Final = {HealthState.ERROR: 3, HealthState.WARNING: 4}
_NOTICE: Final = 5


def body(alert: Alert, identity: str, sender: str) -> dict[str, Any]:
    """The alert as data.

    Args:
        identity: the same for every attempt to deliver it, and for no other alert.
        sender: the server that tells.
    """
    subject, condition = alert.subject, alert.condition
    return {
        "id": identity,
        "kind": alert.kind.value,
        "at": _time(alert.at),
        "sender": sender,
        "server": subject.server if subject is not None else sender,
        "component": subject.component.value if subject is not None else None,
        "title": subject.component.label if subject is not None else None,
        "about": subject.about if subject is not None else "",
        "state": condition.state.value,
        "former": alert.former.value,
        "codes": sorted(condition.codes),
        "what": condition.what or _plain(alert),
        "cause": condition.cause,
        "resolution": condition.resolution,
        "since": _time(condition.since) if condition.since else None,
        "seen_by": list(condition.seen_by),
        "suppressed": alert.suppressed,
        "listed": [{"subject": str(subject), "state": state.value} for subject, state in alert.listed],
    }


def encode(data: dict[str, Any]) -> bytes:
    """The bytes that are sent and signed."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def signature(secret: bytes, timestamp: str, content: bytes) -> str:
    """`sha256=` and HMAC-SHA-256 over the timestamp, a dot and the body (RFC 2104); the receiver makes the same, and
    refuses a timestamp that is minutes old, so that nobody repeats an alert.
    """
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()


def syslog(data: dict[str, Any], facility: str, host: str, process: int) -> bytes:
    """The alert as a message of RFC 5424, at most `MAXIMUM_SYSLOG` bytes, without framing."""
    priority = FACILITIES[facility] * 8 + _SEVERITY.get(HealthState(data["state"]), _NOTICE)
    head = f"<{priority}>1 {data['at']} {_name(host, 255)} portico {process} {_name(data['kind'], 32)} "
    fields = {
        "id": data["id"],
        "server": data["server"],
        "component": data["component"] or "",
        "about": data["about"],
        "state": data["state"],
        "former": data["former"],
        "codes": ",".join(data["codes"]),
        "suppressed": str(data["suppressed"]),
    }
    structured = "".join(f' {name}="{_escaped(value)}"' for name, value in fields.items() if value)
    text = f"{data['title'] or 'Summary'} {data['state']}: {data['what']}"
    text += f": {data['cause']}" if data["cause"] else ""
    text += f". {data['resolution']}" if data["resolution"] else ""
    if data["listed"]:
        text += ": " + ", ".join(f"{item['subject']} {item['state']}" for item in data["listed"])
    # The BOM says that the text is UTF-8 (section 6.4).
    message = f"{head}[{ENTERPRISE}{structured}] ".encode() + b"\xef\xbb\xbf" + text.encode()
    return message[:MAXIMUM_SYSLOG].decode("utf-8", "ignore").encode()


def _plain(alert: Alert) -> str:
    return {Kind.CLEARED: "It is fine again", Kind.FLAPPING: "It comes and goes", Kind.STEADY: "It is steady"}.get(
        alert.kind, ""
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(text: str, most: int) -> str:
    """Printable ASCII without blanks; `-` for nothing (section 6.2)."""
    return "".join(c for c in text if 33 <= ord(c) <= 126)[:most] or "-"


def _escaped(value: str) -> str:
    """Section 6.3.3. Other control characters are nobody's."""
    text = "".join(c if c.isprintable() else " " for c in value)[:300]
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
