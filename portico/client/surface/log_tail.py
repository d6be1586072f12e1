"""The agent's last log lines, kept in memory: a support bundle has them on computers without a journal too."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

MAXIMUM_LINES: Final = 2000
MAXIMUM_LENGTH: Final = 1000
"""Characters of a line; the rest is left out."""


class Tail(logging.Handler):
    """Keeps the newest lines. A record of several lines (a traceback) counts as so many."""

    def __init__(self, maximum: int = MAXIMUM_LINES) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        self._lines: deque[str] = deque(maxlen=maximum)
        self._seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        for line in text.splitlines():
            self._lines.append(line if len(line) <= MAXIMUM_LENGTH else _shorten(line))
            self._seen += 1

    def as_dict(self) -> dict[str, Any]:
        """The lines, oldest first, and how many older ones are forgotten."""
        lines = list(self._lines)
        return {"lines": lines, "forgotten": self._seen - len(lines)}


def _shorten(line: str) -> str:
    """Its beginning, up to the end of a word: half a secret would not be recognised in a bundle."""
    kept = line[:MAXIMUM_LENGTH].rpartition(" ")[0]
    return f"{kept} ({len(line) - len(kept)} characters more)"
