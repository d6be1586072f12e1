"""Answers "who had 10.0.0.2 port 40123 at 14:05" from the files of the binding log. Blocking.

Files are searched as bytes: only lines that can matter are decoded, so that a gigabyte takes some seconds. Only files
that can matter are read: back from the time asked for to where it is known what was bound, and on until all has ended.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from portico.accounting import binding_log, records
from portico.errors import LimitReached, Unavailable

Key = tuple[str, str, int]
"""Protocol, IPv4 address and port."""

MAXIMUM_OPEN: Final = 200_000
"""Bindings that may be open at one time among those asked for."""

MAXIMUM_FOUND: Final = 100_000

_LAST: Final = 32_503_680_000.0
"""The year 3000: what is asked for later is asked for then."""


_ENDS: Final = {"start": "restarted", "on": "restarted", "stop": "stopped", "off": "logging off"}
"""Marks after which no binding of before exists. `on` without `off` before it follows a server that was killed."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None is anything. Times in seconds since the epoch, both included."""

    start: float
    end: float
    protocol: str | None = None
    address: str | None = None
    port: int | None = None
    client: str | None = None
    name: str | None = None

    def fits(self, row: Mapping[str, Any]) -> bool:
        asked = ("protocol", "address", "port", "client", "name")
        return all(getattr(self, key) is None or getattr(self, key) == row.get(key) for key in asked)


@dataclass(frozen=True)
class Interval:
    """One binding and when it existed.

    Attributes:
        opened: None when it began before logging did, or before what is still kept.
        closed: None while it is open.
        end: `closed`, `open`, `restarted` (the gateway), `stopped` (the server), `logging off`, or `overwritten`: its
            end is missing, it was at `closed` at the latest.
        static: of the settings; it has no owner but the address.
    """

    protocol: str
    client: str
    client_port: int
    address: str
    port: int
    name: str | None
    serial: str | None
    session: int | None
    opened: float | None
    closed: float | None = None
    end: str = "open"
    static: bool = False


@dataclass
class Found:
    """The answer, in the order of time.

    Attributes:
        lost: rows that are known to be missing from the log within the time asked for.
        covers: the first time the log says anything about; None when it is empty.
    """

    intervals: list[Interval] = field(default_factory=list)
    lost: int = 0
    covers: float | None = None


def search(directory: Path, wanted: Wanted) -> Found:
    """All bindings that existed at some time between start and end.

    Raises:
        Unavailable: the log cannot be read.
        LimitReached: too many fit; the search must be narrower.
    """
    asked = records.needles(address=wanted.address, port=wanted.port, client=wanted.client, name=wanted.name)
    needle = asked[0] if asked else None
    found = Found()
    alive: dict[Key, Interval] = {}
    later: set[Key] = set()
    try:
        files = binding_log.files(directory)
        found.covers = next((float(row["t"]) for file in files for row in _rows(file.path, None)), None)
        for file in files[_first(files, wanted, needle) :]:
            if not alive and file.day > _day(wanted.end):
                break
            for row in _rows(file.path, needle):
                _take(row, wanted, alive, later, found)
                if len(alive) > MAXIMUM_OPEN or len(found.intervals) > MAXIMUM_FOUND:
                    raise LimitReached(
                        "The search finds too much",
                        why=f"more than {min(MAXIMUM_OPEN, MAXIMUM_FOUND)} bindings fit",
                        resolution="Give an address, a port or a client, or a shorter time",
                    )
    except (OSError, ValueError) as error:
        raise Unavailable(
            "The binding log cannot be read", why=str(error), resolution=f"Look at it: ls -l {directory}"
        ) from None
    for interval in alive.values():
        _keep(interval, wanted, found)
    found.intervals.sort(key=lambda item: item.opened or 0.0)
    return found


def _take(row: Mapping[str, Any], wanted: Wanted, alive: dict[Key, Interval], later: set[Key], found: Found) -> None:
    """Takes the next row. `later` are bindings that began after the time asked for, so that their end means nothing."""
    at = float(row["t"])
    kind = row.get("mark")
    if kind in _ENDS:
        for interval in alive.values():
            _keep(replace(interval, closed=at, end=_ENDS[kind]), wanted, found)
        alive.clear()
        later.clear()
    elif kind == "lost" and wanted.start <= at <= wanted.end + 60.0:
        # It is noted when the next line is written, up to a minute after what is missing.
        found.lost += int(row.get("rows", 0))
    if kind is not None or not wanted.fits(row):
        return
    key = (str(row["protocol"]), str(row["address"]), int(row["port"]))
    former = alive.pop(key, None)
    if row["event"] == "close":
        if key in later:
            later.discard(key)
            return
        begun = former if former is not None else _interval(row, None)
        _keep(replace(begun, closed=at, end="closed"), wanted, found)
        return
    interval = _interval(row, at if row["event"] == "open" else None)
    if at > wanted.end:
        later.add(key)
        if former is not None:
            _keep(replace(former, closed=at, end="overwritten"), wanted, found)
        return
    if former is not None:
        if row["event"] == "held" and former.client == interval.client:
            interval = former
        else:
            _keep(replace(former, closed=at, end="overwritten"), wanted, found)
    alive[key] = interval


def _interval(row: Mapping[str, Any], opened: float | None) -> Interval:
    return Interval(
        protocol=str(row["protocol"]),
        client=str(row["client"]),
        client_port=int(row.get("client_port", 0)),
        address=str(row["address"]),
        port=int(row["port"]),
        name=row.get("name"),
        serial=row.get("serial"),
        session=row.get("session"),
        opened=opened,
        static=row.get("static") is True,
    )


def _keep(interval: Interval, wanted: Wanted, found: Found) -> None:
    begins_in_time = interval.opened is None or interval.opened <= wanted.end
    if begins_in_time and (interval.closed is None or interval.closed >= wanted.start):
        found.intervals.append(interval)


def _first(files: list[binding_log.LogFile], wanted: Wanted, needle: bytes | None) -> int:
    """The index of the last file from which on everything is known that was bound at the start.

    That is one with a mark before the start that ends all bindings, or, when one address and port is asked for, with a
    row of it in each protocol.
    """
    one_port = wanted.address is not None and wanted.port is not None
    unknown = {wanted.protocol} if wanted.protocol is not None else {"tcp", "udp", "icmp"}
    for index in range(len(files) - 1, -1, -1):
        if files[index].day > _day(wanted.start):
            continue
        for row in _rows(files[index].path, needle if one_port else records.MARK):
            if float(row["t"]) >= wanted.start:
                continue
            if row.get("mark") in _ENDS:
                return index
            if one_port and (row.get("address"), row.get("port")) == (wanted.address, wanted.port):
                unknown.discard(row["protocol"])
        if not unknown:
            return index
    return 0


def _day(at: float) -> date:
    """The day of the last file that can hold a row of a time: it may have been written after midnight."""
    return datetime.fromtimestamp(min(at, _LAST) + 3600.0, UTC).date()


def _rows(path: Path, needle: bytes | None) -> Iterator[Mapping[str, Any]]:
    """All marks and all lines with the needle (None: all lines), in their order."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if needle is None:
                offsets: Iterator[int] = _lines(data)
            else:
                offsets = _merged(_matches(data, records.MARK), _matches(data, needle))
            for start in offsets:
                end = data.find(b"\n", start)
                row = records.parse(data[start : end if end >= 0 else len(data)])
                if row is not None:
                    yield row


def _lines(data: mmap.mmap) -> Iterator[int]:
    start = 0
    while start < len(data):
        yield start
        end = data.find(b"\n", start)
        if end < 0:
            return
        start = end + 1


def _matches(data: mmap.mmap, needle: bytes) -> Iterator[int]:
    """Where lines begin that have the needle, each once."""
    at = data.find(needle)
    while at >= 0:
        yield data.rfind(b"\n", 0, at) + 1
        end = data.find(b"\n", at)
        if end < 0:
            return
        at = data.find(needle, end)


def _merged(one: Iterator[int], other: Iterator[int]) -> Iterator[int]:
    """Two ascending sequences as one, each value once."""
    a, b = next(one, None), next(other, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a < b):
            assert a is not None
            yield a
            a = next(one, None)
        else:
            yield b
            if a == b:
                a = next(one, None)
            b = next(other, None)
