"""How much of the parsers and state machines the committed fuzz corpora execute, held against a floor.

    coverage.py            runs the replay with coverage, prints a table, fails when a file falls below its floor
    coverage.py --write    writes gateway/fuzz/coverage.txt from this run

Needs the compiler's own llvm-profdata and llvm-cov (rustup component add llvm-tools).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOOR = ROOT / "gateway/fuzz/coverage.txt"
TARGET = ROOT / "target/coverage"
MEASURED = ("gateway/src/wire/", "gateway/src/core/", "gateway/src/io/tls/", "gateway/src/io/config.rs")
HEAD = """\
# Lines of the parsers and state machines that the committed corpora execute, per cent, rounded down.
# `make coverage` fails when a file falls below; `packaging/development/coverage.py --write` raises the floor.
"""


def main() -> int:
    tools = _tools()
    if tools is None:
        print("Coverage needs the compiler's llvm-tools: rustup component add llvm-tools", file=sys.stderr)
        return 1
    measured = _measure(*tools)
    if "--write" in sys.argv[1:]:
        FLOOR.write_text(HEAD + "".join(f"{percent:3} {name}\n" for name, percent in sorted(measured.items())))
    floor = _floor()
    below = {name: wanted for name, wanted in floor.items() if measured.get(name, 0) < wanted}
    for name, percent in sorted(measured.items()):
        mark = f"  below its floor of {below[name]}" if name in below else ""
        print(f"{percent:3} % {name}{mark}")
    gone = sorted(set(below) - set(measured))
    if gone:
        print(f"In {FLOOR.name} and no longer there: {', '.join(gone)}")
    if below:
        print("Add seeds that reach what is not reached any more (make fuzz finds them), then write the floor again.")
    return 1 if below else 0


def _tools() -> tuple[Path, Path] | None:
    text = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout
    for directory in Path(text.strip()).glob("lib/rustlib/*/bin"):
        if (directory / "llvm-cov").exists() and (directory / "llvm-profdata").exists():
            return directory / "llvm-profdata", directory / "llvm-cov"
    return None


def _floor() -> dict[str, int]:
    lines = [line.split() for line in FLOOR.read_text().splitlines() if line and not line.startswith("#")]
    return {name: int(percent) for percent, name in lines}


def _measure(profdata: Path, cov: Path) -> dict[str, int]:
    """Line coverage of each measured file in per cent. Tests beside the code count as code and are always run."""
    profiles = TARGET / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    for old in profiles.glob("*.profraw"):
        old.unlink()
    environment = os.environ | {
        "RUSTFLAGS": "-C instrument-coverage",
        "CARGO_TARGET_DIR": str(TARGET),
        "LLVM_PROFILE_FILE": str(profiles / "%p-%m.profraw"),
    }
    build = ["cargo", "test", "--locked", "--lib", "--package", "portico-gateway"]
    built = subprocess.run(
        [*build, "--no-run", "--message-format=json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    program = next(message["executable"] for message in messages if message.get("executable"))
    subprocess.run([program, "--quiet", "fuzzing::replay"], cwd=ROOT / "gateway", env=environment, check=True)
    merged = TARGET / "replay.profdata"
    raw = sorted(str(path) for path in profiles.glob("*.profraw"))
    subprocess.run([profdata, "merge", "--sparse", "--output", merged, *raw], check=True)
    exported = subprocess.run(
        [cov, "export", "--summary-only", f"--instr-profile={merged}", program], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, int] = {}
    for file in json.loads(exported.stdout)["data"][0]["files"]:
        name = os.path.relpath(file["filename"], ROOT)
        if name.startswith(MEASURED) and "/tests" not in name:
            found[name] = int(file["summary"]["lines"]["percent"])
    return found


if __name__ == "__main__":
    sys.exit(main())
