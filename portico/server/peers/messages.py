"""Reading what another server sent: every field checked, every error a PorticoError. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from portico.errors import InvalidInput, PorticoError
from portico.settings.document import MAXIMUM_SIZE
from portico.settings.store import Revision

MAXIMUM_STRING = 256


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput (MESSAGE_MALFORMED)."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise malformed("it is not JSON") from None
    if not isinstance(data, dict):
        raise malformed("it is not an object")
    return data


def text(data: Mapping[str, Any], key: str, *, limit: int = MAXIMUM_STRING) -> str:
    """A field with characters that can be stored and shown. Raises InvalidInput."""
    value = data.get(key)
    if not isinstance(value, str) or not value or len(value) > limit:
        raise malformed(f"'{key}' is no text of at most {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise malformed(f"'{key}' holds characters that no text has") from None
    return value


def number(data: Mapping[str, Any], key: str) -> int:
    """A field with a whole number from 0 to 2^53. Raises InvalidInput."""
    value = data.get(key)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise malformed(f"'{key}' is no whole number")
    return value


def section(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field with an object. Raises InvalidInput."""
    value = data.get(key)
    if not isinstance(value, dict):
        raise malformed(f"'{key}' is no object")
    return value


def items(data: Mapping[str, Any], key: str, *, limit: int) -> list[Any]:
    """A field with a list. Raises InvalidInput."""
    value = data.get(key)
    if not isinstance(value, list) or len(value) > limit:
        raise malformed(f"'{key}' is no list of at most {limit}")
    return value


def revision_data(revision: Revision) -> dict[str, Any]:
    """A revision as it travels."""
    return {**revision.as_dict(), "text": revision.text}


def revision(data: Any) -> Revision:
    """A revision that travelled; its checksum is checked where it is stored. Raises InvalidInput."""
    if not isinstance(data, dict):
        raise malformed("a revision is no object")
    try:
        created = datetime.fromisoformat(text(data, "created"))
    except ValueError:
        raise malformed("'created' is no time") from None
    if created.tzinfo is None:
        raise malformed("'created' has no time zone")
    comment = data.get("comment")
    return Revision(
        number=number(data, "number"),
        author=text(data, "author"),
        comment=text(data, "comment", limit=1000) if comment else "",
        created=created.astimezone(UTC),
        sha256=text(data, "sha256"),
        text=text(data, "text", limit=MAXIMUM_SIZE),
    )


def malformed(why: str) -> PorticoError:
    return InvalidInput(
        "A message of another server cannot be read",
        why=why,
        resolution="Use the same version of Portico on all servers",
        code="MESSAGE_MALFORMED",
    )
