"""Inside or outside: the decision, as a table of transitions. Sans-IO: events and `now` in, actions and a timer out.

Only a valid answer of the network location server on the network as it is now means inside. Each change of the network
begins a new generation, and an answer to a question of an older one is dropped and counted. Outside, the tunnel is
dialled at once and not after the location server's silence; a proof of inside takes it down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

SETTLE: Final = 0.2
"""Seconds without a further change before the network counts as changed."""

SETTLE_AT_MOST: Final = 1.0
"""Seconds after the first change when the question is asked even if changes go on."""

PATIENCE: Final = 5.0
"""Seconds without an answer after which the location server counts as silent."""

AGAIN: Final = 30.0
"""Seconds between two questions on an unchanged network."""


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
    PROVEN = "proven"
    """TLS valid, name matched and 200, outside of the tunnel."""
    NOT_PROVEN = "not proven"
    """Anything else: silence, a redirect, a foreign certificate, no such name."""


class Action(Enum):
    """What the shell must do."""

    ASK = "ask"
    """Ask the location server on the physical path, and give the answer with `Locator.generation`."""
    DIAL = "dial"
    """Tunnel up, NRPT on."""
    TAKE_DOWN = "take down"
    """Tunnel down, NRPT off."""


@dataclass(frozen=True)
class Transition:
    """The next place and what is done on the way."""

    place: Place
    actions: tuple[Action, ...] = ()


_LOST: Final = Transition(Place.NOWHERE)
_ASKED: Final = Transition(Place.UNKNOWN, (Action.DIAL, Action.ASK))
_IN: Final = Transition(Place.INSIDE, (Action.TAKE_DOWN,))

TRANSITIONS: Final[dict[tuple[Place, Sign], Transition]] = {
    (Place.NOWHERE, Sign.NO_NETWORK): _LOST,
    (Place.NOWHERE, Sign.NETWORK): _ASKED,
    (Place.UNKNOWN, Sign.NO_NETWORK): _LOST,
    (Place.UNKNOWN, Sign.NETWORK): _ASKED,
    (Place.UNKNOWN, Sign.PROVEN): _IN,
    (Place.UNKNOWN, Sign.NOT_PROVEN): Transition(Place.OUTSIDE),
    (Place.INSIDE, Sign.NO_NETWORK): _LOST,
    (Place.INSIDE, Sign.NETWORK): _ASKED,
    (Place.INSIDE, Sign.PROVEN): Transition(Place.INSIDE),
    (Place.INSIDE, Sign.NOT_PROVEN): Transition(Place.OUTSIDE, (Action.DIAL,)),
    (Place.OUTSIDE, Sign.NO_NETWORK): _LOST,
    (Place.OUTSIDE, Sign.NETWORK): _ASKED,
    (Place.OUTSIDE, Sign.PROVEN): _IN,
    (Place.OUTSIDE, Sign.NOT_PROVEN): Transition(Place.OUTSIDE),
}
"""An answer on no network is not in the table: nobody was asked."""


class Locator:
    """The decision. `timer` is the time of the caller's clock at which `expire` must be called; None: never."""

    def __init__(self) -> None:
        self.place = Place.NOWHERE
        self.generation = 0
        self.timer: float | None = None
        self.dropped = 0
        """Answers that belonged to an earlier network or to no open question."""
        self._open = False
        self._network = False
        self._changed: float | None = None

    def changed(self, now: float, *, network: bool) -> tuple[Action, ...]:
        """A link, address or route changed; `network`: there is a default path now. Inside ends at once."""
        self.generation += 1
        self._open = False
        self._network = network
        if self._changed is None:
            self._changed = now
        self.timer = min(now + SETTLE, max(now, self._changed + SETTLE_AT_MOST))
        return self._move(Sign.NO_NETWORK)

    def answered(self, now: float, generation: int, *, proven: bool) -> tuple[Action, ...]:
        """The answer to the question of `generation`."""
        if generation != self.generation or not self._open:
            self.dropped += 1
            return ()
        self._open = False
        self.timer = now + AGAIN
        return self._move(Sign.PROVEN if proven else Sign.NOT_PROVEN)

    def expire(self, now: float) -> tuple[Action, ...]:
        """The timer; early calls do nothing."""
        if self.timer is None or now < self.timer:
            return ()
        if self._open:
            return self.answered(now, self.generation, proven=False)
        changed = self._changed is not None
        self._changed = None
        if not self._network:
            self.timer = None
            return ()
        self._open = True
        self.timer = now + PATIENCE
        return self._move(Sign.NETWORK) if changed else (Action.ASK,)

    def _move(self, sign: Sign) -> tuple[Action, ...]:
        step = TRANSITIONS[self.place, sign]
        self.place = step.place
        return step.actions
