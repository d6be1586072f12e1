"""Whether this server can serve clients, from what was observed. Pure.

Each observation is a text: empty when that part works, otherwise why it does not. They go out of date: a server whose
agent hangs must not be called available on the strength of what was true once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LEASE: Final = 10.0
"""Seconds for which what the agent said last counts."""

MAXIMUM_REASON: Final = 300
"""Characters of one reason: the whole answer fits one packet."""

PARTS: Final = ("tunnel", "DNS64", "NAT64", "intranet")
"""What must work, in the order in which it is shown."""


@dataclass(frozen=True)
class Availability:
    """What the pages say.

    Attributes:
        reasons: part to why it does not work; empty while clients can be served.
        draining: clients of this server stay, and a balancer sends it no new ones.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False

    @property
    def available(self) -> bool:
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        return {"reasons": dict(self.reasons), "draining": self.draining}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Availability:
        """Reads what `as_dict` made. Raises ValueError when it is something else."""
        reasons = data.get("reasons")
        if not isinstance(reasons, Mapping):
            raise ValueError("reasons are missing")
        return cls({str(part): _line(str(why)) for part, why in reasons.items()}, bool(data.get("draining")))


def judge(observed: Mapping[str, str], *, draining: bool = False) -> Availability:
    """The parts that do not work. A part that was not observed is not judged: it is not in use.

    Raises:
        ValueError: an observation is of no known part.
    """
    if strangers := observed.keys() - set(PARTS):
        raise ValueError(f"no part of a server: {', '.join(sorted(strangers))}")
    return Availability({part: _line(observed[part]) for part in PARTS if observed.get(part)}, draining)


def current(said: Availability | None, age: float) -> Availability:
    """What counts now.

    Args:
        age: seconds since the agent said it.
    """
    if said is None:
        return Availability({"agent": "it has not said yet whether clients can be served"})
    if age > LEASE:
        return Availability({"agent": f"it has said nothing for {age:.0f} s"}, said.draining)
    return said


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAXIMUM_REASON else f"{line[: MAXIMUM_REASON - 3]}..."
