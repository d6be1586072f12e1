"""Inside or outside: the decision, as a table of transitions. Sans-IO: events and `now` in, actions and a timer out.

Only a valid answer of the network location server on the network as it is now means inside. Each change of the network
begins a new generation, and an answer to a question of an older one is dropped and counted. Where this computer is not
known to be inside, the tunnel is dialled at once and not after the location server's silence; a proof of inside takes
it down. Only somebody who was inside a moment ago gives the location server a short head start: most changes in an
office (an address that is renewed, a second card) do not lead outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

SETTLE: Final = 0.2
"""Seconds between two questions at least: the first change is asked about at once, those behind it together."""

HEAD_START: Final = 0.25
"""Seconds that the location server has to prove that a computer is still inside before the tunnel is dialled."""

PATIENCE: Final = 5.0
"""Seconds without an answer after which the location server counts as silent."""

AGAIN: Final = 300.0
"""Seconds between two questions on an unchanged network: ten thousand computers in an office ask one server."""

AGAIN_FIRST: Final = 1.0
"""Seconds until the next question after the first one that proved nothing: packets get lost on networks that have just
come up, and their DNS servers become known later. Doubled each time, up to `AGAIN`."""

DOUBTS: Final = 3
"""Questions without a proof, on an unchanged network, after which a computer inside is outside."""

DOUBT_AGAIN: Final = 2.0
"""Seconds between those."""


class Place(StrEnum):
    """Where this computer is."""

    NOWHERE = "nowhere"
    """No network."""
    UNKNOWN = "unknown"
    """Being asked; the tunnel is dialled meanwhile."""
    INSIDE = "inside"
    OUTSIDE = "outside"


class Sign(Enum):
    """What moves the decision."""

    NO_NETWORK = "no network"
    NETWORK = "network"
    """It has changed, and there is one."""
    PROVEN = "proven"
    """TLS valid, not revoked, name matched and 200, outside of the tunnel."""
    NOT_PROVEN = "not proven"
    """Anything else: silence, a redirect, a foreign certificate, no such name."""


class Action(Enum):
    """What the shell must do. Each may be asked for when it is done already."""

    ASK = "ask"
    """Ask the location server on the physical path, and give the answer with `Locator.generation`."""
    DIAL = "dial"
    """Tunnel up, NRPT on."""
    TAKE_DOWN = "take down"
    """Tunnel down, NRPT off."""


@dataclass(frozen=True)
class Transition:
    """The next place and what is done on the way; `dial_later`: dial when the head start is over."""

    place: Place
    actions: tuple[Action, ...] = ()
    dial_later: bool = False


_LOST: Final = Transition(Place.NOWHERE)
_ASKED: Final = Transition(Place.UNKNOWN, (Action.DIAL,))
_IN: Final = Transition(Place.INSIDE, (Action.TAKE_DOWN,))
_OUT: Final = Transition(Place.OUTSIDE, (Action.DIAL,))

TRANSITIONS: Final[dict[tuple[Place, Sign], Transition]] = {
    (Place.NOWHERE, Sign.NO_NETWORK): _LOST,
    (Place.NOWHERE, Sign.NETWORK): _ASKED,
    (Place.UNKNOWN, Sign.NO_NETWORK): _LOST,
    (Place.UNKNOWN, Sign.NETWORK): _ASKED,
    (Place.UNKNOWN, Sign.PROVEN): _IN,
    (Place.UNKNOWN, Sign.NOT_PROVEN): _OUT,
    (Place.INSIDE, Sign.NO_NETWORK): _LOST,
    (Place.INSIDE, Sign.NETWORK): Transition(Place.UNKNOWN, dial_later=True),
    (Place.INSIDE, Sign.PROVEN): _IN,
    (Place.INSIDE, Sign.NOT_PROVEN): _OUT,
    (Place.OUTSIDE, Sign.NO_NETWORK): _LOST,
    (Place.OUTSIDE, Sign.NETWORK): _ASKED,
    (Place.OUTSIDE, Sign.PROVEN): _IN,
    (Place.OUTSIDE, Sign.NOT_PROVEN): _OUT,
}
"""An answer without a network is not in the table: nobody was asked. Whoever asks for it gets KeyError."""


class Locator:
    """The decision."""

    def __init__(self) -> None:
        self.place = Place.NOWHERE
        self.generation = 0
        self.dropped = 0
        """Answers that belonged to an earlier network or to no open question."""
        self._failures = 0
        self._asked: float | None = None
        self._ask_at: float | None = None
        self._silent_at: float | None = None
        """Not None while a question is open."""
        self._dial_at: float | None = None

    @property
    def timer(self) -> float | None:
        """When `expire` must be called, on the caller's clock; None: never."""
        times = [at for at in (self._ask_at, self._silent_at, self._dial_at) if at is not None]
        return min(times, default=None)

    def changed(self, now: float, *, network: bool) -> tuple[Action, ...]:
        """An address, link or resolver changed, or the computer slept; `network`: there is one now. Inside ends."""
        self.generation += 1
        self._silent_at = self._ask_at = None
        self._failures = 0
        if not network:
            self._dial_at = None
            return self._move(Sign.NO_NETWORK, now)
        return (*self._question(now), *self._move(Sign.NETWORK, now))

    def look_again(self, now: float) -> tuple[Action, ...]:
        """Somebody wants to know now. The place stays what it is until the answer."""
        if self.place is Place.NOWHERE or self._silent_at is not None:
            return ()
        return self._question(now)

    def answered(self, now: float, generation: int, *, proven: bool) -> tuple[Action, ...]:
        """The answer to the question of `generation`."""
        if generation != self.generation or self._silent_at is None:
            self.dropped += 1
            return ()
        self._silent_at = None
        if proven:
            self._failures, self._ask_at = 0, now + AGAIN
            return self._move(Sign.PROVEN, now)
        self._failures += 1
        if self.place is Place.INSIDE and self._failures < DOUBTS:
            self._ask_at = now + DOUBT_AGAIN
            return ()
        self._ask_at = now + min(AGAIN_FIRST * 2.0 ** min(self._failures - 1, 16), AGAIN)
        return self._move(Sign.NOT_PROVEN, now)

    def expire(self, now: float) -> tuple[Action, ...]:
        """The timer; early calls do nothing."""
        actions: tuple[Action, ...] = ()
        if self._dial_at is not None and now >= self._dial_at:
            self._dial_at = None
            actions = (Action.DIAL,)
        if self._silent_at is not None and now >= self._silent_at:
            return (*actions, *self.answered(now, self.generation, proven=False))
        if self._ask_at is not None and now >= self._ask_at:
            actions += self._question(now)
        return actions

    def _question(self, now: float) -> tuple[Action, ...]:
        """Asks now, or when the last question is old enough."""
        if self._asked is not None and now < self._asked + SETTLE:
            self._ask_at = self._asked + SETTLE
            return ()
        self._asked, self._ask_at, self._silent_at = now, None, now + PATIENCE
        return (Action.ASK,)

    def _move(self, sign: Sign, now: float) -> tuple[Action, ...]:
        step = TRANSITIONS[self.place, sign]
        self.place = step.place
        if step.dial_later:
            self._dial_at = now + HEAD_START
        elif step.actions:
            self._dial_at = None
        return step.actions
