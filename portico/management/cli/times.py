"""Times and durations as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from portico.errors import InvalidInput

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?", flags=re.ASCII)


def parse_duration(text: str) -> int:
    """Seconds from `45s`, `30m`, `1h`, `7d`, `1d12h`.

    Raises:
        InvalidInput: it is something else, or zero.
    """
    parts = re.findall(r"([0-9]{1,9})\s*(min|[smhd])", text.strip().lower(), flags=re.ASCII)
    if not parts or re.sub(r"([0-9]{1,9})\s*(min|[smhd])\s*", "", text.strip().lower(), flags=re.ASCII):
        raise InvalidInput(f"'{text}' is not a duration", resolution="Write it like 30m, 1h or 7d")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in parts)
    if seconds == 0:
        raise InvalidInput("The duration is zero", resolution="Write it like 30m, 1h or 7d")
    return seconds


def parse_time(text: str, now: datetime) -> datetime:
    """A point in time: `14:05` (the last time it was), `2026-11-21 14:05`, `2026-11-21T14:05:00Z`, `2h` (ago), `now`.

    Without a zone it is the zone of `now`, which must have one. A date alone is its first instant.

    Raises:
        InvalidInput: it is something else.
    """
    tidy = text.strip()
    if tidy.lower() == "now":
        return now
    if match := _CLOCK.fullmatch(tidy):
        hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
        found = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return found if found <= now else found - timedelta(days=1)
    try:
        found = datetime.fromisoformat(tidy)
        return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)
    except ValueError:
        pass
    try:
        return now - timedelta(seconds=parse_duration(tidy))
    except (InvalidInput, OverflowError):
        raise InvalidInput(
            f"'{text}' is not a time",
            why="it is neither a time of day, nor a date with or without one, nor a duration",
            resolution="Write it like 14:05, '2026-11-21 14:05', 2026-11-21T14:05:00Z or 2h (ago)",
        ) from None
