"""Which agent a command talks to, and in whose name."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable

from portico import paths
from portico.errors import PorticoError
from portico.management.client import ApiClient


def server() -> ApiClient:
    """The server on this machine."""
    return ApiClient(paths.server_socket())


def author() -> str:
    """Who makes a change: the account that called sudo, otherwise the user."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def completed(ask: Callable[[ApiClient], Iterable[object]]) -> Callable[[str], list[str]]:
    """What the shell offers for a word, asked of the running server; nothing when it does not answer at once.

    A completion never prints an error: the person is in the middle of typing.
    """

    def complete(incomplete: str) -> list[str]:
        try:
            with ApiClient(paths.server_socket(), timeout=2.0) as api:
                found = [str(item) for item in ask(api)]
        except (PorticoError, LookupError, TypeError):
            return []
        return [item for item in found if item.startswith(incomplete)]

    return complete


client_names = completed(lambda api: [c["name"] for c in api.get("/v1/clients", limit=1000)["clients"]])
revisions = completed(lambda api: [r["number"] for r in api.get("/v1/settings/history", limit=100)])
serials = completed(lambda api: [c["serial"] for c in api.get("/v1/ca/certificates") if c["revoked"] is None])
open_tokens = completed(lambda api: [t["id"] for t in api.get("/v1/ca/tokens") if t["state"] == "open"])
