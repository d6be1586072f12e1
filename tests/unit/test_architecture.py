"""The rules that keep the rooms apart, run as tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HARD_LIMIT = 1000
"""Lines in a source file. Past it, a file holds more than one subject."""

FORBIDDEN_IN_CORES = {
    "sockets": re.compile(r"std::net::(\{[^}]*\b)?(Tcp|Udp)|\bsocket2\b|std::os::unix::net"),
    "tokio": re.compile(r"\btokio::"),
    "clocks": re.compile(r"\bInstant::now\b|\bSystemTime\b|\bthread::sleep\b"),
    "randomness": re.compile(r"\brand::|\bgetrandom\b|\bRandomState::new\b"),
    "files and processes": re.compile(r"std::(fs|process)::"),
}


def _sources(*patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            if not {"target", ".venv", "__pycache__"} & set(path.relative_to(ROOT).parts):
                yield path


def _code(text: str) -> str:
    """Rust without its comments and without its tests, which may use what the code may not."""
    text = re.split(r"^#\[cfg\(test\)\]", text, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"//[^\n]*", "", text)


def test_rooms_depend_in_one_direction_only() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_python_core_is_under_the_contract_of_cores() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (cores,) = [contract for contract in contracts if contract["name"].startswith("Cores ")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in _sources("portico/**/*.py")}
    found = {module for module in modules if module.rpartition(".")[2] in ("core", "wire")}
    assert found, "the cluster and the resolver have some"
    missing = {
        module for module in found if not any(f"{module}.".startswith(f"{room}.") for room in cores["source_modules"])
    }
    assert not missing, f"name them in pyproject.toml: {missing}"


@pytest.mark.parametrize("what", FORBIDDEN_IN_CORES)
def test_rust_cores_know_no(what: str) -> None:
    found = []
    for path in _sources("gateway/src/wire/**/*.rs", "gateway/src/core/**/*.rs"):
        if path.name == "tests.rs" or "tests" in path.parts:
            continue
        found += [
            f"{path.relative_to(ROOT)}: {match.group()}"
            for match in FORBIDDEN_IN_CORES[what].finditer(_code(path.read_text()))
        ]
    assert not found, f"wire and core take {what} from their caller; found {found}"


@pytest.mark.parametrize(("room", "above"), [("wire", "core|io|python"), ("core", "io|python")])
def test_rust_rooms_depend_in_one_direction_only(room: str, above: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match}"
        for path in _sources(f"gateway/src/{room}/**/*.rs")
        for match in re.findall(rf"\bcrate::(?:{above})\b", _code(path.read_text()))
    ]
    assert not found, f"io depends on core, core on wire, never the other way round: {found}"


def test_source_files_stay_readable() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text().count("\n")
        for path in _sources("portico/**/*.py", "gateway/**/*.rs", "tests/**/*.py", "benchmarks/**/*.py")
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > HARD_LIMIT}
    assert not too_long, f"split by subject: {too_long}"


def test_every_package_file_is_annotated_and_starts_with_its_purpose() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for path in _sources("portico/**/*.py")
        if (text := path.read_text()).strip() and not text.lstrip().startswith(('"""', "#!"))
    ]
    assert not missing, f"a module says in its first line what it is for: {missing}"
