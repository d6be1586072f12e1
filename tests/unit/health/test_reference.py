"""docs/health.md is what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import typer

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.reference import health_markdown
from portico.management.cli.app import app

DOCUMENT = Path(__file__).parents[3] / "docs" / "health.md"


def test_the_reference_is_current() -> None:
    hint = "python -c 'from portico.health.reference import *; print(health_markdown(), end=\"\")' > docs/health.md"
    assert DOCUMENT.read_text() == health_markdown(), f"write it again with: {hint}"


def test_every_component_and_code_is_in_it() -> None:
    text = health_markdown()
    assert all(f"## {component.label}\n" in text for component in Component)
    assert all(f"| `{code}` |" in text for code in CATALOGUE)


def test_resolutions_name_commands_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for kind in CATALOGUE.values():
        for part in kind.resolution.split("portico ")[1:]:
            first = part.split()[0].rstrip(",;:.")
            assert first in commands, f"{kind.code}: portico {part}"
