"""Who sees fewer VIP frames than the others, and who comes and goes too often. Pure.

Every member should see every frame for the VIPs. One that does not, though its heartbeats arrive, is on a switch port
that lost the group's membership, or a switch learned the cluster's MAC address elsewhere. It cannot know this from its
own counter alone, but it can by comparing with what the others count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median

from portico.cluster.heartbeat import FrameCount

WINDOW = 1.0
"""Seconds over which frames are compared."""

FEWEST = 20
"""Frames the others must see in a window before a difference means anything."""

SAMPLES = 128
"""Kept for each host; taken at most eighty times in a window."""


@dataclass(frozen=True)
class Lag:
    """One network card's frames in the window: ours, and the median of the others."""

    nic: int
    seen: int
    median: int


@dataclass
class _History:
    boot: int
    samples: deque[tuple[float, tuple[int, ...]]] = field(default_factory=lambda: deque(maxlen=SAMPLES))


class FrameWatch:
    """Counters of all members over the last window. At most 32 hosts."""

    def __init__(self) -> None:
        self._hosts: dict[int, _History] = {}

    def add(self, host: int, boot: int, frames: Sequence[FrameCount], now: float) -> None:
        """A host's counters, cumulative since its boot."""
        history = self._hosts.get(host)
        if history is None or history.boot != boot:
            history = self._hosts[host] = _History(boot)
        samples = history.samples
        if samples and now - samples[-1][0] < WINDOW / 80:
            return
        seen = tuple(count.seen for count in frames)
        if samples and any(after < before for before, after in zip(samples[-1][1], seen, strict=False)):
            samples.clear()  # a filter installed anew counts from nought, which makes nobody deaf
        samples.append((now, seen))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW:
            samples.popleft()

    def counted(self, host: int) -> float | None:
        """When a host's counters were last taken; None: never."""
        history = self._hosts.get(host)
        return history.samples[-1][0] if history is not None and history.samples else None

    def increase(self, host: int, nic: int, now: float) -> int | None:
        """Frames within the last window; None: the host has not been counting for so long, or paused.

        What a host that stood still counts afterwards is of all that time, and would make everybody else look deaf.
        """
        history = self._hosts.get(host)
        if history is None or not history.samples:
            return None
        (first, before), (last, after) = history.samples[0], history.samples[-1]
        if not WINDOW <= last - first <= 2 * WINDOW or now - last > WINDOW or nic >= min(len(before), len(after)):
            return None
        return after[nic] - before[nic]

    def judge(self, host: int, others: Collection[int], nics: int, deaf_on: int | None, now: float) -> Lag | None:
        """The network card on which a host lags, None if on none.

        A host that was deaf must see three quarters of the median, not half, to be so no longer, and stays deaf while
        nobody sees enough frames to compare: on the card on which it was, as the other may never have any. Where all
        others are deaf or gone, nobody is.

        Args:
            host: the one in question.
            others: whom to compare with; the deaf ones left out.
            deaf_on: the card on which the host was judged deaf before; None: it was not.
        """
        for nic in range(nics):
            deaf = nic == deaf_on
            mine = self.increase(host, nic, now)
            theirs = [found for other in others if (found := self.increase(other, nic, now)) is not None]
            if not theirs:
                continue  # nobody hears better: there is nobody to give anything to
            if mine is None:
                if deaf:
                    return Lag(nic, 0, 0)
                continue
            middle = int(median(theirs))
            if middle < FEWEST:
                if deaf and mine < FEWEST:
                    return Lag(nic, mine, middle)
                continue
            if (mine * 4 < middle * 3) if deaf else (mine * 2 < middle):
                return Lag(nic, mine, middle)
        return None


class Damping:
    """Hosts that left too often lately have to wait."""

    def __init__(self, most: int = 3, window: float = 60.0) -> None:
        self._most = most
        self._window = window
        self._departures: dict[int, deque[float]] = {}

    def departed(self, host: int, now: float) -> None:
        """A host died, or became unable to serve."""
        self._departures.setdefault(host, deque(maxlen=self._most)).append(now)

    def until(self, host: int) -> float:
        """Until when a host has to wait; in the past when it need not."""
        departures = self._departures.get(host)
        if departures is None or len(departures) < self._most:
            return float("-inf")
        return departures[0] + self._window

    def waits(self, host: int, now: float) -> bool:
        """Whether a host left as often as allowed within the window."""
        return now < self.until(host)
