"""`python -m benchmarks.capacity`: clients and Mbit/s a core. Ctrl-C keeps what there is; the next run goes on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.capacity import report
from benchmarks.capacity.scenarios import SCENARIOS, Bench, Row, scenario
from benchmarks.deployment import deployed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="just this scenario (repeatable)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of each number, to try it; keeps nothing")
    parser.add_argument("--results", type=Path, default=Path("build/capacity.json"), help="where results are kept")
    parser.add_argument("--again", action="store_true", help="measure also what is in the results already")
    parser.add_argument("--document", type=Path, default=Path("docs/capacity.md"), help="where the table goes")
    parser.add_argument("--no-write", action="store_true", help="print the table, write no document")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the measurement builds network namespaces: run it as root (sudo make bench-capacity)", file=sys.stderr)
        return 5
    tried = options.scale != 1.0
    options.results.parent.mkdir(parents=True, exist_ok=True)
    rows = {} if tried else _kept(options.results)
    wanted = options.only or list(SCENARIOS)
    missing = [name for name in wanted if options.again or options.only or name not in rows]
    say = _to_stderr if options.json else _to_stdout
    interrupted = False
    for number, name in enumerate(missing, 1):
        say(f"[{number}/{len(missing)}] {name} ...")
        began = time.monotonic()
        try:
            # Each on a server of its own: what one leaves in the allocator must not be counted for the next.
            with (
                tempfile.TemporaryDirectory(prefix="portico-capacity-") as directory,
                deployed(f"capacity-{secrets.token_hex(3)}", Path(directory), client=False) as place,
            ):
                rows[name] = scenario(name, options.scale)(Bench(place, options.seconds, say))
        except KeyboardInterrupt:
            interrupted = True
            break
        if not tried:
            _keep(options.results, rows)
        say(f"    {_summary(rows[name])} ({time.monotonic() - began:.0f} s)")
    ordered = [rows[name] for name in SCENARIOS if name in rows]
    if options.json:
        print(json.dumps([asdict(row) for row in ordered], indent=1))
    else:
        print("\n" + report.table(ordered))
    if interrupted:
        say(
            f"interrupted: {len(ordered)} of {len(SCENARIOS)} scenarios are in {options.results}; run it again to go on"
        )
        return 130
    if not options.no_write and not tried:
        kernel = platform.release().split("-")[0]
        method = (
            f"Measured {datetime.now(UTC):%Y-%m-%d} on a machine of {os.cpu_count()} cores, Linux {kernel}, "
            f"{options.seconds:.0f} s each."
        )
        report.write(ordered, options.document, method)
        say(f"written to {options.document}")
    return 0


def _kept(path: Path) -> dict[str, Row]:
    try:
        return {name: Row(**fields) for name, fields in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}


def _keep(path: Path, rows: dict[str, Row]) -> None:
    path.write_text(json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1))


def _summary(row: Row) -> str:
    parts = []
    for name in ("internal", "cores", "kib_per_tunnel", "clients_per_core", "mbit_per_core"):
        value = getattr(row, name)
        if value is not None:
            parts.append(f"{name} {value:,.2f}")
    return ", ".join(parts + [f"{name} {value:,.2f}" for name, value in row.more.items() if value is not None])


def _to_stdout(text: str) -> None:
    print(text, flush=True)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
