"""How far each revision got on this server: distributed, retrieved, applied or failed, with times, kept on disk."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from portico.errors import NotFound, PorticoError
from portico.files import read_file, write_file

log = logging.getLogger("portico.server")

KEPT = 100


class Stage(StrEnum):
    DISTRIBUTED = "distributed"
    """Stored; every server can see it."""
    RETRIEVED = "retrieved"
    """Read and verified by this server."""
    APPLIED = "applied"
    FAILED = "failed"
    """Not applied; the revision before it is in force again."""


@dataclass
class RevisionProgress:
    """One revision on this server. Times are seconds since the epoch."""

    revision: int
    stage: Stage
    times: dict[str, float] = field(default_factory=dict)
    error: dict[str, str] | None = None
    rolled_back_to: int | None = None


class Progress:
    """The last `KEPT` revisions. A file that cannot be read or written costs the history, never the service.

    What is noted is on the disk with the next `save`, once for all stages of a change: nobody starts from it, and what
    a process that died meanwhile had done is told by the store (`portico.server.interrupted`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = True
        self.entries: list[RevisionProgress] = []
        try:
            self.entries = [_entry(item) for item in json.loads(read_file(path))]
        except NotFound:
            return  # the first start
        except (
            PorticoError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            log.warning("file=%s cannot be read, the history of revisions starts anew: %s", path, error)

    def note(self, revision: int, stage: Stage, at: float, *, error: PorticoError | None = None) -> RevisionProgress:
        """Records that a revision reached a stage."""
        entry = next((item for item in self.entries if item.revision == revision), None)
        if entry is None:
            entry = RevisionProgress(revision, stage)
            self.entries = [*self.entries, entry][-KEPT:]
        entry.stage = stage
        entry.times[stage.value] = at
        entry.error = error.as_dict() if error is not None else None
        log.info("revision=%d stage=%s%s", revision, stage.value, f" error={str(error)!r}" if error else "")
        self._saved = False
        return entry

    def rolled_back(self, revision: int, to: int) -> None:
        """Records which revision took a failed one's place."""
        for entry in self.entries:
            if entry.revision == revision:
                entry.rolled_back_to = to
        self._saved = False

    def get(self, revision: int) -> RevisionProgress | None:
        return next((item for item in self.entries if item.revision == revision), None)

    def as_list(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [asdict(entry) for entry in reversed(self.entries)]

    def save(self) -> None:
        """Writes what was noted. Blocking; nothing may be noted meanwhile. Never fails."""
        if self._saved:
            return
        try:
            # Without the copies that `asdict` makes of a hundred entries.
            write_file(self.path, json.dumps([vars(entry) for entry in self.entries]).encode())
        except PorticoError as error:
            log.warning("%s", error)
        self._saved = True


def _entry(item: Any) -> RevisionProgress:
    return RevisionProgress(
        revision=int(item["revision"]),
        stage=Stage(item["stage"]),
        times={str(name): float(at) for name, at in item["times"].items()},
        error={str(k): str(v) for k, v in item["error"].items()} if item["error"] else None,
        rolled_back_to=int(item["rolled_back_to"]) if item["rolled_back_to"] is not None else None,
    )
