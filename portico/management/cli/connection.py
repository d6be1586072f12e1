"""Which agent a command talks to, and in whose name."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable

import httpx

from portico import paths
from portico.errors import PorticoError
from portico.management.cli import target
from portico.management.cli.profiles import Profiles
from portico.management.cli.remote import Asking, RemoteTransport
from portico.management.client import ApiClient


def server(*, timeout: float = 120.0) -> ApiClient:
    """The cluster that was chosen (`--server`, PORTICO_SERVER), else the server on this machine.

    Raises:
        PorticoError: the chosen one is not known, or its credentials cannot be read.
    """
    if target.chosen.server is None:
        if target.chosen.on is None:
            return ApiClient(paths.server_socket(), timeout=timeout)
        local = httpx.HTTPTransport(uds=str(paths.server_socket()))
        return ApiClient(paths.server_socket(), timeout=timeout, transport=Asking(local, target.chosen.on))
    profile = Profiles.load().find(target.chosen.server)
    transport = RemoteTransport(profile, on=target.chosen.on)
    return ApiClient(paths.server_socket(), what=f"cluster {profile.name}", timeout=timeout, transport=transport)


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
            with server(timeout=2.0) as api:
                found = [str(item) for item in ask(api)]
        except (PorticoError, LookupError, TypeError):
            return []
        return [item for item in found if item.startswith(incomplete)]

    return complete


client_names = completed(lambda api: [c["name"] for c in api.get("/v1/clients", limit=1000)["clients"]])
revisions = completed(lambda api: [r["number"] for r in api.get("/v1/settings/history", limit=100)])
serials = completed(
    lambda api: [c["serial"] for c in api.get("/v1/ca/certificates")["certificates"] if c["revoked"] is None]
)
open_tokens = completed(lambda api: [t["id"] for t in api.get("/v1/ca/tokens")["tokens"] if t["state"] == "open"])
