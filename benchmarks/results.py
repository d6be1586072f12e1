"""The samples of a run and the file that keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Sample:
    """One turn of one subject: its figures, or why there are none."""

    turn: int
    subject: str
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of `count` rounds."""

    median: float
    low: float
    high: float
    count: int


@dataclass
class Run:
    """A run, finished or not.

    wanted: the figures wanted of each subject, in the order of measuring.
    finished: everything was tried, and what failed is not tried again.
    load: the machine's load average (one minute) before it began.
    identity: what must be the same for a run to be continued (machine, kernel, versions, commit).
    """

    rounds: int
    seconds: int
    wanted: dict[str, list[str]]
    identity: dict[str, str]
    started: str
    samples: list[Sample] = field(default_factory=list)
    finished: bool = False
    load: float = 0.0

    def values(self, subject: str, figure: str) -> dict[int, float]:
        """The figure by turn, of the turns that have it."""
        return {
            one.turn: one.figures[figure] for one in self.samples if one.subject == subject and figure in one.figures
        }

    def spread(self, subject: str, figure: str) -> Spread | None:
        values = list(self.values(subject, figure).values())
        return Spread(median(values), min(values), max(values), len(values)) if values else None

    def failure(self, subject: str) -> str | None:
        """Why a subject has no figure at all, or the last reason of a turn that failed."""
        failures = [one.failure for one in self.samples if one.subject == subject and one.failure is not None]
        return failures[-1] if failures else None

    def done(self, turn: int, subject: str) -> bool:
        return any(one.turn == turn and one.subject == subject and one.failure is None for one in self.samples)

    def add(self, sample: Sample) -> None:
        """Takes a sample in, in the place of an earlier one of the same turn."""
        same = (sample.turn, sample.subject)
        self.samples = [one for one in self.samples if (one.turn, one.subject) != same]
        self.samples.append(sample)

    def continues(self, other: Run) -> bool:
        """Whether the samples of `other` may stand in this run."""
        mine = (self.rounds, self.seconds, self.wanted, self.identity)
        return mine == (other.rounds, other.seconds, other.wanted, other.identity)


def save(run: Run, file: Path) -> None:
    """Writes a run, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps({"format": FORMAT, **asdict(run)}, indent=1) + "\n")
    new.replace(file)


def load(file: Path) -> Run:
    """Reads a run.

    Raises:
        ValueError: the file is not one of this format.
        OSError: it cannot be read.
    """
    try:
        value: dict[str, Any] = json.loads(file.read_text())
        if value.pop("format") != FORMAT:
            raise ValueError("written in another format")
        samples = [Sample(**one) for one in value.pop("samples")]
        return Run(**value, samples=samples)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} holds no results of `make bench`: {error}") from error
