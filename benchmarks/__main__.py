"""Measures every path and program in turn, round after round, and judges what the gateway reached.

python -m benchmarks                      everything; rewrites docs/performance.md
python -m benchmarks --only ping,small    these rows and what they are compared with
python -m benchmarks compare A B          two result files
python -m benchmarks report FILE          docs/performance.md again from a result file
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.compare import compare
from benchmarks.machine import identity
from benchmarks.plot import plot
from benchmarks.results import Run, load, save
from benchmarks.rows import KEYS, ROWS, Row, needed, selected
from benchmarks.session import duration, measure, plan, remaining
from benchmarks.subjects import SUBJECTS
from benchmarks.verdict import Verdict, judge

KEPT = Path("build/bench")
DOCUMENT = Path("docs/performance.md")
# Above this the machine does something else as well.
QUIET = 0.5
FAILED, NOT_ROOT, INTERRUPTED = 1, 5, 130


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds over everything; medians are reported (5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of each load (3)")
    parser.add_argument("--only", action="append", default=[], help=f"rows, separated by commas: {', '.join(KEYS)}")
    parser.add_argument("--results", type=Path, help=f"where every sample is kept ({KEPT}/results.json)")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even where a run can be continued")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="where the tables of a whole run go")
    parser.add_argument("--no-write", action="store_true", help="print the tables, do not touch the document")
    parser.add_argument("--json", action="store_true", help="print verdicts and samples as JSON instead of tables")
    return parser.parse_args()


def _begin(options: argparse.Namespace, keys: list[str], rows: tuple[Row, ...]) -> tuple[Run, Path]:
    """The run to make or to continue, and its file."""
    wanted = plan(needed(rows) if keys else None)
    versions = {name: SUBJECTS[name].version() for name in wanted}
    new = Run(
        rounds=options.rounds, seconds=options.seconds, wanted=wanted, identity={**identity(), **versions},
        started=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", load=round(os.getloadavg()[0], 1),
    )  # fmt: skip
    name = "-".join(["results", *keys])
    file = options.results or KEPT / f"{name}.json"
    if file.exists():
        old = load(file)
        if not options.fresh and old.continues(new) and not old.finished:
            _say(f"continuing the run of {old.started} in {file} (--fresh begins anew)")
            return old, file
        previous = file.with_name(f"{file.stem}.previous{file.suffix}")
        file.replace(previous)
        _say(f"the run before is kept in {previous}: python -m benchmarks compare {previous} {file}")
    return new, file


def _finish(run: Run, rows: tuple[Row, ...], options: argparse.Namespace, whole: bool) -> int:
    outcomes = [judge(row, run) for row in rows]
    if options.json:
        verdicts = [
            {"row": one.row.title, "key": one.row.key, "verdict": one.verdict.value, "must": one.row.must,
             "aim": one.row.aim, "reason": one.reason, "reached": [asdict(reached) for reached in one.reached]}
            for one in outcomes
        ]  # fmt: skip
        print(json.dumps({"rows": verdicts, "run": asdict(run)}, indent=1))
    else:
        parts = [report.demands(run, rows), report.subjects(run), report.failures(run)]
        print("\n\n".join(part for part in parts if part))
    if whole and not options.no_write:
        _write(run, options.document)
    return FAILED if any(one.verdict is Verdict.NOT_MEASURED for one in outcomes) else 0


def _write(run: Run, document: Path) -> None:
    plot(run, document.with_name(report.PLOT))
    report.write(run, document)
    _say(f"written to {document}")


def _measure() -> int:
    options = _options()
    keys = [key for text in options.only for key in text.split(",") if key]
    try:
        rows = selected(keys)
    except ValueError as error:
        _say(f"--only: {error}")
        return 2
    if os.geteuid() != 0:
        _say("the benchmark builds network namespaces: run it as root (sudo make bench)")
        return NOT_ROOT
    run, file = _begin(options, keys, rows)
    save(run, file)
    _say(
        f"{len(run.wanted)} subjects, {run.rounds} rounds, about {duration(remaining(run))}. "
        f"Every sample is kept in {file}: the same command continues an interrupted run."
    )
    if run.load > QUIET:
        _say(f"the machine is busy (load average {run.load}): figures will be lower and their ranges wider")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measure(run, file, KEPT / "logs", _say)
    except KeyboardInterrupt:
        _say(f"interrupted; {file} has what was measured, and the same command continues there")
        return INTERRUPTED
    return _finish(run, rows, options, whole=not keys)


def main() -> int:
    match sys.argv[1:]:
        case ["compare", before, after]:
            print(compare(load(Path(before)), load(Path(after))))
            return 0
        case ["report", file]:
            run = load(Path(file))
            print(report.demands(run, ROWS))
            _write(run, DOCUMENT)
            return 0
        case ["compare" | "report", *_]:
            _say("usage: python -m benchmarks compare BEFORE AFTER | report FILE")
            return 2
    return _measure()


if __name__ == "__main__":
    sys.exit(main())
