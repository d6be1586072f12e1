"""Exchanging the program: pip in the environment that this process runs in. Blocking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from portico.errors import Unavailable

SECONDS: Final = 300.0
_PIP: Final = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-input")


def require_libraries(wheel: Path) -> None:
    """Asks pip whether everything that a wheel needs is installed. Nothing is fetched or changed.

    Raises:
        Unavailable: code LIBRARIES_MISSING, with what pip says.
    """
    # Without --no-deps and without an index: what is not here is not found.
    done = _run(*_PIP, "--dry-run", str(wheel))
    if done.returncode != 0:
        raise Unavailable(
            "The new version needs libraries that are not here",
            why=_said(done),
            resolution="Install them first, as its requirements/runtime.txt pins them: "
            f"{sys.executable} -m pip install --require-hashes -r requirements/runtime.txt",
            code="LIBRARIES_MISSING",
        )


def install(wheel: Path) -> None:
    """Puts the program of a wheel in the place of the one that is here. Repeatable.

    Raises:
        Unavailable: code INSTALL_FAILED.
    """
    done = _run(*_PIP, "--no-deps", "--force-reinstall", str(wheel))
    if done.returncode != 0:
        raise Unavailable(
            f"{wheel.name} cannot be installed",
            why=_said(done),
            resolution=f"See whether the disk is full and {sys.prefix} can be written: df {sys.prefix}",
            code="INSTALL_FAILED",
        )


def refresh() -> None:
    """Has the program that is installed now make what it needs of this machine: accounts and units.

    Raises:
        Unavailable: code REFRESH_FAILED; it does not even start, or says why it cannot.
    """
    done = _run("-P", "-m", "portico", "server", "refresh", "--yes")
    if done.returncode != 0:
        raise Unavailable(
            "The installed program cannot prepare this machine",
            why=_said(done),
            resolution=f"Try it: {sys.executable} -P -m portico server refresh",
            code="REFRESH_FAILED",
        )


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # From the root directory: a directory `portico` where the administrator stands is not the program.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}
    environment.pop("PYTHONPATH", None)
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd="/",
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"Cannot run {sys.executable}", why=str(error)) from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if not line.startswith("WARNING")]
    return " ".join(" ".join(lines[-4:]).split())[:500] or f"exit status {done.returncode}"
