"""The root file system of the machines: a minimal Debian with what `packaging/install.sh` asks for."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from portico.lab.hosts import LabFailure

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "units"
SUITE = "bookworm"
_SYSTEM = ("systemd", "systemd-sysv", "dbus", "systemd-resolved", "libnss-resolve", "python3", "python3-venv")
_TOOLS = ("iproute2", "iputils-ping", "curl", "procps", "openssl", "ca-certificates", "etcd-server")
SOURCES = "/usr/src/portico"
LIBRARIES = "/srv/libraries"


def packages() -> list[str]:
    """What is in it: a bare system, Portico's set `runtime`, and what the checks use."""
    lines = (ROOT / "requirements" / "debian.txt").read_text().partition("[runtime]")[2].partition("[")[0].splitlines()
    runtime = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [*_SYSTEM, *runtime, *_TOOLS]


def archive() -> Path:
    """The root as a tar file; made when there is none of these packages. Raises LabFailure."""
    wanted = packages()
    key = hashlib.sha256(" ".join([SUITE, *wanted]).encode()).hexdigest()[:12]
    path = CACHE / f"root-{key}.tar"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.tar")
    # What the tar is made of is not kept: nobody needs to have it on the disk for certain.
    options = ["--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={','.join(wanted)}"]
    _run(["mmdebstrap", "--quiet", *options, SUITE, str(part)], 1800)
    part.rename(path)
    return path


def libraries() -> Path:
    """Portico's Python libraries as wheels: the machines have no Internet. Raises LabFailure."""
    wanted = ROOT / "requirements" / "runtime.txt"
    path = CACHE / f"libraries-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    if not path.exists():
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        _run([*command, "--require-hashes", "--only-binary=:all:", "-r", str(wanted), "-d", str(part)], 900)
        part.rename(path)
    return path


def wheel() -> Path:
    """What `make wheel` built. Raises LabFailure."""
    found = sorted((ROOT / "dist").glob("portico-*.whl"))
    if len(found) != 1:
        raise LabFailure(f"There are {len(found)} wheels in {ROOT / 'dist'}", resolution="make wheel")
    return found[0]


def unpack(base: Path) -> None:
    """Puts the root there, with what an administrator copies to a server without compilers."""
    base.mkdir(mode=0o755)
    _run(["tar", "-C", str(base), "-xpf", str(archive())], 600)
    (base / "etc/machine-id").write_text("")
    sources = base / SOURCES.lstrip("/")
    for name in ("packaging", "requirements"):
        shutil.copytree(ROOT / name, sources / name)
    (sources / "dist").mkdir()
    shutil.copy(wheel(), sources / "dist")


@contextlib.contextmanager
def layered(base: Path, directory: Path) -> Iterator[Path]:
    """A root file system of its own over `base`, during the block."""
    upper, work, merged = (directory / name for name in ("upper", "work", "root"))
    for path in (directory, upper, work, merged):
        path.mkdir(mode=0o755)
    _run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={base},upperdir={upper},workdir={work}", str(merged)])
    try:
        yield merged
    finally:
        _run(["umount", str(merged)])


def _run(command: list[str], timeout: float = 60.0) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabFailure(f"Cannot run {command[0]}", why=str(error), resolution="make test-units installs it") from None
    if done.returncode != 0:
        raise LabFailure(f"{' '.join(command)[:120]} failed", why=(done.stderr or done.stdout).strip()[-2000:])
