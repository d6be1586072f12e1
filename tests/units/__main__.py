"""The shipped units under a real systemd: installation to uninstallation, as an administrator does it.

    make test-units        builds what is missing, then: python -m tests.units [--keep]

Two servers, a client and a witness boot as containers in the network of a lab (portico.lab.topology), which also has
the intranet. Needs root and the packages of the sets lab and units of requirements/debian.txt. Every check is one line;
the exit status is 1 when one fails. The first run makes the root file system (build/units), later ones keep it.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from portico.lab.lab import Lab, destroy
from portico.lab.topology import build
from tests.units import checks, root
from tests.units.machine import Machine
from tests.units.report import Report

MACHINES = ("da1", "da2", "client1", "mgmt")
"""mgmt becomes the witness."""


@contextmanager
def machines(lab: Lab, directory: Path, report: Report) -> Iterator[dict[str, Machine]]:
    """The machines, with Portico installed, started; ended and their disks removed afterwards."""
    base = directory / "base"
    root.unpack(base)
    visible = {root.libraries(): root.LIBRARIES}
    template = Machine(lab.state, "mgmt", base, visible)
    try:
        template.power_on()
        checks.install_program(template, report)
    finally:
        template.power_off()
    (base / "etc/machine-id").write_text("")
    with ExitStack() as stack:
        found = {}
        for name in MACHINES:
            disk = stack.enter_context(root.layered(base, directory / name))
            found[name] = Machine(lab.state, name, disk, visible)
            stack.callback(found[name].power_off)
        for machine in found.values():
            checks.prepare(lab, machine)
            machine.power_on()
        yield found


def main() -> int:
    parser = argparse.ArgumentParser(description="The shipped units under a real systemd")
    parser.add_argument("--keep", action="store_true", help="wait for Enter before everything is taken away")
    keep = parser.parse_args().keep
    signal.signal(
        signal.SIGTERM, lambda number, _frame: sys.exit(128 + number)
    )  # what is below is taken away then, too
    report, begun = Report(), time.monotonic()
    root.archive()
    root.libraries()
    print(f"The root file system is there ({time.monotonic() - begun:.0f} s)", flush=True)
    name = f"units-{secrets.token_hex(3)}"
    # Not in /tmp, which may be in memory; and a directory that nobody else enters.
    directory = Path(tempfile.mkdtemp(prefix="portico-units-", dir="/var/tmp"))
    try:
        lab = Lab.create(name, build(2, 1))
        with machines(lab, directory, report) as found:
            try:
                checks.run(lab, found, report)
            finally:
                if keep:
                    print(f"{directory}: {', '.join(f'{m.name} {m.pid}' for m in found.values() if m.alive)}")
                    sys.stdin.readline()
    finally:
        destroy(name)
        shutil.rmtree(directory)
    print(f"{time.monotonic() - begun:.0f} s")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
