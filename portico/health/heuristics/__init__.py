"""The heuristics of each component. `MODULES: Final = ("server", "access", "naming", "translation", "cluster", "machine", "location", "backup", "boot")

from __future__ import annotations

from importlib import import_module
from typing import Final

MODULES: Final = ("server", "access", "naming", "translation", "cluster", "machine", "location", "backup")
MODULES: Final = ("server", "access", "naming", "translation", "cluster", "machine", "location", "boot")


def load() -> None:
    """Imports all modules, which registers their heuristics."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
