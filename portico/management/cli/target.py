"""Which cluster and which of its servers this command line is about. Imports nothing: every command starts with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Target:
    """What was chosen on the command line. `server` None: this machine; `on` None: whichever answers."""

    server: str | None = None
    on: str | None = None


chosen = Target()


def choose(server: str | None, on: str | None) -> None:
    """Sets it for the rest of this command line."""
    chosen.server, chosen.on = server or None, on or None
