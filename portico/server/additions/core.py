"""How far a server is that is being added: a table of steps, judged anew at each look from what is known. Pure.

Nothing is counted up: what a server is at follows from its token, the document, the peers' channel and the heartbeats,
so it is the same after a restart of the agent. Only what a machine says itself, and why its last attempt was refused,
is remembered (`Attempts`), and lost without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

MAXIMUM_ATTEMPTS: Final = 64
"""Servers whose last attempt is remembered."""
_SERVING: Final = ("Converged", "Default")
_RESTING: Final = ("Stopped", "Suspended")


class Step(StrEnum):
    """The way of a server into the cluster, in order."""

    PREPARING = "preparing"
    """The settings with it are checked on all servers, and its token is made."""
    CHECKING = "checking"
    """Its machine has shown the token; version, adapters and addresses are compared, the settings are changed."""
    JOINING = "joining"
    """It takes the settings, keys and records, and checks itself with them."""
    CONVERGING = "converging"
    """It runs, is heard, and gets its part of the clients."""


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


PLAN: Final[Mapping[Step, str]] = {
    Step.PREPARING: "Check the settings with {name} on all servers, and make a token that works once",
    Step.CHECKING: "On {name}, 'portico server join TOKEN': compare its version, adapters and addresses with the "
    "cluster's, and add it to the settings of all servers",
    Step.JOINING: "Give {name} the settings, keys and records of the cluster; it checks its machine with them",
    Step.CONVERGING: "On {name}, 'portico server start': it is heard, and takes its share of new clients",
}


@dataclass(frozen=True)
class Attempt:
    """What is remembered of the last attempt of a machine.

    Attributes:
        asked: it has shown its token since this agent started.
        kept: it has said since that it has everything.
        doing: what the machine said last that it does.
        failure: why the attempt failed, as `PorticoError.as_dict`.
        failed: the step that failed.
    """

    asked: bool = False
    kept: bool = False
    doing: str = ""
    failure: Mapping[str, str] | None = None
    failed: Step | None = None


@dataclass(frozen=True)
class Seen:
    """What is known of a server and of its token.

    Attributes:
        token: open, used, expired or burned; None when there is none (any more).
        expires: when the token ends, ISO 8601.
        entry: it is in the settings.
        member: a certificate of the cluster was made for it.
        confirmed: it has said that it has everything.
        wanted: what the settings say that it is to be: started, stopped or suspended.
        reachable: it answers the other servers.
        applied, newest: the revision it has applied, and the newest there is.
        state: its state in the words of Windows; None while it is not heard.
        buckets: how many of the default rule it has.
    """

    name: str
    token: str | None = None
    expires: str = ""
    entry: bool = False
    member: bool = False
    confirmed: bool = False
    wanted: str = "started"
    reachable: bool = False
    applied: int | None = None
    newest: int = 0
    state: str | None = None
    buckets: int = 0
    attempt: Attempt = field(default_factory=Attempt)


@dataclass(frozen=True)
class StepSeen:
    """One step. `failure` is what failed, as `PorticoError.as_dict`."""

    step: Step
    state: State
    detail: str = ""
    failure: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Addition:
    """A server and its steps, in order. `state` is done when all are, failed when one is."""

    server: str
    state: State
    steps: tuple[StepSeen, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(seen: Seen) -> Addition:
    """How far a server is. Steps before one that is done are done; nothing after one that is not done has begun."""
    steps: list[StepSeen] = []
    for step, look in _STEPS.items():
        reached = not steps or steps[-1].state is State.DONE
        steps.append(look(seen) if reached else StepSeen(step, State.WAITING))
    last = next((item.state for item in steps if item.state is not State.DONE), State.DONE)
    return Addition(seen.name, last, tuple(steps))


def plan(name: str) -> list[dict[str, str]]:
    """What adding a server consists of: {step, what}."""
    return [{"step": step.value, "what": text.format(name=name)} for step, text in PLAN.items()]


def _preparing(seen: Seen) -> StepSeen:
    if seen.member or seen.attempt.failure is not None or seen.token in ("open", "used"):
        return StepSeen(Step.PREPARING, State.DONE, f"a token until {_time(seen.expires)}" if seen.expires else "")
    why = {
        "expired": f"its token worked until {_time(seen.expires)}",
        "burned": "its token was shown with a wrong secret three times",
    }.get(seen.token or "", "there is no token for it on this server")
    failure = {
        "code": "JOIN_TOKEN_MISSING",
        "what": f"{seen.name} cannot join",
        "why": why,
        "resolution": f"Make a token: portico lb add {seen.name}",
    }
    return StepSeen(Step.PREPARING, State.FAILED, why, failure)


def _checking(seen: Seen) -> StepSeen:
    if seen.entry and seen.member:
        return StepSeen(Step.CHECKING, State.DONE, "in the settings of all servers")
    if seen.attempt.failure is not None:
        if seen.attempt.failed is Step.JOINING:
            return StepSeen(Step.CHECKING, State.DONE, "it was taken out of the settings again")
        return StepSeen(Step.CHECKING, State.FAILED, seen.attempt.failure.get("what", ""), seen.attempt.failure)
    if seen.attempt.asked:
        return StepSeen(Step.CHECKING, State.RUNNING, "its machine has asked; all servers check the settings with it")
    return StepSeen(Step.CHECKING, State.WAITING, f"run on it: portico server join TOKEN, for {seen.name}")


def _joining(seen: Seen) -> StepSeen:
    if seen.attempt.failure is not None and not seen.reachable:
        return StepSeen(Step.JOINING, State.FAILED, seen.attempt.failure.get("what", ""), seen.attempt.failure)
    if seen.confirmed or seen.reachable:
        return StepSeen(Step.JOINING, State.DONE, "it has settings, keys and records")
    return StepSeen(Step.JOINING, State.RUNNING, seen.attempt.doing or "it takes over settings, keys and records")


def _converging(seen: Seen) -> StepSeen:
    if seen.state is None:
        if not seen.reachable:
            return StepSeen(Step.CONVERGING, State.WAITING, "run on it: portico server start")
        return StepSeen(Step.CONVERGING, State.RUNNING, f"it answers{_revision(seen)}, no heartbeat was heard yet")
    if seen.wanted != "started" and seen.state in _RESTING:
        return StepSeen(Step.CONVERGING, State.DONE, f"{seen.state}, as the settings say")
    if seen.state in _SERVING and seen.reachable and (seen.applied or 0) >= seen.newest:
        return StepSeen(Step.CONVERGING, State.DONE, f"{seen.state}, {seen.buckets} of 60 buckets{_revision(seen)}")
    return StepSeen(Step.CONVERGING, State.RUNNING, f"{seen.state}{_revision(seen)}")


_STEPS: Final[Mapping[Step, Callable[[Seen], StepSeen]]] = {
    Step.PREPARING: _preparing,
    Step.CHECKING: _checking,
    Step.JOINING: _joining,
    Step.CONVERGING: _converging,
}


class Attempts:
    """What is remembered of machines that try to join, the oldest forgotten first."""

    def __init__(self, limit: int = MAXIMUM_ATTEMPTS) -> None:
        self._limit = limit
        self._known: dict[str, Attempt] = {}

    def get(self, name: str) -> Attempt:
        return self._known.get(name, Attempt())

    def names(self) -> list[str]:
        return list(self._known)

    def forget(self, name: str) -> None:
        """A new token was made: former attempts count no more."""
        self._known.pop(name, None)

    def taken_out(self, name: str) -> None:
        """It is no server any more. Why it could not join stays to be seen."""
        if self.get(name).failure is None:
            self.forget(name)

    def asked(self, name: str) -> None:
        """Its machine has shown a token that is right."""
        self._set(name, Attempt(asked=True))

    def doing(self, name: str, what: str) -> None:
        """Its machine, which was taken in, says what it does."""
        self._set(name, Attempt(asked=True, doing=what))

    def kept(self, name: str) -> None:
        """Its machine says that it has everything."""
        self._set(name, Attempt(asked=True, kept=True))

    def failed(self, name: str, step: Step, failure: Mapping[str, str]) -> None:
        self._set(name, Attempt(asked=True, doing=self.get(name).doing, failure=failure, failed=step))

    def _set(self, name: str, attempt: Attempt) -> None:
        self._known.pop(name, None)
        self._known[name] = attempt
        while len(self._known) > self._limit:
            self._known.pop(next(iter(self._known)))


def _revision(seen: Seen) -> str:
    if seen.applied is None:
        return ""
    return f", revision {seen.applied}" + (f" of {seen.newest}" if seen.applied < seen.newest else "")


def _time(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC" if text else "it was used"
