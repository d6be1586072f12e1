"""Random lives of clusters (`model`): a few new ones, and every one that once went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cluster.model import Life

REGRESSIONS = json.loads(Path(__file__).with_name("seeds.json").read_text())
"""Seeds of lives that showed a fault, with what it was."""


@pytest.mark.parametrize("carriers", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_no_bucket_has_two_owners_and_all_is_well_in_the_end(seed: int, carriers: bool) -> None:
    Life(seed, most=5, carriers=carriers).live(8)


@pytest.mark.parametrize("seed", range(10))
def test_no_flow_is_lost_by_joins_drains_weights_and_stalls(seed: int) -> None:
    Life(seed, most=4).live_quietly(8)


@pytest.mark.parametrize("case", REGRESSIONS, ids=lambda case: str(case["seed"]))
def test_lives_that_once_went_wrong_go_well(case: dict[str, object]) -> None:
    seed, steps = case["seed"], case["steps"]
    assert isinstance(seed, int) and isinstance(steps, int)
    Life(seed).live(steps)
