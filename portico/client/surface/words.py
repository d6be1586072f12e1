"""A report in words: whether it works, and the check that says why not. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from portico.client.assistant.report import Check, Place, Report, State, Who
from portico.client.status import Status


class Word(StrEnum):
    """Whether it works."""

    WORKING = "working"
    """This computer is on the intranet, inside or through the tunnel."""
    CONNECTING = "connecting"
    """Not yet; nothing has been found wrong."""
    BROKEN = "broken"
    OFF = "off"
    """Nobody wants it to work: not enrolled, or disconnected as asked for."""


WORDS: Final[dict[Status, Word]] = {
    Status.CONNECTED_REMOTELY: Word.WORKING,
    Status.CONNECTED_LOCALLY: Word.WORKING,
    Status.CONNECTING: Word.CONNECTING,
    Status.ACTIONABLE_ERROR: Word.BROKEN,
    Status.ERROR: Word.BROKEN,
    Status.DISCONNECTED: Word.OFF,
    Status.NOT_ENROLLED: Word.OFF,
}

PLACES: Final[dict[Place, str]] = {
    Place.INSIDE: "inside the corporate network",
    Place.OUTSIDE: "outside the corporate network",
    Place.UNKNOWN: "where it is, is not known yet",
}

WHO: Final[dict[Who, str]] = {
    Who.USER: "you, at this computer",
    Who.ADMINISTRATOR: "the administrator of Remote Access",
    Who.NETWORK: "whoever runs the network that this computer is in",
}

MARKS: Final[dict[State, str]] = {
    State.PASSED: "✓",
    State.FAILED: "✗",
    State.SKIPPED: "–",
    State.RUNNING: "…",
}


def word(status: Status) -> Word:
    """Whether it works, in one word."""
    return WORDS[status]


def standing(report: Report) -> str:
    """Status, place and transition technology in a line."""
    parts = [report.status.value]
    if report.substatus.value != "None":
        parts[0] += f" ({report.substatus.value})"
    parts.append(PLACES[report.place])
    if report.technology != "None":
        parts.append(f"by {report.technology}")
    return ", ".join(parts)


def failure(report: Report, check: Check) -> dict[str, str]:
    """Name and text of each line about a check that failed: what, found, cause, what to do next, who must act."""
    lines = {"What failed": check.name}
    if check.detail:
        lines["Found"] = check.detail
    if check.cause:
        lines["Cause"] = check.cause
    if check.resolution:
        lines["Next"] = check.resolution
    if check.who is not None:
        who = WHO[check.who]
        if check.who is Who.ADMINISTRATOR and report.support_email:
            who += f" ({report.support_email})"
        lines["Who must act"] = who
    return lines


def plain(report: Report) -> str:
    """The report as text, for a file. Times in UTC."""
    lines = [f"{word(report.status)}: {standing(report)}, since {_time(report.since)}"]
    if report.network:
        lines.append(f"network: {report.network}")
    lines.append("")
    for check in report.checks:
        tail = f": {check.detail}" if check.detail else ""
        lines.append(f"{MARKS[check.state]} {check.name}{tail} [{check.state}, {_time(check.since)}]")
    for check in (check for check in report.checks if check.state is State.FAILED):
        lines.append("")
        lines += [f"{name}: {text}" for name, text in failure(report, check).items()]
    return "\n".join(lines) + "\n"


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
