"""The steps of an upgrade as a table, and the journal by which one that was interrupted goes on. Pure.

The journal names the step that is being done; it is written before the step begins, and every step can be repeated. So
whatever happens to the process that upgrades, repeating the command goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final

from portico.errors import InvalidInput, PorticoError


class Step(StrEnum):
    """What is done; the last two say that nothing is done any more."""

    DRAIN = "drain"
    INSTALL = "install"
    RESTART = "restart"
    CHECK = "check"
    REJOIN = "rejoin"
    PUT_BACK = "put back"
    RESTART_FORMER = "restart the former"
    CHECK_FORMER = "check the former"
    REJOIN_FORMER = "rejoin with the former"
    DONE = "done"
    FAILED = "failed"


ENDS: Final = frozenset({Step.DONE, Step.FAILED})

NEXT: Final[Mapping[Step, tuple[Step, Step | None]]] = {
    Step.DRAIN: (Step.INSTALL, Step.REJOIN_FORMER),
    Step.INSTALL: (Step.RESTART, Step.PUT_BACK),
    Step.RESTART: (Step.CHECK, Step.PUT_BACK),
    Step.CHECK: (Step.REJOIN, Step.PUT_BACK),
    Step.REJOIN: (Step.DONE, Step.PUT_BACK),
    Step.PUT_BACK: (Step.RESTART_FORMER, None),
    Step.RESTART_FORMER: (Step.CHECK_FORMER, None),
    Step.CHECK_FORMER: (Step.REJOIN_FORMER, None),
    Step.REJOIN_FORMER: (Step.FAILED, None),
}
"""What follows a step that succeeded, and one that failed. None: it stays, because only a person can help; the command
is repeated then."""

WORDS: Final[Mapping[Step, str]] = {
    Step.DRAIN: "Take this server out of the cluster",
    Step.INSTALL: "Install Portico {new}",
    Step.RESTART: "Restart the server",
    Step.CHECK: "Wait until Portico {new} serves",
    Step.REJOIN: "Take clients again",
    Step.PUT_BACK: "Put Portico {old} back",
    Step.RESTART_FORMER: "Restart the server",
    Step.CHECK_FORMER: "Wait until Portico {old} serves",
    Step.REJOIN_FORMER: "Take clients again",
}


@dataclass(frozen=True)
class Journal:
    """An upgrade in flight.

    Attributes:
        step: what is being done.
        old, new: versions.
        old_wheel, new_wheel: file names beside the journal.
        sha256: of the new wheel, hexadecimal.
        state: of this server in the cluster before, in the words of Windows; empty without a cluster.
        served: whether it served before.
        failure: why the upgrade was given up, as `PorticoError.as_dict`; None as long as it was not.
    """

    step: Step
    old: str
    new: str
    old_wheel: str
    new_wheel: str
    sha256: str
    state: str
    served: bool
    failure: Mapping[str, str] | None = None

    @property
    def ended(self) -> bool:
        return self.step in ENDS

    @property
    def words(self) -> str:
        """What is being done, as people read it."""
        return WORDS[self.step].format(old=self.old, new=self.new)

    def succeeded(self) -> Journal:
        """The step was done. Raises ValueError when there is none."""
        return replace(self, step=_next(self.step)[0])

    def failed(self, error: PorticoError) -> Journal | None:
        """The step failed: what follows, or None when a person must help before it is repeated. Raises ValueError."""
        then = _next(self.step)[1]
        if then is None:
            return None
        told = {key: str(value) for key, value in error.as_dict().items() if key in _FAILURE}
        return replace(self, step=then, failure=told)

    def given_up(self) -> Journal:
        """Somebody wants the former version back. Raises ValueError when the upgrade is over or on its way back."""
        _, back = _next(self.step)
        if back is None:
            raise ValueError(f"'{self.step}' is on the way back already")
        failure = {"code": "UPGRADE_GIVEN_UP", "what": "The upgrade was given up", "why": "--back", "resolution": ""}
        return replace(self, step=back, failure=failure)

    def plan(self) -> list[str]:
        """What is left to do when nothing fails."""
        left, step = [], self.step
        while step not in ENDS:
            left.append(WORDS[step].format(old=self.old, new=self.new))
            step = NEXT[step][0]
        return left

    def as_text(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_text(cls, text: bytes) -> Journal:
        """Reads what `as_text` wrote, also of a neighbouring version. Raises InvalidInput (UPGRADE_JOURNAL)."""
        try:
            data = json.loads(text)
            words = {key: data[key] for key in _WORDS}
            failure = data.get("failure")
            if not all(isinstance(value, str) for value in words.values()):
                raise TypeError
            if any("/" in words[key] or not words[key] for key in ("old_wheel", "new_wheel")):
                raise ValueError
            return cls(
                step=Step(data["step"]),
                served=bool(data["served"]),
                failure={key: str(failure.get(key, "")) for key in _FAILURE} if isinstance(failure, dict) else None,
                **words,
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InvalidInput(
                "The journal of an upgrade cannot be used",
                why="it is not what Portico writes",
                resolution="Remove it, install the version that you want (packaging/install.sh WHEEL), and restart",
                code="UPGRADE_JOURNAL",
            ) from None


_WORDS: Final = ("old", "new", "old_wheel", "new_wheel", "sha256", "state")
_FAILURE: Final = ("code", "what", "why", "resolution")


def _next(step: Step) -> tuple[Step, Step | None]:
    if step not in NEXT:
        raise ValueError(f"nothing follows '{step}'")
    return NEXT[step]


def turn(servers: Mapping[str, tuple[str, str | None]], target: str) -> str | None:
    """Which server is upgraded next.

    Args:
        servers: version and state (None: not heard) by name, in the order of priority.

    Returns:
        The last by priority that has not the target yet, so that the one that leads comes last; None when all have it,
        or while one that has it does not serve yet.
    """
    if any(version == target and state not in SERVING for version, state in servers.values()):
        return None
    return next((name for name, (version, _) in reversed(list(servers.items())) if version != target), None)


SERVING: Final = frozenset({"Converged", "Default", "Converging"})
