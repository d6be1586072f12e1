"""Events on their way to the shell, and counters of what was refused. Bounded. Pure."""

from __future__ import annotations

from collections import Counter, deque

from portico.cluster.events import Event, Refused
from portico.cluster.wire import ProtocolError, Reason

MAX_EVENTS = 1000
REFUSAL_INTERVAL = 1.0
"""Seconds between two events about one reason."""


class Outbox:
    """Events in order; the oldest are dropped and counted when nobody fetches them.

    Attributes:
        refused: frames that changed nothing, by reason, since the start.
        dropped: events that nobody fetched in time.
    """

    def __init__(self) -> None:
        self.refused: Counter[Reason] = Counter()
        self.dropped = 0
        self._events: deque[Event] = deque()
        self._told: dict[Reason, tuple[float, int]] = {}

    def put(self, event: Event) -> None:
        """Adds an event."""
        if len(self._events) == MAX_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)

    def take(self) -> Event | None:
        """The oldest event."""
        return self._events.popleft() if self._events else None

    def refuse(self, error: ProtocolError, host: int, now: float) -> None:
        """Counts a refused frame, and tells of it unless the same was told just now."""
        reason = error.reason
        self.refused[reason] += 1
        at, count = self._told.get(reason, (float("-inf"), 0))
        if now - at < REFUSAL_INTERVAL:
            return
        self._told[reason] = (now, self.refused[reason])
        self.put(Refused(reason, self.refused[reason] - count, host, str(error)))
