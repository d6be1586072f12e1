"""Documents of older schema versions, brought up to date one version at a time.

A migration is a function from the plain data of version n to that of version n+1, in a module of its own named
`v<n>_to_v<n+1>`, registered in `STEPS` under n. It is pure, works on a copy, and never changes once released: every
document ever stored can be loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Mapping[int, Step] = {}


def migrate(
    data: dict[str, Any], *, to: int, steps: Mapping[int, Step] = STEPS
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """The data at schema version `to`, and the steps that were taken.

    Raises:
        ValueError: the version is missing, not a whole number, newer than `to`, or older than the oldest step.
    """
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError("schema_version is missing or not a whole number")
    if version > to:
        raise ValueError(f"schema version {version} is newer than this program's ({to})")
    taken: list[tuple[int, int]] = []
    current = copy.deepcopy(data)
    while version < to:
        step = steps.get(version)
        if step is None:
            raise ValueError(f"there is no migration from schema version {version}")
        current = step(current)
        current["schema_version"] = version + 1
        taken.append((version, version + 1))
        version += 1
    return current, taken
