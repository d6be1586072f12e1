"""The shipped units on lab hosts, see `tests.lab.in_unit`."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

from portico.lab.hosts import CODE, COMMANDS, PYTHON, Host
from portico.server.install import unit_text

UNITS = Path(__file__).resolve().parents[2] / "portico" / "systemd"


@cache
def _groups() -> dict[str, list[str]]:
    """The groups of system calls that systemd knows, with their members."""
    groups: dict[str, list[str]] = {}
    name = ""
    for line in subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups[name].append(line.strip())
    return groups


def allowed_calls(text: str) -> list[str]:
    """The system calls that the `SystemCallFilter=` lines of a unit leave, by systemd's own groups."""
    groups = _groups()

    def expand(word: str) -> set[str]:
        return set().union(*map(expand, groups[word])) if word.startswith("@") else {word}

    allowed = expand("@default")
    for line in text.splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.partition("=")[2]
            named: set[str] = set().union(*map(expand, words.removeprefix("~").split()))
            allowed = allowed - named if words.startswith("~") else allowed | named
    return sorted(allowed)


def start_unit(host: Host, name: str) -> int:
    """Starts the program of a unit under what the unit leaves it; it is started again whenever it ends."""
    text = unit_text(f"{name}.service", f"{COMMANDS}/portico", PYTHON)
    unit, calls = f"/etc/portico/units/{name}.service", f"/etc/portico/units/{name}.calls"
    host.write(unit, text)
    host.write(calls, json.dumps(allowed_calls(text)))
    return host.start_service(name, [PYTHON, f"{CODE}/tests/lab/in_unit.py", unit, calls], restart=True)


def capabilities(name: str) -> int:
    """The bounding set of a unit as /proc shows it."""
    from tests.lab.in_unit import CAPABILITIES, Unit, read_unit

    words = Unit(read_unit(str(UNITS / f"{name}.service"))).words("CapabilityBoundingSet")
    return sum(1 << CAPABILITIES[word] for word in words)
