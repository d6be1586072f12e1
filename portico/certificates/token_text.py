"""The form of one-time tokens as they are handed over: base64url (no padding) of a JSON object of version 1. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

VERSION: Final = 1
MAXIMUM_TEXT: Final = 4096

_PIN = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Malformed(ValueError):
    """The text is no token; the message says why."""


def write(fields: Mapping[str, Any]) -> str:
    """The token of some fields, for one line."""
    data = json.dumps({"v": VERSION, **fields}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read(text: str) -> dict[str, Any]:
    """The fields of a token; blanks and line breaks of copying do not matter.

    Raises:
        Malformed: it is empty, too long, incomplete, changed, or of another version.
    """
    compact = re.sub(r"\s+", "", text)
    if not compact or len(compact) > MAXIMUM_TEXT:
        raise Malformed("it is empty" if not compact else "it is too long")
    try:
        data = base64.b64decode(compact + "=" * (-len(compact) % 4), altchars=b"-_", validate=True)
        fields = json.loads(data)
    except (binascii.Error, ValueError, RecursionError):
        raise Malformed("it is incomplete or was changed") from None
    if not isinstance(fields, dict) or type(fields.get("v")) is not int or fields["v"] != VERSION:
        raise Malformed("its version is not known to this program")
    return fields


def texts(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Fields that are texts, of which `pin` is a SHA-256.

    Raises:
        Malformed: one is missing or cannot be shown.
    """
    found = {}
    for name in names:
        value = fields.get(name)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise Malformed(f"'{name}' is missing")
        found[name] = value
    if not _PIN.fullmatch(found["pin"]):
        raise Malformed("its pin is not a SHA-256")
    return found
