"""Where the programs under measurement lie, and which versions they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def example(name: str) -> str:
    """An example program of the gateway, as cargo built it for release.

    Raises:
        RuntimeError: it was not built.
    """
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    program = target / "release" / "examples" / name
    if not program.exists():
        raise RuntimeError(f"{program} is missing: build it with `cargo build --release --example {name}`")
    return str(program)


def debian_version(package: str) -> str:
    """The version of an installed Debian package, or why there is none."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode != 0 or not done.stdout:
        return f"not installed (apt-get install {package})"
    return f"{done.stdout} (Debian)"


def portico_version() -> str:
    """The commit, and whether files differ from it."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={REPOSITORY}", "describe", "--always", "--dirty", "--abbrev=10"],
        capture_output=True, text=True, check=False, timeout=20, cwd=REPOSITORY,
    )  # fmt: skip
    return done.stdout.strip() or "not under version control"
