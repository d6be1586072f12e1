"""docs/settings.md is what the model says."""

from __future__ import annotations

from pathlib import Path

from portico.settings.document import load
from portico.settings.reference import _WINDOWS, EXAMPLE, reference_markdown
from portico.settings.verify import verify

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_reference_is_current() -> None:
    hint = (
        "python -c 'from portico.settings.reference import *; print(reference_markdown(), end=\"\")' > docs/settings.md"
    )
    assert DOCUMENT.read_text() == reference_markdown(), f"write it again with: {hint}"


def test_the_full_example_can_be_applied() -> None:
    assert verify(load(EXAMPLE)) == []


def test_windows_counterparts_are_of_settings_that_exist() -> None:
    text = reference_markdown()
    missing = [
        path for path, cmdlet in _WINDOWS.items() if f"| `{path.rsplit('.', 1)[1]}` |" not in text or cmdlet not in text
    ]
    assert missing == []
