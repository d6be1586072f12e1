"""Measures what a run still lacks, a subject after the other, round after round, and keeps every sample at once."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from benchmarks.figures import FIGURES
from benchmarks.network import network
from benchmarks.results import Run, Sample, save
from benchmarks.subjects import SUBJECTS
from portico.errors import PorticoError

Say = Callable[[str], None]


def plan(wanted: dict[str, set[str]] | None) -> dict[str, list[str]]:
    """The figures to measure of each subject, in the order of measuring; None: everything."""
    chosen: dict[str, list[str]] = {}
    for name, subject in SUBJECTS.items():
        figures = subject.figures if wanted is None else subject.figures & wanted.get(name, set())
        if figures:
            chosen[name] = sorted(figures, key=list(FIGURES).index)
    return chosen


def remaining(run: Run) -> float:
    """Seconds that the rest of a run takes, by what the same subjects took so far."""
    total = 0.0
    for name, figures in run.wanted.items():
        taken = [one.seconds for one in run.samples if one.subject == name and one.failure is None]
        each = fmean(taken) if taken else SUBJECTS[name].cost(frozenset(figures), run.seconds)
        total += each * sum(not run.done(turn, name) for turn in range(run.rounds))
    return total


def duration(seconds: float) -> str:
    """For people."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def measure(run: Run, file: Path, logs: Path, say: Say) -> None:
    """Completes a run. Each sample is in `file` before the next begins; logs of what failed are in `logs`."""
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as directory:
        for turn in range(run.rounds):
            for name in run.wanted:
                if run.done(turn, name):
                    continue
                head = f"[round {turn + 1} of {run.rounds}, {duration(remaining(run))} left] {name}"
                sample = _sample(run, turn, name, Path(directory), logs)
                run.add(sample)
                save(run, file)
                say(f"{head}: {_told(sample)}")
    run.finished = True
    save(run, file)


def _sample(run: Run, turn: int, name: str, directory: Path, logs: Path) -> Sample:
    began = time.monotonic()
    wanted = run.wanted[name]
    try:
        # A network for each: whatever a peer leaves behind cannot reach the next.
        with network(directory) as net:
            figures = SUBJECTS[name].measure(net, frozenset(wanted), run.seconds)
    except (PorticoError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        kept = logs / name.replace(" ", "-").replace(",", "")
        kept.mkdir(parents=True, exist_ok=True)
        for log in directory.glob("*.log"):
            shutil.copy(log, kept)
        return Sample(turn, name, time.monotonic() - began, failure=f"{error}".strip() or repr(error))
    finally:
        for log in directory.glob("*.log"):
            log.unlink()
    kept_figures = {figure: figures[figure] for figure in wanted if figure in figures}
    return Sample(turn, name, time.monotonic() - began, kept_figures)


def _told(sample: Sample) -> str:
    if sample.failure is not None:
        return f"FAILED: {sample.failure}"
    return ", ".join(f"{FIGURES[name].title} {FIGURES[name].text(value)}" for name, value in sample.figures.items())
