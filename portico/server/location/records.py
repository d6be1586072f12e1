"""The deployment's records on the DNS servers of the zone: checked by every server, written by one.

Every server of a cluster looks, so that what one of them cannot reach is seen. The one that leads writes: what is
missing or wrong at once, everything once in a while, so that scavenging finds no old record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portico.errors import Conflict, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.naming.records import update
from portico.naming.records.ask import Member, ZoneServers, look, serials, zone_servers
from portico.naming.records.plan import Fault, RecordChange, ServerView, changes, everything, faults
from portico.naming.records.render import Format, render
from portico.naming.records.wanted import WantedName, wanted_names
from portico.settings.effective import Effective
from portico.settings.located import zone
from portico.settings.model import Settings

log = logging.getLogger("portico.dns")

REFRESHED_NAME = "dns-records.json"
CHECK_INTERVAL = 20.0
"""Seconds between looks at every record."""
SERIAL_INTERVAL = 3.0
"""Seconds between questions for the serial of the zone, which grows with every change (RFC 1035, 3.3.13): one question
to each server, and a look when the answer is another one. So a record that goes is named within five seconds."""
RETRY_INTERVAL = 60.0
"""Seconds after an update that failed."""
SETTLING = 1.0
"""Seconds for a change to reach the other servers of the zone before they are looked at."""
REMEMBERED = 50


@dataclass(frozen=True)
class Check:
    """One look. Times in seconds since the epoch.

    Attributes:
        problem: why the servers could not be asked at all.
        lost: changes that would put the server that takes updates right.
    """

    at: float
    zone: str
    wanted: tuple[WantedName, ...]
    servers: tuple[ServerView, ...] = ()
    primary: Member | None = None
    faults: tuple[Fault, ...] = ()
    lost: tuple[RecordChange, ...] = ()
    problem: PorticoError | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None and not self.faults

    def as_dict(self) -> dict[str, Any]:
        return {
            "checked": self.at,
            "ok": self.ok,
            "zone": self.zone,
            "wanted": [name.as_dict() for name in self.wanted],
            "servers": [
                {"server": str(view), "serial": view.serial, "trouble": view.trouble or None} for view in self.servers
            ],
            "update_server": str(self.primary.addresses[0]) if self.primary is not None else None,
            "faults": [fault.as_dict() for fault in self.faults],
            "problem": self.problem.as_dict() if self.problem is not None else None,
        }


@dataclass
class Repair:
    """Records that were not as they must be, and what was done about it."""

    at: float
    faults: list[str]
    repaired: bool
    error: str | None = None


@dataclass
class Records:
    """Of one server.

    Attributes:
        leads: whether this server is the one that writes.
        repairs: what was put right lately, oldest first.
    """

    state: Path
    leads: Callable[[], bool]
    last: Check | None = None
    repairs: deque[Repair] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    unwritten: PorticoError | None = None
    _refreshed: float | None = None
    _known: bool = False
    _due: float = 0.0
    _retry: float = 0.0
    _serials_due: float = 0.0
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def changed(self) -> None:
        """The document in force is another one: look at once."""
        self._due = self._retry = 0.0

    async def tick(self, local: Settings | None, values: Effective | None) -> None:
        """Looks when it is time, and writes when that is needed. Never fails, see `problems`."""
        if local is None or values is None or local.corporate_dns.state == "disabled":
            self.last, self.unwritten = None, None
            return
        if time.monotonic() < self._due and not await self._zone_changed():
            return
        await self.check(local, values)
        self._due = time.monotonic() + CHECK_INTERVAL
        await self._keep(local, values)

    async def _zone_changed(self) -> bool:
        """Whether a server says another serial than when it was looked at."""
        last = self.last
        if last is None or time.monotonic() < self._serials_due:
            return False
        known = {view.server: view.serial for view in last.servers if view.serial is not None}
        found = await serials(last.zone, [Member((server,)) for server in known])
        self._serials_due = time.monotonic() + SERIAL_INTERVAL
        return any(serial is not None and serial != known[server] for server, serial in found.items())

    async def check(self, local: Settings, values: Effective) -> Check:
        """Looks at every server of the zone now. Never raises because of the servers."""
        async with self._asking:
            made = await _check(local, values)
        if self.last is None or [str(f.as_error()) for f in made.faults] != [
            str(f.as_error()) for f in self.last.faults
        ]:
            for fault in made.faults:
                log.error("dns record=%s %s", fault.kind.value, fault.as_error())
        self.last = made
        return made

    async def write(self, local: Settings, values: Effective, *, dry_run: bool) -> tuple[list[RecordChange], Check]:
        """Puts the records right now, for an administrator. Returns what was (or would be) changed, and the look after.

        Raises:
            Conflict: code DNS_NOT_LEADER; another server of the cluster writes.
            PorticoError: they could not be written, or nobody knows where to.
        """
        before = await self.check(local, values)
        if before.problem is not None:
            raise before.problem
        if dry_run:
            return list(before.lost), before
        if not self.leads():
            raise Conflict(
                "This server does not write the records",
                why="another server of the cluster leads, and one alone writes",
                resolution="Run the command there: 'portico server status' names the leader",
                code="DNS_NOT_LEADER",
            )
        wanted = [*(change for change in before.lost if change.action == "delete"), *everything(before.wanted)]
        verified = await self._send(local, before, wanted)
        await asyncio.sleep(SETTLING)
        after = await self.check(local, values)
        if not verified and after.lost:
            raise _unconfirmed(after)
        return list(before.lost), after

    def text(self, form: Format, local: Settings, values: Effective) -> str:
        """The records for people who enter them by hand."""
        primary = self.last.primary if self.last is not None else None
        server = (primary.host or str(primary.addresses[0])) if primary is not None else ""
        section = local.corporate_dns
        return render(form, wanted_names(local, values), zone=zone(local), ttl=section.ttl_seconds, server=server)

    def problems(self) -> list[PorticoError]:
        """Everything wrong now, each with a stable code."""
        found = [fault.as_error() for fault in self.last.faults] if self.last is not None else []
        if self.last is not None and self.last.problem is not None:
            found.append(self.last.problem)
        return [*found, self.unwritten] if self.unwritten is not None else found

    def status(self) -> dict[str, Any] | None:
        """The last look and what was repaired; None before there was one."""
        if self.last is None:
            return None
        return {
            **self.last.as_dict(),
            "writes": self.leads(),
            "refreshed": self._refreshed,
            "unwritten": self.unwritten.as_dict() if self.unwritten is not None else None,
            "repairs": [vars(repair) for repair in reversed(self.repairs)],
        }

    async def _keep(self, local: Settings, values: Effective) -> None:
        check, section = self.last, local.corporate_dns
        if check is None or section.update == "none" or not self.leads():
            self.unwritten = None
            return
        if check.problem is not None or time.monotonic() < self._retry:
            return
        names = [f"{fault.name} {fault.record} on {fault.server} ({fault.kind.value})" for fault in check.faults]
        if check.lost and local.drift == "report":
            if not self.repairs or self.repairs[-1].faults != names:
                self.repairs.append(Repair(time.time(), names, False))
            return
        if not check.lost and not await self._refresh_due(section.refresh_hours * 3600.0):
            self.unwritten = None
            return
        deletions = [change for change in check.lost if change.action == "delete"]
        try:
            # All of them, not only what is missing: the others become as young.
            verified = await self._send(local, check, [*deletions, *everything(check.wanted)])
            if check.lost or not verified:
                await asyncio.sleep(SETTLING)
                after = await self.check(local, values)
                if not verified and after.lost:
                    raise _unconfirmed(after)
        except PorticoError as error:
            log.error("dns records are not written: %s", error)
            if check.lost and (self.unwritten is None or str(self.unwritten) != str(error)):
                self.repairs.append(Repair(time.time(), names, False, str(error)))
            self.unwritten, self._retry = error, time.monotonic() + RETRY_INTERVAL
            return
        self.unwritten = None
        if check.lost:
            log.warning("dns=repaired records=%r", names)
            self.repairs.append(Repair(time.time(), names, True))

    async def _send(self, local: Settings, check: Check, wanted: Sequence[RecordChange]) -> bool:
        """Whether the answer was verified, see `update.write`."""
        if check.primary is None:
            raise PorticoError(
                f"Nobody is known to take updates of {check.zone}",
                why="its SOA record names no server that has an address",
                resolution="Name one in corporate_dns.update_server",
                code="DNS_NO_UPDATE_SERVER",
            )
        server, host = check.primary.addresses[0], check.primary.host
        verified = await asyncio.to_thread(update.write, local.corporate_dns, check.zone, server, host, wanted)
        self._refreshed, self._known = time.time(), True
        await asyncio.to_thread(self._remember)
        return verified

    async def _refresh_due(self, interval: float) -> bool:
        if not self._known:
            self._refreshed, self._known = await asyncio.to_thread(self._recall), True
        age = time.time() - self._refreshed if self._refreshed is not None else interval
        return not 0 <= age < interval

    def _recall(self) -> float | None:
        """When everything was written last; None when that is not known, and then it is written again."""
        try:
            found = json.loads(read_file(self.state / REFRESHED_NAME, limit=4096))["refreshed"]
        except (PorticoError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return float(found) if isinstance(found, int | float) else None

    def _remember(self) -> None:
        try:
            write_file(self.state / REFRESHED_NAME, json.dumps({"refreshed": self._refreshed}).encode())
        except PorticoError as error:
            log.warning("when the records were written is forgotten at the next start: %s", error)


def _unconfirmed(check: Check) -> PorticoError:
    return Unavailable(
        f"The DNS update of {check.zone} had no effect",
        why="the server's answer could not be verified, and its records are not right",
        resolution="Look at the server's log, and whether the account may change the records",
        code="DNS_UPDATE_UNCONFIRMED",
    )


async def _check(local: Settings, values: Effective) -> Check:
    section, now = local.corporate_dns, time.time()
    wanted, name = wanted_names(local, values), zone(local)
    if not wanted:
        return Check(now, name, wanted)
    try:
        found: ZoneServers = await zone_servers(
            name, section.servers, local.dns64.upstream_servers, section.update_server
        )
    except PorticoError as error:
        return Check(now, name, wanted, problem=error)
    views = await look(name, found.members, wanted)
    leading = set(found.primary.addresses) if found.primary is not None else set()
    primary = next((view for view in views if view.server in leading), None)
    if primary is None and found.primary is not None:  # one that the NS records do not name
        (primary,) = await look(name, [found.primary], wanted)
    return Check(
        now,
        name,
        wanted,
        tuple(views),
        found.primary,
        tuple(faults(wanted, views, leading)),
        tuple(changes(wanted, primary)) if primary is not None else (),
    )
