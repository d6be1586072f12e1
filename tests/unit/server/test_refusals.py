"""A change that breaks a rule is told by code and text, and nothing is stored or applied."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from portico.server.agent import Agent
from portico.settings.document import load_data
from portico.settings.facts import Facts
from portico.settings.problems import CATALOGUE, SettingsRefused
from tests.unit.settings.test_order import ORDER_EXAMPLES
from tests.unit.settings.test_verify import EXAMPLES, MACHINE, changed

ERRORS = sorted(code for code in EXAMPLES if CATALOGUE[code].severity == "error")


class Idle:
    """An agent with a machine of the test's, whose kernel and gateway are left out."""

    def __init__(self, state: Path, patch: pytest.MonkeyPatch) -> None:
        self.agent = agent = Agent(state)
        self.facts = MACHINE
        self.applied = 0

        async def apply(document: Any, values: Any) -> list[Any]:
            agent.platform.settings, agent.platform.values = document, values
            self.applied += 1
            return []

        async def nothing(*_: Any, **__: Any) -> Any:
            return []

        def facts(*_: Any, **__: Any) -> Facts:
            return self.facts

        patch.setattr(agent.machine, "facts", facts)
        patch.setattr(agent.platform, "apply", apply)
        patch.setattr(agent.gateway, "sessions", nothing)
        patch.setattr(agent.balancer, "apply", nothing)
        patch.setattr(agent.translation, "applied", nothing)

    def install(self, document: dict[str, Any]) -> None:
        asyncio.run(self.agent.change(load_data(changed(document)), expected=0, author="test"))

    def refusal(self, document: dict[str, Any]) -> SettingsRefused:
        before = (self.agent.store().latest(), self.agent.revision, self.applied)
        with pytest.raises(SettingsRefused) as caught:
            asyncio.run(self.agent.change(load_data(changed(document)), expected=None, author="test"))
        assert (self.agent.store().latest(), self.agent.revision, self.applied) == before, "nothing was changed"
        return caught.value


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Idle(tmp_path / "state", monkeypatch)
    yield made
    made.agent.credentials.close()


def told(refusal: SettingsRefused, code: str) -> None:
    (first, *_) = [problem for problem in refusal.problems if problem.code == code]
    assert first.what and first.why and first.resolution
    assert refusal.code == "SETTINGS_REFUSED"
    assert code in {problem["code"] for problem in refusal.as_dict()["problems"]}


@pytest.mark.parametrize("code", ERRORS)
def test_a_document_that_breaks_a_rule_changes_nothing(idle: Idle, code: str) -> None:
    idle.install({})
    document, idle.facts = EXAMPLES[code]
    told(idle.refusal(document), code)


@pytest.mark.parametrize("code", sorted(ORDER_EXAMPLES))
def test_a_step_that_is_skipped_changes_nothing(idle: Idle, code: str) -> None:
    before, after = ORDER_EXAMPLES[code]
    if before is not None:
        idle.install(before)
    told(idle.refusal(after), code)
