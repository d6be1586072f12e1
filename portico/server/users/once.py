"""What is good once: remembered after it was used, until it would not be good any more. Sans-IO: `now` comes in."""

from __future__ import annotations

import threading
from typing import Final

MAXIMUM: Final = 10_000
"""Used ones that are remembered; while there are so many, none is good."""


class Once:
    """Times in seconds, of any one clock."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, text: str, until: float, now: float) -> bool:
        """Uses `text`, which is good until a time; whether it was good still."""
        with self._lock:
            if len(self._used) >= MAXIMUM:
                self._used = {used: end for used, end in self._used.items() if end >= now}
            if until < now or len(self._used) >= MAXIMUM or self._used.get(text, -1.0) >= now:
                return False
            self._used[text] = until
            return True
