"""What counters grew by lately. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

STEP = 10.0
"""Seconds between samples that are kept apart; a step is what the end of the window is fuzzy by."""


class Window:
    """Growth of counters over the last `seconds`.

    A counter that became smaller began anew (its process was restarted): what it counted since then is its growth.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last: dict[str, float] = {}
        self._steps: deque[tuple[float, dict[str, float]]] = deque()

    def add(self, now: float, counters: Mapping[str, float]) -> None:
        """Takes the counters of now. The first value of each is where its counting begins."""
        former = self._last
        self._last = {**former, **counters}
        if not self._steps or not 0 <= now - self._steps[-1][0] < STEP:
            self._steps.append((now, {}))
        step = self._steps[-1][1]
        for name, value in counters.items():
            before = former.get(name, value)
            grown = value - before if value >= before else value
            if grown:
                step[name] = step.get(name, 0.0) + grown
        while self._steps and not 0 <= now - self._steps[0][0] <= self.seconds:
            self._steps.popleft()

    def growth(self) -> dict[str, float]:
        """By name; counters that did not grow are left out."""
        found: dict[str, float] = {}
        for _, step in self._steps:
            for name, value in step.items():
                found[name] = found.get(name, 0.0) + value
        return found
