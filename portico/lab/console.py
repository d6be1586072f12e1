"""A shell in a host."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

from portico.lab.hosts import Host


def console(host: Host) -> int:
    """Runs an interactive shell inside until it ends; returns its exit status.

    Its prompt says which host of which lab it is in.
    """
    environment = {**host.environment(), "PS1": rf"\[\e[1m\]{host.state.name}/{host.name}\[\e[0m\]:\w# "}
    return subprocess.run(host.command(["bash", "--norc", "-i"]), env=environment, check=False).returncode


def replace_with(host: Host, argv: list[str]) -> NoReturn:
    """Becomes a program inside the host: its terminal, its exit status."""
    command = host.command(argv)
    os.execvpe(command[0], command, host.environment())  # noqa: S606 - no shell is wanted
