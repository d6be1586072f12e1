"""Takes /etc/resolv.conf over and gives it back, also after a crash.

What was there is kept twice: in a record beside the client's state, and as comments in the file that replaces it, so
that it can be given back even when the record is lost. A file that somebody else has written meanwhile is theirs: it is
never overwritten by what was there before, but becomes the new "before".
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import json
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from portico.errors import PorticoError, Unavailable
from portico.files import not_written, read_file, write_file

log = logging.getLogger("portico.client.resolv_conf")

MARKER = "# Written by portico client: names of the intranet are resolved through its tunnel."
_KEPT = "#| "
_LIMIT = 64 * 1024
MAX_NAMESERVERS = 8


@dataclass(frozen=True)
class ResolvConf:
    """What a resolv.conf says; lines that cannot be understood are left out."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    """Reads resolv.conf(5). The last `search` or `domain` line counts."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1 and _is_address(words[1]):
            nameservers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return ResolvConf(tuple(nameservers[:MAX_NAMESERVERS]), search, tuple(options))


def render(before: str, *, address: str, search: Sequence[str]) -> str:
    """Our file: the resolver's address, the search list with the intranet's domains behind the machine's own."""
    former = parse(before)
    names = list(dict.fromkeys([*former.search, *search]))
    lines = [MARKER, "# 'portico client disconnect' gives back what was here before:"]
    lines += [_KEPT + line for line in before.splitlines()]
    lines.append(f"nameserver {address}")
    if names:
        lines.append("search " + " ".join(names))
    if former.options:
        lines.append("options " + " ".join(former.options))
    return "\n".join(lines) + "\n"


def kept(text: str) -> str:
    """The former file from the comments of ours."""
    lines = [line[len(_KEPT) :] for line in text.splitlines() if line.startswith(_KEPT)]
    return "".join(line + "\n" for line in lines)


@dataclass(frozen=True)
class Before:
    """What was at the path: a file (its content), a symbolic link (its target), or nothing."""

    kind: str
    content: str = ""
    target: str = ""
    mode: int = 0o644

    def as_json(self) -> bytes:
        """The record as it is stored."""
        content = base64.b64encode(self.content.encode("utf-8", "surrogateescape")).decode()
        return json.dumps(
            {"version": 1, "kind": self.kind, "content": content, "target": self.target, "mode": self.mode}
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Before:
        """Reads a record. Raises ValueError for anything else."""
        fields = json.loads(data)
        if not isinstance(fields, dict) or fields.get("version") != 1:
            raise ValueError("it is not a record of version 1")
        kind, target, mode = fields.get("kind"), fields.get("target"), fields.get("mode")
        if kind not in ("file", "symlink", "missing") or not isinstance(target, str) or not isinstance(mode, int):
            raise ValueError("a field is missing")
        if (kind == "symlink" and not target) or "\0" in target:
            raise ValueError("the link has no target")
        try:
            content = base64.b64decode(str(fields.get("content")), validate=True).decode("utf-8", "surrogateescape")
        except binascii.Error as error:
            raise ValueError(str(error)) from None
        return cls(kind, content, target, mode & 0o777)


class ResolvConfFile:
    """One machine's resolv.conf.

    Args:
        path: normally /etc/resolv.conf.
        record: where what was there is kept while it is taken over.
    """

    def __init__(self, path: Path, record: Path) -> None:
        self.path = path
        self.record = record

    def is_ours(self) -> bool:
        """Whether the file at the path was written by us."""
        return not self.path.is_symlink() and self._read(self.path).startswith(MARKER)

    def take(self, *, address: str, search: Sequence[str]) -> bool:
        """Points the machine at our resolver. Does nothing and returns False when it already is.

        Raises:
            Unavailable: code FILE_NOT_WRITTEN; the file is as it was.
        """
        if self.is_ours():
            before = self._before()
            if before is None:
                before = Before("file", kept(self._read(self.path)))
        else:
            before = self._look()
        # The record first: a crash between the two writes leaves a record too many, which giving back recognises.
        text = render(self._former_text(before), address=address, search=search)
        if self.is_ours() and self._read(self.path) == text and self.record.exists():
            return False
        write_file(self.record, before.as_json())
        self._replace(text, 0o644)
        return True

    def give_back(self) -> bool:
        """Puts back what was there before, if the file is still ours; True when something was put back.

        Raises:
            Unavailable: code FILE_NOT_WRITTEN; the file and the record are as they were.
        """
        changed = False
        if self.is_ours():
            before = self._before()
            if before is None:
                before = Before("file", kept(self._read(self.path)))
            self._restore(before)
            changed = True
        with contextlib.suppress(FileNotFoundError):
            self.record.unlink()
        return changed

    def upstream(self) -> ResolvConf:
        """What the machine would use without us, now: the target of the former link is read anew each time."""
        if not self.is_ours():
            return parse(self._read(self.path))
        before = self._before()
        if before is None:
            return parse(kept(self._read(self.path)))
        return parse(self._former_text(before))

    def signature(self) -> tuple[object, ...]:
        """Changes when the file, or the target of the former link, changes. Cheap enough to ask every second."""
        seen: list[object] = []
        before = self._before() if self.is_ours() else None
        places = [self.path]
        if before is not None and before.kind == "symlink":
            places.append(self.path.parent / before.target)
        for place in places:
            try:
                found = place.stat()
                seen.append((found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
            except OSError as error:
                seen.append(error.errno)
        return tuple(seen)

    def _look(self) -> Before:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return Before("missing")
        except OSError as error:
            raise not_written(self.path, error) from None
        if stat.S_ISLNK(found.st_mode):
            return Before("symlink", self._read(self.path), str(self.path.readlink()))
        if not stat.S_ISREG(found.st_mode):
            raise Unavailable(
                f"cannot take over {self.path}",
                why="it is neither a file nor a symbolic link",
                resolution=f"Look at it: ls -ld {self.path}",
                code="FILE_NOT_WRITTEN",
            )
        return Before("file", self._read(self.path), mode=stat.S_IMODE(found.st_mode))

    def _former_text(self, before: Before) -> str:
        if before.kind == "symlink":
            live = self._read(self.path.parent / before.target)
            if live:
                return live
        return before.content

    def _before(self) -> Before | None:
        try:
            return Before.from_json(read_file(self.record))
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                log.warning("%s; what was in %s is taken from its own comments", error, self.path)
        except (ValueError, RecursionError) as error:
            log.warning("%s is damaged (%s); what was in %s is taken from its comments", self.record, error, self.path)
        return None

    def _restore(self, before: Before) -> None:
        if before.kind == "file":
            self._replace(before.content, before.mode)
            return
        try:
            if before.kind == "missing":
                self.path.unlink()
                return
            temporary = self.path.with_name(f".{self.path.name}.portico")
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            temporary.symlink_to(before.target)
            temporary.replace(self.path)
        except OSError as error:
            raise not_written(self.path, error) from None

    def _replace(self, text: str, mode: int) -> None:
        data = text.encode("utf-8", "surrogateescape")
        try:
            write_file(self.path, data, mode=mode)
        except Unavailable:
            # A file that is itself a mount point (containers, ip netns exec) can be written but not replaced.
            if not os.path.ismount(self.path) and not self._is_mounted():
                raise
            try:
                self.path.write_bytes(data)
            except OSError as error:
                raise not_written(self.path, error) from None

    def _is_mounted(self) -> bool:
        try:
            self.path.rename(self.path)  # the same name: succeeds, or says that it is a mount point
            probe = Path("/proc/self/mountinfo").read_text()
        except OSError as error:
            return error.errno == errno.EBUSY
        return any(line.split()[4:5] == [str(self.path)] for line in probe.splitlines())

    def _read(self, path: Path) -> str:
        try:
            return read_file(path, limit=_LIMIT).decode("utf-8", "surrogateescape")
        except PorticoError as error:
            if error.code not in ("FILE_MISSING", "FILE_EMPTY"):
                log.warning("%s", error)
            return ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
