"""Numbers as PowerShell writes them."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(
    r"([+-]?)(?:0x([0-9a-f]{1,15})|([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})(?:e([+-]?[0-9]{1,2}))?)(l|d)?(kb|mb|gb|tb|pb)?",
    flags=re.ASCII | re.IGNORECASE,
)
_MULTIPLIERS: Final = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}


def number(text: str) -> int | float | None:
    """The number a word is: `10`, `1.5`, `0x1F`, `2GB`; None for another word."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    value: int | float
    if match[2]:
        value = int(match[2], 16)
    elif match[4] or "." in match[3]:
        value = float(f"{match[3]}e{match[4] or 0}")
    else:
        value = int(match[3])
    value *= _MULTIPLIERS[match[6].lower()] if match[6] else 1
    return -value if match[1] == "-" else value
