"""Versions of Portico, and which of them may run side by side in a cluster. Pure.

The rule: during an upgrade servers of neighbouring minor versions (0.3 and 0.4) work together, because each minor
version understands what the one before it says: heartbeats, the peers' channel, the settings document. Patch versions
of one minor version always do. Everything further apart does not, and nobody joins with another version at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})(?:[.+-]?[0-9a-z][0-9a-z.+-]{0,39})?", flags=re.ASCII)


@dataclass(frozen=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """`0.3.1`, also with something after it (`0.3.1rc1`, `0.3.1+dfsg`); None for what is no version."""
        found = _FORM.fullmatch(text)
        return cls(*map(int, found.groups())) if found is not None else None


def side_by_side(one: str, other: str) -> bool:
    """Whether servers of these versions may be in one cluster for the time of an upgrade."""
    if one == other:
        return True
    first, second = Version.parse(one), Version.parse(other)
    if first is None or second is None:
        return False
    return first.major == second.major and abs(first.minor - second.minor) <= 1


def is_older(one: str, other: str) -> bool:
    """Whether the first one is known to be older."""
    first, second = Version.parse(one), Version.parse(other)
    return first is not None and second is not None and first < second
