"""The append-only log of what was changed, by whom, from where: one JSON object a line, each with the hash of the last.

    <logs>/audit/              0700
        audit.jsonl      0600  the newest entries
        audit.jsonl.1 …  0600  older ones, at most `MAXIMUM_FILES`
    <state>/audit.json   0600  where the chain begins and ends

An entry that is changed, taken out, put in or moved breaks the chain; entries cut off at an end miss in the file of
state. Whoever is root can write both anew: the other servers of a cluster remember how each other's log ended, and
`verify` asks them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from portico.errors import NotFound, PorticoError, Unavailable
from portico.files import not_written, private_directory, read_file, write_file

log = logging.getLogger("portico.audit")

DIRECTORY: Final = "audit"
FILE_NAME: Final = "audit.jsonl"
ENDS_NAME: Final = "audit.json"
MAXIMUM_BYTES: Final = 4 << 20
MAXIMUM_FILES: Final = 16
MAXIMUM_ENTRY: Final = 64 << 10
MAXIMUM_VALUE: Final = 2000
START: Final = "0" * 64
HIDDEN: Final = "(hidden)"

_SECRET = (
    "secret",
    "password",
    "passphrase",
    "token",
    "key",
    "credential",
    "authorization",
    "cookie",
    "assertion",
    "psk",
)
_NO_SECRET = frozenset({"token_id", "key_id"})


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. `first` and `last` are entries' numbers, 0 when there are none."""

    entries: int
    first: int
    last: int
    head: str
    faults: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return not self.faults


class AuditLog:
    """One server's log. Blocking and safe for threads.

    Args:
        now: the time, in UTC.
    """

    def __init__(
        self,
        logs: Path,
        state: Path,
        now: Callable[[], datetime],
        *,
        maximum_bytes: int = MAXIMUM_BYTES,
        maximum_files: int = MAXIMUM_FILES,
    ) -> None:
        self.directory = logs / DIRECTORY
        self._ends_path = state / ENDS_NAME
        self._now = now
        self._maximum_bytes, self._maximum_files = maximum_bytes, maximum_files
        self._lock = threading.Lock()
        self._last: tuple[int, str] | None = None

    @property
    def path(self) -> Path:
        return self.directory / FILE_NAME

    def ready(self) -> None:
        """Whether a change could be written down; a change that cannot is not made.

        Raises:
            Unavailable: code AUDIT_UNAVAILABLE.
        """
        with self._lock:
            try:
                self._open_chain()
                with self._descriptor():
                    pass
            except PorticoError as error:
                raise Unavailable(
                    "Nothing can be changed now",
                    why=f"the audit log cannot be written: {error}",
                    resolution=error.resolution or f"Look at {self.directory}",
                    code="AUDIT_UNAVAILABLE",
                ) from None

    def append(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Writes an entry and returns it with number, time and hash.

        Args:
            fields: JSON data; secrets in it are hidden and long texts cut.

        Raises:
            Unavailable: it is not written.
        """
        with self._lock:
            number, previous = self._open_chain()
            entry: dict[str, Any] = {
                "number": number + 1,
                "time": self._now().isoformat(timespec="milliseconds"),
                **{key: redacted(value) for key, value in fields.items()},
                "previous": previous,
            }
            if len(json.dumps(entry)) > MAXIMUM_ENTRY:
                entry = {**entry, "request": "(too large)", "before": "(too large)", "after": "(too large)"}
            entry["hash"] = entry_hash(entry)
            self._rotate()
            with self._descriptor() as descriptor:
                line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                try:
                    written = os.write(descriptor, line)
                    os.fsync(descriptor)
                except OSError as error:
                    raise not_written(self.path, error) from None
                if written != len(line):
                    raise not_written(self.path, OSError("the file system is full"))
            self._last = (number + 1, entry["hash"])
            self._save_ends()
            return entry

    def head(self) -> tuple[int, str]:
        """Number and hash of the newest entry. Raises PorticoError."""
        with self._lock:
            return self._open_chain()

    def entries(self, *, limit: int, before: int | None = None, after: int | None = None) -> list[dict[str, Any]]:
        """Entries, newest first; with `after` those that followed, oldest first. Lines that are none are left out."""
        if after is not None:
            found = []
            for path in self._files():
                last = next(_lines(path, backwards=True), None)
                if isinstance(last, dict) and isinstance(last.get("number"), int) and last["number"] <= after:
                    continue
                for entry in _lines(path):
                    if isinstance(entry, dict) and isinstance(entry.get("number"), int) and entry["number"] > after:
                        found.append(entry)
                        if len(found) >= limit:
                            return found
            return found
        found = []
        for path in reversed(self._files()):
            for entry in _lines(path, backwards=True):
                if not isinstance(entry, dict) or not isinstance(entry.get("number"), int):
                    continue
                if before is None or entry["number"] < before:
                    found.append(entry)
                    if len(found) >= limit:
                        return found
        return found

    def verify(self, witnesses: Mapping[str, tuple[int, str]] | None = None) -> Verdict:
        """Follows the chain from its beginning to its end.

        Args:
            witnesses: the newest (number, hash) of this log that each other server heard of.
        """
        faults: list[str] = []
        ends = self._read_ends()
        seen = dict(witnesses or {})
        count, first, number, previous = 0, 0, None, None
        for path in self._files():
            for place, entry in enumerate(_lines(path), 1):
                where = f"{path.name} line {place}"
                if not isinstance(entry, dict) or not isinstance(entry.get("number"), int):
                    faults.append(f"{where} is no entry")
                    continue
                count += 1
                if number is None:
                    first = entry["number"]
                    if ends is not None and entry["number"] > ends["begin"][0]:
                        faults.append(f"{where}: the log began with entry {ends['begin'][0]}, and it is gone")
                elif entry["number"] != number + 1:
                    faults.append(f"{where}: entry {entry['number']} follows entry {number}")
                if (
                    ends is not None
                    and entry["number"] == ends["begin"][0]
                    and entry.get("previous") != ends["begin"][1]
                ):
                    faults.append(f"{where}: entry {entry['number']} is not the one that the log began with")
                if previous is not None and entry.get("previous") != previous:
                    faults.append(f"{where}: entry {entry['number']} does not continue the one before it")
                if entry.get("hash") != entry_hash(entry):
                    faults.append(f"{where}: entry {entry['number']} was changed")
                number, previous = entry["number"], entry.get("hash")
                for server, (heard, digest) in list(seen.items()):
                    if heard == number:
                        del seen[server]
                        if digest != previous:
                            faults.append(f"{where}: {server} knows another entry {number}")
        if ends is not None and [number or 0, previous or START] != ends["end"]:
            faults.append(f"the log ended with entry {ends['end'][0]}, and the last one is {number or 0}")
        if ends is None and count:
            faults.append(f"{self._ends_path} is missing or damaged: nothing tells where the log begins and ends")
        faults += [
            f"{server} knows entry {heard}, and it is not here"
            for server, (heard, _) in seen.items()
            if heard > (number or 0) or (heard >= first and heard > 0)
        ]
        return Verdict(count, first, number or 0, previous or START, faults[:100])

    def _open_chain(self) -> tuple[int, str]:
        if self._last is None:
            private_directory(self.directory)
            last: tuple[int, str] | None = None
            for path in reversed(self._files()):
                self._end_line(path)
                for entry in _lines(path):
                    if isinstance(entry, dict) and isinstance(entry.get("number"), int):
                        last = (entry["number"], str(entry.get("hash")))
                if last is not None:
                    break
            ends = self._read_ends()
            if ends is not None and last is not None and last[0] == ends["end"][0] + 1:
                # It was written, and the machine stopped before that was noted.
                self._last = last
                self._save_ends()
            elif ends is not None:
                # Whatever the file says, the chain goes on from what was written: a cut shows for ever.
                last = (int(ends["end"][0]), str(ends["end"][1]))
            self._last = last or (0, START)
        return self._last

    def _end_line(self, path: Path) -> None:
        """A line that was half written when the machine stopped becomes a line of its own."""
        try:
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                with path.open("ab") as file:
                    file.write(b"\n")
        except OSError as error:
            raise not_written(path, error) from None

    def _rotate(self) -> None:
        try:
            if not self.path.exists() or self.path.stat().st_size < self._maximum_bytes:
                return
            files = self._files()
            old = files[: max(0, len(files) - self._maximum_files + 1)]
            if old:
                begin = next((first for path in files[len(old) :] if (first := _first(path)) is not None), None)
                self._save_ends(begin)  # only this moves the beginning: whatever else misses there was taken away
                for path in old:
                    path.unlink()
            for path in self._files():
                path.replace(self.directory / f"{FILE_NAME}.{_file_number(path) + 1}")
        except OSError as error:
            raise not_written(self.path, error) from None

    def _save_ends(self, begin: list[Any] | None = None) -> None:
        if begin is None:
            former = self._read_ends()
            if former is not None:
                begin = former["begin"]
            else:
                begin = next((first for path in self._files() if (first := _first(path)) is not None), [1, START])
        write_file(self._ends_path, json.dumps({"begin": begin, "end": list(self._last or (0, START))}).encode())

    def _read_ends(self) -> dict[str, Any] | None:
        try:
            data = json.loads(read_file(self._ends_path))
            if all(isinstance(data[key], list) and isinstance(data[key][0], int) for key in ("begin", "end")):
                return {"begin": data["begin"], "end": data["end"]}
        except NotFound:
            return None
        except (PorticoError, ValueError, LookupError, TypeError):
            log.error("file=%s is damaged", self._ends_path)
        return None

    def _files(self) -> list[Path]:
        """Oldest first."""
        found = [path for path in self.directory.glob(f"{FILE_NAME}*") if _file_number(path) >= 0]
        return sorted(found, key=_file_number, reverse=True)

    def _descriptor(self) -> _Opened:
        private_directory(self.directory)
        return _Opened(self.path)


class _Opened:
    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
            )
        except OSError as error:
            raise not_written(path, error) from None

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def entry_hash(entry: Mapping[str, Any]) -> str:
    """SHA-256 of an entry without its hash, as lower-case hex."""
    data = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def redacted(value: Any, name: str = "", depth: int = 0) -> Any:
    """JSON data with what may be secret hidden, long texts cut and deep data left out. Pure."""
    if name == "yaml" and isinstance(value, str):
        return f"({len(value)} characters)"  # before and after say what it changed
    if name and _secret(name) and value not in (None, "", False, True) and not isinstance(value, int):
        return HIDDEN
    if depth > 8:
        return "(deeper)"
    if isinstance(value, Mapping):
        return {str(key)[:200]: redacted(item, str(key), depth + 1) for key, item in list(value.items())[:200]}
    if isinstance(value, (list, tuple)):
        shown = [redacted(item, name, depth + 1) for item in value[:200]]
        return shown if len(value) <= 200 else [*shown, f"({len(value) - 200} more)"]
    if isinstance(value, str):
        if "PRIVATE KEY-----" in value:
            return HIDDEN
        text = value.encode("utf-8", "replace").decode()
        return (
            text
            if len(text) <= MAXIMUM_VALUE
            else f"{text[:MAXIMUM_VALUE]}({len(text) - MAXIMUM_VALUE} more characters)"
        )
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:MAXIMUM_VALUE]


def _secret(name: str) -> bool:
    lowered = name.lower().rpartition(".")[2].partition("[")[0]  # a setting goes by its path
    return lowered not in _NO_SECRET and any(
        lowered == word or lowered.endswith(f"_{word}") or lowered.startswith(f"{word}_") for word in _SECRET
    )


def _file_number(path: Path) -> int:
    end = path.name.removeprefix(FILE_NAME)
    if not end:
        return 0
    return int(end[1:]) if end.startswith(".") and end[1:].isdigit() else -1


def _first(path: Path) -> list[Any] | None:
    """Number and predecessor's hash of a file's first entry."""
    entry = next((e for e in _lines(path) if isinstance(e, dict) and isinstance(e.get("number"), int)), None)
    return [entry["number"], entry.get("previous")] if entry is not None else None


def _lines(path: Path, *, backwards: bool = False) -> Iterator[Any]:
    """What each line holds, read as it is asked for; None for one that is no JSON."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    lines = data.splitlines()
    for line in reversed(lines) if backwards else lines:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield None
