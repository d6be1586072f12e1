"""The heuristics of each component. `MODULES` are all modules that have some."""

from __future__ import annotations

from importlib import import_module
from typing import Final

MODULES: Final = ("server", "access", "naming", "translation", "cluster", "machine", "location", "backup", "boot")


def load() -> None:
    """Imports all modules, which registers their heuristics."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
