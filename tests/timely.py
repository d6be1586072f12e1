"""Bounds on time that hold on a busy machine: what others take from a test is given back to it."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

_TICK = 0.005
_TURNS = 10
"""Wakeups one after the other (threads here, of the gateway, and of the kernel) that a step of a test has at most; each
may wait for a processor as long as the watch did."""


class Within:
    """`with Within(seconds):` fails when its block takes longer, on a machine that does nothing else.

    A watch sleeps meanwhile, again and again for a moment. By what it oversleeps it knows how long who is ready to run
    waits for a processor here, and the block has that much longer.

    Raises:
        AssertionError: it took longer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lost = 0.0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        took = time.monotonic() - self._began
        self._over.set()
        self._watch.join()
        if kind is None:
            given = self.seconds + _TURNS * self._lost
            assert took < given, f"{took:.2f} s, not within {self.seconds} s ({given:.2f} s on this machine now)"

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_TICK):
            now = time.monotonic()
            self._lost += max(0.0, now - before - 2 * _TICK)
            before = now
