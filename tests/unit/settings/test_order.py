"""A cluster is made in an order: single server, prefix, load balancing, further servers."""

from __future__ import annotations

from typing import Any

import pytest

from portico.settings.document import load_data
from portico.settings.problems import CATALOGUE
from portico.settings.verify import verify_change
from tests.unit.settings.test_verify import BALANCING, CLIENT, balanced, changed

ONE = balanced(servers=BALANCING["servers"][:1])
OTHER = {CLIENT: "2001:db8:1:1000::/59"}

ORDER_EXAMPLES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "ORDER_SINGLE_SERVER_FIRST": (None, ONE),
    "ORDER_PREFIX_FIRST": ({}, ONE | OTHER),
    "ORDER_SERVERS_LATER": ({}, balanced()),
    "ORDER_FIRST_SERVER": ({}, balanced(servers=BALANCING["servers"][1:])),
}


def found(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    former = load_data(changed(before)) if before is not None else None
    return [problem.code for problem in verify_change(former, load_data(changed(after)))]


@pytest.mark.parametrize("code", sorted(ORDER_EXAMPLES))
def test_an_example_causes_its_problem(code: str) -> None:
    before, after = ORDER_EXAMPLES[code]
    assert found(before, after) == [code]
    former = load_data(changed(before)) if before is not None else None
    (problem,) = verify_change(former, load_data(changed(after)))
    assert problem.severity == CATALOGUE[code].severity == "error"
    for text in (problem.what, problem.why, problem.resolution):
        assert text and "{" not in text and not text.endswith("."), text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, {}),
        ({}, ONE),
        ({}, ONE | {CLIENT: "fd7c:1a2b:3c4d:1000::/59"}),
        ({CLIENT: "2001:db8:1:1000::/64"}, ONE | OTHER),
        (OTHER, ONE | OTHER),
        (ONE, balanced()),
        (ONE, ONE | OTHER),
        (balanced(), ONE),
        (balanced(), {}),
    ],
)
def test_the_steps_of_the_order_are_taken_one_by_one(before: dict[str, Any] | None, after: dict[str, Any]) -> None:
    assert found(before, after) == []


def test_several_steps_at_once_are_all_told() -> None:
    assert found({CLIENT: "fd00:5::/64"}, balanced() | OTHER) == ["ORDER_PREFIX_FIRST", "ORDER_SERVERS_LATER"]
    assert found({CLIENT: "fd00:5::/64"}, ONE) == ["ORDER_PREFIX_FIRST"], "the derived prefix is another one"
