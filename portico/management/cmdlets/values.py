"""The values that cmdlets take and give: objects with ordered properties, and PowerShell's conversions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from fnmatch import translate
from typing import Any, Final, TypeVar

Value = Any
"""None, bool, int, float, str, datetime, timedelta, a list of values, a `Table` or a `PsObject`."""

MAXIMUM_TEXT: Final = 4096
"""Characters of a text that a pattern is compared with."""

_V = TypeVar("_V")


class _Folded(dict[str, _V]):
    """A dictionary whose names match without regard to case and print as they were first written."""

    def __init__(self, values: Mapping[str, _V] | Iterable[tuple[str, _V]] = ()) -> None:
        super().__init__()
        self._names: dict[str, str] = {}
        for name, value in values.items() if isinstance(values, Mapping) else values:
            self[name] = value

    def __setitem__(self, name: str, value: _V) -> None:
        super().__setitem__(self._names.setdefault(name.lower(), name), value)

    def __getitem__(self, name: str) -> _V:
        return super().__getitem__(self._names[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._names

    def find(self, name: str) -> _V | None:
        return self[name] if name in self else None  # noqa: SIM401 (dict.get does not fold case)


class Table(_Folded[Value]):
    """A hashtable."""


class PsObject:
    """An object: properties in Windows's order, the name of its type, and what it is when it is made text.

    Args:
        view: the properties that a table shows by default; None shows up to four in a table and more in a list.
        text: what the object is within a string or a list.
    """

    def __init__(
        self,
        type_name: str,
        properties: Mapping[str, Value] | Iterable[tuple[str, Value]],
        *,
        view: tuple[str, ...] | None = None,
        text: str | None = None,
    ) -> None:
        self.type_name = type_name
        self.properties: _Folded[Value] = _Folded(properties)
        self.view = view
        self.text = text

    def __iter__(self) -> Iterator[str]:
        return iter(self.properties)

    def get(self, name: str) -> Value:
        """The value of a property; None when there is none of this name."""
        return self.properties.find(name)

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        return f"@{{{'; '.join(f'{name}={text_of(value)}' for name, value in self.properties.items())}}}"

    def __repr__(self) -> str:
        return f"<{self.type_name} {self}>"


def text_of(value: Value) -> str:
    """A value as it becomes part of a string."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, list):
        return " ".join(map(text_of, value))
    if isinstance(value, Table):
        return "System.Collections.Hashtable"
    return str(value)


def cell_of(value: Value) -> str:
    """A value as a list or table shows it: several in braces."""
    if isinstance(value, list):
        return f"{{{', '.join(map(text_of, value))}}}" if value else ""
    if isinstance(value, Table):
        return f"{{{', '.join(f'{name}={text_of(item)}' for name, item in value.items())}}}"
    return text_of(value)


def plain(value: Value) -> Any:
    """A value as JSON data. Times are ISO 8601, durations seconds."""
    if isinstance(value, PsObject):
        return {name: plain(item) for name, item in value.properties.items()}
    if isinstance(value, Table):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def as_list(value: Value) -> list[Value]:
    """An array of it: nothing for None, itself for an array."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def truth(value: Value) -> bool:
    if isinstance(value, list):
        return truth(value[0]) if len(value) == 1 else bool(value)
    if isinstance(value, int | float | str):
        return bool(value)
    return value is not None


def number_of(value: Value) -> int | float:
    """Raises ValueError for what is no number."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return 0
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", text, flags=re.ASCII):
        raise ValueError(f'Cannot convert value "{text}" to type "System.Int32"')
    return float(text) if "." in text else int(text)


_AMERICAN = re.compile(
    r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?:[ T]+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*(am|pm)?)?",
    flags=re.ASCII | re.IGNORECASE,
)


def time_of(value: Value) -> datetime:
    """A point in time: ISO 8601 or month/day/year as PowerShell reads it; without a zone it is local time.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.astimezone()
    text = str(value).strip()
    try:
        if (match := _AMERICAN.fullmatch(text)) is not None:
            hour = int(match[4] or 0)
            if match[7]:
                if not 1 <= hour <= 12:
                    raise ValueError(text)
                hour = hour % 12 + (12 if match[7].lower() == "pm" else 0)
            month, day, year = int(match[1]), int(match[2]), int(match[3])
            return datetime(year, month, day, hour, int(match[5] or 0), int(match[6] or 0)).astimezone()
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f'Cannot convert value "{text}" to type "System.DateTime"') from None
    return found if found.tzinfo is not None else found.astimezone()


def from_epoch(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as local time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone() if seconds is not None else None


def member(value: Value, name: str) -> Value:
    """A property of a value; of each element when an array has none of this name."""
    folded = name.lower()
    if isinstance(value, PsObject) and name in value.properties:
        return value.get(name)
    if isinstance(value, Table) and name in value:
        return value[name]
    if folded in ("count", "length"):
        if isinstance(value, str) and folded == "length":
            return len(value)
        return len(value) if isinstance(value, list | Table) else 0 if value is None else 1
    if isinstance(value, datetime) and folded in ("year", "month", "day", "hour", "minute", "second", "date"):
        return value.replace(hour=0, minute=0, second=0, microsecond=0) if folded == "date" else getattr(value, folded)
    if isinstance(value, timedelta) and folded.startswith("total"):
        unit = {"totalseconds": 1, "totalminutes": 60, "totalhours": 3600, "totaldays": 86_400}.get(folded)
        return value.total_seconds() / unit if unit else None
    if isinstance(value, Table) and folded in ("keys", "values"):
        return list(value.keys() if folded == "keys" else value.values())
    if isinstance(value, list):
        return [found for item in value for found in as_list(member(item, name))]
    return None


def wildcard(pattern: str, text: str) -> bool:
    """`-like`: `*`, `?` and `[abc]`, without regard to case."""
    return re.fullmatch(translate(pattern[:256].lower()), text[:MAXIMUM_TEXT].lower()) is not None


def matches(pattern: str, text: str) -> bool:
    """`-match`, without what can take forever.

    Raises:
        ValueError: it is no regular expression, or one with repeated groups.
    """
    if len(pattern) > 256 or re.search(r"\)[*+?{]|\\[1-9]|\(\?", pattern) or len(re.findall(r"[*+{]", pattern)) > 4:
        raise ValueError("the regular expression is too long or repeats groups, which is not taken here")
    try:
        return re.search(pattern, text[:MAXIMUM_TEXT], flags=re.IGNORECASE) is not None
    except re.error as error:
        raise ValueError(f"the regular expression is not valid: {error}") from None


def same(left: Value, right: Value, *, case: bool = False) -> bool:
    """`-eq`: the right side is converted to the kind of the left one."""
    if left is None or right is None:
        return left is None and right is None
    if isinstance(left, bool):
        return left == truth(right)
    if isinstance(left, int | float):
        try:
            return left == number_of(right)
        except ValueError:
            return False
    if isinstance(left, datetime):
        try:
            return left == time_of(right)
        except ValueError:
            return False
    if isinstance(left, str) or isinstance(right, str) or isinstance(left, PsObject):
        one, other = text_of(left), text_of(right)
        return one == other if case else one.lower() == other.lower()
    return bool(left == right)


def order(left: Value, right: Value, *, case: bool = False) -> int:
    """-1, 0 or 1. Raises ValueError for what cannot be compared."""
    one: Any
    other: Any
    if isinstance(left, datetime | date):
        one, other = time_of(left), time_of(right)
    elif isinstance(left, timedelta):
        seconds = right.total_seconds() if isinstance(right, timedelta) else number_of(right)
        one, other = left.total_seconds(), seconds
    elif left is None or isinstance(left, int | float):
        one, other = number_of(left), number_of(right)
    else:
        one, other = text_of(left), text_of(right)
        if not case:
            one, other = one.lower(), other.lower()
    return int(one > other) - int(one < other)


def sort_key(value: Value) -> tuple[int, Any]:
    """A key that puts values of different kinds beside each other without an error: nothing first, text last."""
    if value is None:
        return (0, 0)
    if isinstance(value, bool | int | float):
        return (1, value)
    if isinstance(value, timedelta):
        return (1, value.total_seconds())
    if isinstance(value, datetime):
        return (2, value.timestamp())
    return (3, text_of(value).lower())
