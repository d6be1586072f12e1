"""The section `accounting`: what is written down about clients' sessions, and for how long."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from portico.settings.kinds import Section, State

_LIMIT: Final = re.compile(r"([1-9][0-9]{0,3})([dwmy])", flags=re.ASCII)
_DAYS: Final = {"d": 1, "w": 7, "m": 30.4375, "y": 365.25}
_LONGEST: Final = 3653


def store_limit(value: object) -> str:
    """`100d`, `3w`, `12m`, `2y`. Raises ValueError for anything else, and for more than ten years."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if _LIMIT.fullmatch(text) is None:
        raise ValueError(f"'{value}' is no time to keep records for; write it like 100d, 3w, 12m or 2y")
    if limit_days(text) > _LONGEST:
        raise ValueError(f"'{value}' is longer than ten years")
    return text


def limit_days(text: str) -> float:
    """A store limit in days; a month is a twelfth of a year."""
    match = _LIMIT.fullmatch(text)
    assert match is not None
    return int(match[1]) * _DAYS[match[2]]


StoreLimit = Annotated[str, BeforeValidator(store_limit)]


class Accounting(Section):
    """What is written down about clients' sessions."""

    inbox: State = Field(
        default="disabled",
        description="whether each server keeps a store of its sessions: who, from where, when, how many bytes",
    )
    store_limit: StoreLimit = Field(
        default="12m",
        description="how long ended sessions are kept: days, weeks, months or years, as 100d, 3w, 12m, 2y",
    )
