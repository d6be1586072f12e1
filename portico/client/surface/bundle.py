"""The support bundle: one compressed file, mode 0600, that says what is the matter and holds no secret."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from portico import __version__
from portico.client.surface.redaction import Redactor
from portico.client.surface.sources import MARGIN, Item
from portico.errors import Conflict, NotFound, PorticoError
from portico.files import write_file

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Piece:
    """What became of an item.

    Attributes:
        removed: places from which a secret was taken.
        problem: why there is no more than this text; empty when there is.
    """

    name: str
    source: str
    data: bytes
    truncated: bool = False
    removed: int = 0
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: everything but the content."""
        return {
            "name": self.name, "source": self.source, "bytes": len(self.data), "truncated": self.truncated,
            "secrets_removed": self.removed, "problem": self.problem,
        }  # fmt: skip


def gather(items: Sequence[Item], redactor: Redactor, on_item: Callable[[Item], None] = lambda _: None) -> list[Piece]:
    """Takes every item. One that fails says why and costs no other one."""
    pieces = []
    for item in items:
        on_item(item)
        problem = ""
        try:
            data = item.take()
        except PorticoError as error:
            problem, data = error.what + (f": {error.why}" if error.why else ""), b""
        before = redactor.removed
        whole = len(data) <= item.limit
        data = redactor.clean(data)
        if not whole:
            data = data[:-MARGIN]  # its end may be half a secret, which was not recognised
        problem = redactor.clean(problem.encode("utf-8", "replace")).decode("utf-8", "replace")
        data = problem.encode() + b"\n" if problem else data[: item.limit]
        pieces.append(Piece(item.name, item.source, data, not whole, redactor.removed - before, problem))
    return pieces


def pack(pieces: Sequence[Piece], now: datetime) -> bytes:
    """The bundle's bytes: a compressed archive of the pieces and a manifest, in one directory."""
    directory = f"portico-client-{_stamp(now)}"
    manifest = {
        "format": FORMAT,
        "portico": __version__,
        "created": now.astimezone(UTC).isoformat(timespec="seconds"),
        "items": [piece.as_dict() for piece in pieces],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, data in ((MANIFEST, text), *((piece.name, piece.data) for piece in pieces)):
            entry = tarfile.TarInfo(f"{directory}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(now.timestamp())
            archive.addfile(entry, io.BytesIO(data))
    return whole.getvalue()


def place(output: Path | None, now: datetime) -> Path:
    """Where the bundle goes: the file that was named, or one of a new name in the named or the current directory.

    Raises:
        Conflict: code FILE_EXISTS.
        NotFound: its directory does not exist.
    """
    name = f"portico-client-{_stamp(now)}.tar.gz"
    path = Path(name) if output is None else output / name if output.is_dir() else output
    path = path.absolute()
    if os.path.lexists(path):
        raise Conflict(
            f"{path} was not written", why="it exists", resolution="Name another one with --output", code="FILE_EXISTS"
        )
    if not path.parent.is_dir():
        raise NotFound(
            f"{path} cannot be written", why="its directory does not exist", resolution=f"mkdir -p {path.parent}"
        )
    return path


def write(path: Path, data: bytes) -> None:
    """Writes the bundle, for its owner only. Raises Unavailable (FILE_NOT_WRITTEN)."""
    write_file(path, data, mode=0o600)


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
