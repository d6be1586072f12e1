"""Which agent a command talks to, and in whose name."""

from __future__ import annotations

import getpass
import os

from portico import paths
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
