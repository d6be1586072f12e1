"""What differs between the records that are wanted and those that DNS servers have, and what puts it right. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from portico.errors import PorticoError
from portico.naming.records.wanted import KINDS, Kind, WantedName
from portico.settings.addresses import DnsServer

Key = tuple[str, Kind]
"""A name in lower case and a record type."""


def key(name: str, kind: Kind) -> Key:
    return name.lower(), kind


@dataclass(frozen=True)
class ServerView:
    """What one DNS server of the zone says.

    Attributes:
        host: its name in the NS records; empty for one that was configured.
        serial: of its copy of the zone (SOA); None when it did not say.
        trouble: why it gave no usable answer; empty when it did, and only then `sets` counts.
        sets: the addresses of each name and type that was asked for. A name that does not exist has empty ones.
        aliases: names that are an alias (CNAME) there, with what they stand for.
    """

    server: DnsServer
    host: str = ""
    serial: int | None = None
    trouble: str = ""
    sets: Mapping[Key, frozenset[str]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.host} ({self.server})" if self.host else str(self.server)


class FaultKind(StrEnum):
    """How a record is not what it must be on a server."""

    MISSING = "missing"
    WRONG = "wrong"
    STALE = "stale"
    """Right where updates go, not yet or no longer on this server."""
    UNANSWERED = "unanswered"
    """The server gives no usable answer: nothing is known about its records."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong on one DNS server, as it is reported.

    Attributes:
        name, record: what is wrong (`directaccess-WebProbeHost.corp.example.net`, `A`); empty for a silent server.
    """

    kind: FaultKind
    server: str
    name: str = ""
    record: str = ""
    found: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    symptom: str = ""
    detail: str = ""

    def as_error(self) -> PorticoError:
        """The fault in words: what, why, resolution; with a stable code."""
        has, wants = ", ".join(self.found) or "nothing", ", ".join(self.wanted) or "no such record"
        if self.kind is FaultKind.UNANSWERED:
            return PorticoError(
                f"The DNS server {self.server} gives no usable answer",
                why=self.detail,
                resolution="Start it or repair the way to it; if it is gone for good, take it out of the zone's NS "
                "records and of corporate_dns.servers",
                code="DNS_SERVER_UNANSWERED",
            )
        what = f"{self.name} {self.record}"
        if self.kind is FaultKind.STALE:
            return PorticoError(
                f"The DNS server {self.server} has an old copy of {what}",
                why=f"it has {has}, the zone's primary {wants}{f' ({self.detail})' if self.detail else ''}; "
                f"whoever asks it: {self.symptom}",
                resolution="Repair the transfer of the zone to it, or Active Directory replication; "
                "'portico dns check' looks again",
                code="DNS_SERVER_STALE",
            )
        code = "DNS_RECORD_MISSING" if self.kind is FaultKind.MISSING else "DNS_RECORD_WRONG"
        state = "is missing" if self.kind is FaultKind.MISSING else "is wrong"
        return PorticoError(
            f"{what} {state} on the DNS server {self.server}",
            why=f"it has {has} and must have {wants}{f' ({self.detail})' if self.detail else ''}; {self.symptom}",
            resolution="Let Portico write it (portico dns update), or print what to enter: portico dns records",
            code=code,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "server": self.server,
            "name": self.name,
            "record": self.record,
            "found": list(self.found),
            "wanted": list(self.wanted),
            "symptom": self.symptom,
            **self.as_error().as_dict(),
        }


@dataclass(frozen=True, order=True)
class RecordChange:
    """One record to add or to delete."""

    name: str
    record: Kind
    value: str
    action: Literal["add", "delete"]

    def __str__(self) -> str:
        return f"{self.action} {self.name} {self.record} {self.value}"

    def as_dict(self) -> dict[str, str]:
        return {"action": self.action, "name": self.name, "record": self.record, "value": self.value}


def faults(
    wanted: Sequence[WantedName], views: Iterable[ServerView], primary: Collection[DnsServer] = ()
) -> list[Fault]:
    """Everything wrong, by server and record.

    Args:
        primary: addresses of the server that updates go to. A fault of another one is staleness when it is right there.
    """
    known = list(views)
    leading = next((view for view in known if view.server in primary and not view.trouble), None)
    found: list[Fault] = []
    for view in known:
        if view.trouble:
            found.append(Fault(FaultKind.UNANSWERED, str(view), detail=view.trouble))
            continue
        for name in wanted:
            for kind in KINDS:
                fault = _fault(name, kind, view, leading)
                if fault is not None:
                    found.append(fault)
    return found


def _fault(name: WantedName, kind: Kind, view: ServerView, leading: ServerView | None) -> Fault | None:
    must, has = name.of(kind), view.sets.get(key(name.name, kind), frozenset())
    alias = view.aliases.get(name.name.lower())
    if alias is None and has == must:
        return None
    if alias is not None and not must:
        return None  # said once, for the type that the name must have
    state = FaultKind.MISSING if not has and alias is None else FaultKind.WRONG
    detail = f"it is an alias of {alias}" if alias is not None else ""
    if leading is not None and leading is not view and _right(name, kind, leading):
        state = FaultKind.STALE
        if view.serial is not None and leading.serial is not None and view.serial != leading.serial:
            detail = f"its serial is {view.serial}, the primary's {leading.serial}"
    return Fault(
        state, str(view), name.name, kind, tuple(sorted(has)), tuple(sorted(must)), name.symptom, detail=detail
    )


def _right(name: WantedName, kind: Kind, view: ServerView) -> bool:
    alias = view.aliases.get(name.name.lower())
    return alias is None and view.sets.get(key(name.name, kind), frozenset()) == name.of(kind)


def changes(wanted: Iterable[WantedName], view: ServerView) -> list[RecordChange]:
    """What makes one server right, deletions first. Empty for a server whose records are not known.

    An alias is nobody's record of ours to delete: it is reported and left.
    """
    if view.trouble:
        return []
    removed: list[RecordChange] = []
    added: list[RecordChange] = []
    for name in wanted:
        if name.name.lower() in view.aliases:
            continue
        for kind in KINDS:
            must, has = name.of(kind), view.sets.get(key(name.name, kind), frozenset())
            removed += [RecordChange(name.name, kind, value, "delete") for value in sorted(has - must)]
            added += [RecordChange(name.name, kind, value, "add") for value in sorted(must - has)]
    return removed + added


def everything(wanted: Iterable[WantedName]) -> list[RecordChange]:
    """All wanted records as additions: what a refresh sends. A record that is there only becomes younger."""
    return [
        RecordChange(name.name, kind, value, "add")
        for name in wanted
        for kind in KINDS
        for value in sorted(name.of(kind))
    ]
