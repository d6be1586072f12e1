"""When to tell somebody: on changes that last, once, and never in a storm. Sans-IO.

    a change             waits `hold_down` seconds; what is over by then is counted and not told
    a subject that       changes `flap_changes` times within `flap_seconds` is told about once as flapping, and then
    flaps                only when it has been quiet for as long, with how many changes were left out
    more than `per_hour` are gathered, and told as one summary with names and numbers
    in a cluster         what all servers share is told by the one that leads, and its end by the one that told its
                         beginning; the others follow in silence, so that whoever leads next knows what was told

Times are seconds since the epoch. A clock that goes back makes waits longer by at most what it went back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from portico.health.alerting.conditions import CLUSTER, FINE, Condition, Subject
from portico.health.components import Component
from portico.health.states import HealthState

MAXIMUM_SUBJECTS: Final = 1000
SUMMARY_SECONDS: Final = 300.0
"""How long withheld alerts are gathered at least."""
BURST: Final = 10
"""Alerts at once, when there were none for a while."""
LISTED: Final = 30
"""Subjects that a summary names."""


class Kind(StrEnum):
    """Why an alert is sent."""

    RAISED = "raised"
    """Something became worse, or has one more cause."""
    CLEARED = "cleared"
    """It is fine again."""
    EASED = "eased"
    """It is better, and not fine."""
    FLAPPING = "flapping"
    STEADY = "steady"
    """It has stopped flapping; the state is what it is now."""
    SUMMARY = "summary"
    """Alerts that were withheld because there were too many."""


@dataclass(frozen=True)
class Policy:
    """How much is told. Seconds."""

    minimum: HealthState = HealthState.WARNING
    hold_down: float = 30.0
    flap_changes: int = 6
    flap_seconds: float = 600.0
    per_hour: int = 60


@dataclass(frozen=True)
class Alert:
    """One message.

    Attributes:
        subject: None for a summary.
        former: the state that was told last.
        suppressed: changes of this subject (a summary: alerts of all) that were not told by themselves.
        listed: a summary's subjects with their states.
    """

    kind: Kind
    at: float
    subject: Subject | None
    condition: Condition
    former: HealthState = HealthState.OK
    suppressed: int = 0
    listed: tuple[tuple[Subject, HealthState], ...] = ()


@dataclass(frozen=True)
class Voices:
    """Who may speak for all servers.

    Attributes:
        leads: this server is the one that speaks first.
        speakers: what other servers say that they told and is not over, by subject.
        answering: the other servers that answer.
    """

    own: str
    leads: bool = True
    speakers: Mapping[Subject, str] = field(default_factory=dict)
    answering: frozenset[str] = frozenset()


@dataclass
class _Told:
    """A subject. `told` is what was told last, `now` what is; `differs` since when they differ. `speaker` is the server
    that told it, empty while nobody has."""

    told: Condition = FINE
    now: Condition = FINE
    differs: float | None = None
    changes: deque[float] = field(default_factory=deque)
    flapping: bool = False
    suppressed: int = 0
    speaker: str = ""


@dataclass
class Counters:
    """What became of changes. `short`: over before the hold-down ended."""

    told: int = 0
    short: int = 0
    flapping: int = 0
    withheld: int = 0
    left_to_leader: int = 0
    subjects_refused: int = 0


class Alerting:
    """Decides what is told.

    Args:
        kept: what `as_data` returned before a restart: what was told then is not told again.
    """

    def __init__(self, policy: Policy, kept: object = None) -> None:
        self.policy = policy
        self.counters = Counters()
        self._subjects: dict[Subject, _Told] = {}
        self._tokens = float(BURST)
        self._filled: float | None = None
        self._withheld: dict[Subject, int] = {}
        self._withheld_since: float | None = None
        if isinstance(kept, list):
            self._restore(kept)

    def observe(
        self, conditions: Mapping[Subject, Condition], voices: Voices, now: float, keeps: Callable[[Subject], bool]
    ) -> list[Alert]:
        """Takes what is so now, and returns what is to be told now.

        Args:
            conditions: what is not fine, and not what is.
            keeps: whether a subject still exists; one that does not is forgotten without a word.
        """
        self._fill(now)
        for subject in [*self._subjects, *(key for key in conditions if key not in self._subjects)]:
            if not keeps(subject):
                self._subjects.pop(subject, None)
                self._withheld.pop(subject, None)
                continue
            self._note(subject, conditions.get(subject, FINE), now)
            self._hear(subject, voices)
        alerts = []
        for subject, entry in list(self._subjects.items()):
            alert = self._due(subject, entry, now)
            if alert is not None:
                alerts += self._pass(alert, self._speaks(subject, entry, voices), now)
                entry.speaker = entry.speaker if self._level(entry.told) or entry.flapping else ""
            if entry.told == FINE and entry.now == FINE and not entry.changes and subject not in self._withheld:
                del self._subjects[subject]
        return [*alerts, *self._summary(now)]

    def adopt(self, theirs: object) -> None:
        """Takes over what another server knows was told of what all share: this one was away, and that one was not."""
        for subject in [subject for subject in self._subjects if subject.shared]:
            del self._subjects[subject]
        self._restore([item for item in theirs if _is_shared(item)] if isinstance(theirs, list) else [])

    def as_data(self) -> list[dict[str, Any]]:
        """JSON data for `kept`: what was told and is not fine."""
        return [
            {
                "server": subject.server,
                "component": subject.component.value,
                "about": subject.about,
                "state": entry.told.state.value,
                "codes": sorted(entry.told.codes),
                "what": entry.told.what,
                "flapping": entry.flapping,
                "speaker": entry.speaker,
            }
            for subject, entry in self._subjects.items()
            if self._level(entry.told) or entry.flapping
        ]

    def status(self) -> dict[str, Any]:
        """Counters and what waits, for the API."""
        return {
            **vars(self.counters),
            "waiting": sum(entry.differs is not None for entry in self._subjects.values()),
            "flapping_now": sorted(str(subject) for subject, entry in self._subjects.items() if entry.flapping),
            "withheld_now": sum(self._withheld.values()),
        }

    def _restore(self, kept: list[Any]) -> None:
        for item in kept[:MAXIMUM_SUBJECTS]:
            try:
                subject = Subject(str(item["server"]), Component(item["component"]), str(item["about"]))
                codes = frozenset(map(str, item["codes"]))
                condition = Condition(HealthState(item["state"]), codes, str(item["what"]))
                self._subjects[subject] = _Told(
                    told=condition, now=condition, flapping=bool(item["flapping"]), speaker=str(item["speaker"])[:63]
                )
            except (LookupError, TypeError, ValueError):
                continue  # what another version wrote: it may be told once more

    def _note(self, subject: Subject, condition: Condition, now: float) -> None:
        entry = self._subjects.get(subject)
        if entry is None:
            if not self._level(condition):
                return
            if len(self._subjects) >= MAXIMUM_SUBJECTS:
                self.counters.subjects_refused += 1
                return
            entry = self._subjects[subject] = _Told()
        if self._level(condition) != self._level(entry.now):
            entry.changes.append(now)
            while len(entry.changes) > 2 * self.policy.flap_changes:
                entry.changes.popleft()
            if entry.flapping:
                entry.suppressed += 1
                self.counters.flapping += 1
        entry.now = condition
        if not self._worth(entry):
            if entry.differs is not None and not entry.flapping:
                entry.suppressed += 1
                self.counters.short += 1
            entry.differs = None
        elif entry.differs is None or entry.differs > now:
            entry.differs = now
        # Forwards only: a clock that went back leaves them, and they age out.
        while entry.changes and entry.changes[0] <= now - self.policy.flap_seconds:
            entry.changes.popleft()

    def _hear(self, subject: Subject, voices: Voices) -> None:
        """Of two servers that told the same while they did not hear each other, the one that leads goes on."""
        entry, speaker = self._subjects.get(subject), voices.speakers.get(subject)
        if entry is not None and speaker and not (entry.speaker == voices.own and voices.leads):
            entry.speaker = speaker

    def _speaks(self, subject: Subject, entry: _Told, voices: Voices) -> bool:
        if not subject.shared or entry.speaker == voices.own:
            return True
        if not voices.leads or entry.speaker in voices.answering:
            return False
        entry.speaker = voices.own
        return True

    def _due(self, subject: Subject, entry: _Told, now: float) -> Alert | None:
        policy = self.policy
        if not entry.flapping and len(entry.changes) >= policy.flap_changes:
            entry.flapping = True
            return self._alert(Kind.FLAPPING, subject, entry, now)
        if entry.flapping:
            if entry.changes:
                return None
            entry.flapping = False
            return self._alert(Kind.STEADY, subject, entry, now)
        if entry.differs is None or now - entry.differs < policy.hold_down:
            return None
        before, after = self._level(entry.told), self._level(entry.now)
        kind = Kind.CLEARED if not after else Kind.EASED if after < before else Kind.RAISED
        return self._alert(kind, subject, entry, now)

    def _alert(self, kind: Kind, subject: Subject, entry: _Told, now: float) -> Alert:
        alert = Alert(kind, now, subject, entry.now, entry.told.state, entry.suppressed)
        entry.told = entry.now if self._level(entry.now) else FINE
        entry.differs, entry.suppressed = None, 0
        return alert

    def _pass(self, alert: Alert, speaks: bool, now: float) -> list[Alert]:
        if not speaks:
            self.counters.left_to_leader += 1
            return []
        if self._tokens >= 1.0 and not self._withheld:
            self._tokens -= 1.0
            self.counters.told += 1
            return [alert]
        assert alert.subject is not None
        self._withheld[alert.subject] = self._withheld.get(alert.subject, 0) + 1
        self._withheld_since = self._withheld_since if self._withheld_since is not None else now
        self.counters.withheld += 1
        return []

    def _summary(self, now: float) -> list[Alert]:
        """Everything that was withheld, in one message, when there is a token for it."""
        since = self._withheld_since
        if since is None or not self._withheld or self._tokens < 1.0:
            return []
        if 0 <= now - since < SUMMARY_SECONDS:
            return []
        states = [(subject, self._subjects.get(subject, _Told()).now.state) for subject in sorted(self._withheld)]
        worst = max((state for _, state in states), key=_level)
        count = sum(self._withheld.values())
        self._withheld.clear()
        self._withheld_since = None
        self._tokens -= 1.0
        self.counters.told += 1
        what = f"{count} changes of {len(states)} components were too many to be told one by one"
        return [
            Alert(Kind.SUMMARY, now, None, Condition(worst, what=what), suppressed=count, listed=tuple(states[:LISTED]))
        ]

    def _fill(self, now: float) -> None:
        if self._filled is not None and now > self._filled:
            self._tokens = min(float(BURST), self._tokens + (now - self._filled) * self.policy.per_hour / 3600)
        self._filled = now

    def _level(self, condition: Condition) -> int:
        level = _level(condition.state)
        return level if level >= _level(self.policy.minimum) else 0

    def _worth(self, entry: _Told) -> bool:
        """Whether what is so now is news to whoever heard what was told last."""
        before, after = self._level(entry.told), self._level(entry.now)
        return before != after or (after > 0 and not entry.now.codes <= entry.told.codes)


def speakers(server: str, told: object) -> dict[Subject, str]:
    """What a server says that it told itself, and that all share, from its `as_data`."""
    items: Iterable[Any] = told[:MAXIMUM_SUBJECTS] if isinstance(told, list) else ()
    found = {}
    for item in items:
        try:
            if item["speaker"] == server and _is_shared(item):
                found[Subject(CLUSTER, Component(item["component"]), str(item["about"])[:100])] = server
        except (LookupError, TypeError, ValueError):
            continue
    return found


def _is_shared(item: Any) -> bool:
    return isinstance(item, dict) and item.get("server") == CLUSTER


def _level(state: HealthState) -> int:
    """What alerts make of a state: whatever is not known is not told."""
    return {HealthState.WARNING: 1, HealthState.ERROR: 2}.get(state, 0)
