"""URLs in settings. A validator raises ValueError with the reason; pydantic names the field."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator

from portico.settings.kinds import host_name

MAXIMUM: Final = 2000


def split_url(value: object) -> tuple[str, SplitResult]:
    """A text without anything that no URL has, and its parts, of which the port is a number."""
    if not isinstance(value, str):
        raise ValueError("text was expected")
    text = value.strip()
    if any(c.isspace() or not c.isprintable() for c in text) or len(text) > MAXIMUM:
        raise ValueError(f"it has blanks or control characters, or more than {MAXIMUM} characters")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"'{text}' is no URL: {error}") from None
    return text, parts


def https_url(value: object) -> str:
    """An https:// URL with a host and nothing secret in it, as it was written."""
    text, parts = split_url(value)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("it must be https://HOST/..., so that nobody else reads or answers what is asked there")
    if "@" in parts.netloc:
        raise ValueError("it holds a user or a password, and settings are no place for secrets")
    if parts.fragment:
        raise ValueError("it has a fragment (#...), which is never sent")
    return text


def page_url(value: object) -> str:
    """`https://name[:port]/path`, normalised; the name is one that a certificate can have."""
    parts = urlsplit(https_url(value))
    if parts.query:
        raise ValueError("it has a query (?...); give name, port and path only")
    name = host_name(parts.hostname)
    if "." not in name or name.rpartition(".")[2].isdigit():
        raise ValueError(f"'{parts.hostname}' is not a full domain name")
    shown = f"{name}:{parts.port}" if parts.port not in (None, 443) else name
    return f"https://{shown}{parts.path or '/'}"


HttpsUrl = Annotated[str, BeforeValidator(https_url)]
PageUrl = Annotated[str, BeforeValidator(page_url)]
"""An HttpsUrl of a page that a browser would show: no address, no query."""
