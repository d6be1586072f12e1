"""The keys of TLS session tickets: generated, rotated, stored for their owner only."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from portico.errors import InvalidInput, NotFound
from portico.files import private_directory, read_file, write_file

TICKETS_NAME = "ticket_keys.json"
TICKET_ROTATION = timedelta(hours=6)
TICKET_KEYS = 3
"""One encrypts, the two before it still decrypt: a client may resume for 12 hours after its last full handshake."""

_KEY_BYTES = 32


@dataclass(frozen=True)
class TicketKey:
    """A key of TLS session tickets, 32 bytes. Stays out of representations."""

    key: bytes = field(repr=False)
    created: datetime


def rotate_tickets(
    keys: Sequence[TicketKey], now: datetime, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[TicketKey, ...]:
    """The keys to use from now on, the encrypting one first; unchanged while the newest is young enough. Pure.

    A key from the future (the clock was set back) counts as old.
    """
    age_limit = TICKET_ROTATION * TICKET_KEYS
    good = [key for key in keys if timedelta(0) <= now - key.created < age_limit]
    if not good or now - good[0].created >= TICKET_ROTATION:
        good.insert(0, TicketKey(random(_KEY_BYTES), now))
    return tuple(good[:TICKET_KEYS])


def next_rotation(keys: Sequence[TicketKey]) -> datetime | None:
    """When `rotate_tickets` will change something; None without keys."""
    return keys[0].created + TICKET_ROTATION if keys else None


def load_tickets(directory: Path) -> tuple[TicketKey, ...]:
    """The stored keys; empty when there are none.

    Raises:
        PorticoError: the file cannot be read or is damaged (code TICKETS_DAMAGED); new keys may replace it, and
            clients then make one full handshake.
    """
    path = directory / TICKETS_NAME
    try:
        data = read_file(path)
    except NotFound:
        return ()
    try:
        entries = json.loads(data)
        keys = tuple(TicketKey(bytes.fromhex(e["key"]), datetime.fromisoformat(e["created"])) for e in entries)
        if any(len(key.key) != _KEY_BYTES or key.created.tzinfo is None for key in keys):
            raise ValueError("a key has the wrong length")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(
            f"the ticket keys {path} cannot be used",
            why="the file is damaged",
            resolution=f"Remove it; new keys are made: rm {path}",
            code="TICKETS_DAMAGED",
        ) from None
    return keys


def save_tickets(directory: Path, keys: Sequence[TicketKey]) -> None:
    """Stores the keys, mode 0600. Raises Unavailable (FILE_NOT_WRITTEN)."""
    entries = [{"key": key.key.hex(), "created": key.created.astimezone(UTC).isoformat()} for key in keys]
    write_file(private_directory(directory) / TICKETS_NAME, json.dumps(entries).encode())
