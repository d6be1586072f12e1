"""A change that was begun and never ended, because its process died: after the next start it is told what became of it.

The change itself needs no note: its revision is stored or it is not. This is for the administrator, who has lost the
connection and must not guess.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from portico.errors import NotFound, PorticoError
from portico.files import read_file, remove_file, write_file
from portico.settings.store import Revision

log = logging.getLogger("portico.server")

NAME = "change.json"


class ChangeInterrupted(PorticoError):
    """A change was begun and its process ended before it did. `why` says which revision is in force."""

    code = "CHANGE_INTERRUPTED"


class Interrupted:
    """The note about the change in flight on this server.

    Attributes:
        problem: what became of a change of an earlier process; None when none was interrupted.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / NAME
        self.problem: ChangeInterrupted | None = None
        self._found: dict[str, Any] | None = self._read()

    def begin(self, former: Revision | None, digest: str, *, author: str, comment: str) -> None:
        """A change begins. Raises Unavailable: it must not, for nothing could be written."""
        self._found = self.problem = None
        note = {
            "base": former.number if former is not None else 0,
            "base_sha256": former.sha256 if former is not None else "",
            "sha256": digest,
            "author": author,
            "comment": comment,
        }
        write_file(self._path, json.dumps(note).encode())

    def end(self) -> None:
        """It ended, one way or the other."""
        try:
            remove_file(self._path)
        except OSError as error:
            log.warning("file=%s cannot be removed: %s", self._path, error)

    def in_force(self, revision: Revision) -> None:
        """A revision is in force: says what became of the change of an earlier process, until another one follows."""
        note = self._found
        if note is None:
            return
        if revision.sha256 == note["sha256"] and revision.number > note["base"]:
            outcome = f"it took place: revision {revision.number} is in force"
        elif revision.sha256 == note["base_sha256"]:
            outcome = f"it did not take place: revision {revision.number} is in force, as before"
        else:
            self._found = self.problem = None
            self.end()
            return
        what = f"The change of {note['author']}" + (f" ({note['comment']})" if note["comment"] else "")
        if self.problem is None or self.problem.why != outcome:
            log.warning("interrupted change: %s", outcome)
        self.problem = ChangeInterrupted(
            f"{what} was interrupted",
            why=outcome,
            resolution="Look at it: portico settings history; this message goes with the next change",
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            data = json.loads(read_file(self._path))
            return {
                "base": int(data["base"]),
                **{key: str(data[key]) for key in ("base_sha256", "sha256", "author", "comment")},
            }
        except NotFound:
            return None
        except (PorticoError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("file=%s cannot be read: %s", self._path, error)
            return None
