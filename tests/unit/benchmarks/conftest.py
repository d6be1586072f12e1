"""Runs made of numbers, for what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from benchmarks.results import Run, Sample

MakeRun = Callable[[Mapping[str, Sequence[dict[str, float] | str]]], Run]


@pytest.fixture
def make_run() -> MakeRun:
    """From each subject's turns: figures, or why there are none."""

    def make(turns: Mapping[str, Sequence[dict[str, float] | str]]) -> Run:
        figures = {name: [one for one in of if isinstance(one, dict)] for name, of in turns.items()}
        run = Run(
            rounds=max(len(of) for of in turns.values()),
            seconds=3,
            wanted={name: sorted({key for one in of for key in one}) or ["up"] for name, of in figures.items()},
            identity={"machine": "two cores", "kernel": "6.1.0-1", "native module": "0", "plain": "the kernel's"},
            started="2026-11-21T10:00:00Z",
        )
        for name, of in turns.items():
            for turn, one in enumerate(of):
                failure = one if isinstance(one, str) else None
                run.add(Sample(turn, name, 2.0, {} if isinstance(one, str) else one, failure))
        return run

    return make
