"""Starting and stopping the agent: through systemd where it runs, otherwise as a detached process with a pid file."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.server.install import UNIT_NAME, systemd_runs

PID_NAME = "server.pid"
LOG_NAME = "server.log"
LOG_VARIABLE = "PORTICO_SERVER_LOG"
"""Names the log file to the agent that `start` detached; under systemd the journal bounds itself."""
LOG_LIMIT = 10 << 20
START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0


def running_pid(runtime: Path) -> int | None:
    """The agent that `start` detached, None when it does not run. A stale or foreign number is nobody's."""
    try:
        pid = int(read_file(runtime / PID_NAME, limit=32))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (PorticoError, OSError, ValueError):
        return None
    return pid if b"server" in words and b"run" in words else None


def start(runtime: Path, state: Path, answers: Callable[[], bool]) -> str:
    """Starts the agent and waits until it answers; returns how it runs.

    Raises:
        Unavailable: it ended or did not answer in time; its log says why.
        NotPermitted: the directories cannot be written.
    """
    if systemd_runs():
        _systemctl("start")
        return f"systemd unit {UNIT_NAME}"
    log = state / LOG_NAME
    try:
        runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise NotPermitted(
            f"Cannot write {log}", why=str(error), resolution=f"Run as root; look at it: ls -ld {log}"
        ) from None
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "portico", "server", "run"],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
            env={
                **os.environ,
                LOG_VARIABLE: str(log),
                "PYTHONPATH": os.pathsep.join(filter(None, [_package(), os.environ.get("PYTHONPATH")])),
            },
        )
    finally:
        os.close(descriptor)
    write_file(runtime / PID_NAME, f"{process.pid}\n".encode(), mode=0o644)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(
                "The server does not start",
                why=_last_line(log) or f"exit status {process.returncode}",
                resolution=f"Its log is {log}",
            )
        if answers():
            return f"process {process.pid}, log {log}"
        time.sleep(0.05)
    raise Unavailable("The server does not answer", why=f"not within {START_TIMEOUT:g} s", resolution=f"See {log}")


def stop(runtime: Path) -> bool:
    """Stops the agent; False when it did not run.

    Raises:
        Unavailable: it does not end.
    """
    if systemd_runs():
        _systemctl("stop")
        return True
    pid = running_pid(runtime)
    if pid is None:
        (runtime / PID_NAME).unlink(missing_ok=True)
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise NotPermitted("Cannot stop the server", why="it belongs to root", resolution="Run as root") from None
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + STOP_TIMEOUT
    while running_pid(runtime) is not None:
        if time.monotonic() >= deadline:
            raise Unavailable(
                "The server does not stop", why=f"process {pid} still runs", resolution=f"End it: kill -9 {pid}"
            )
        time.sleep(0.05)
    (runtime / PID_NAME).unlink(missing_ok=True)
    return True


def _systemctl(verb: str) -> None:
    try:
        done = subprocess.run(["systemctl", verb, UNIT_NAME], capture_output=True, text=True, timeout=90, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"systemctl {verb} {UNIT_NAME} failed", why=str(error)) from None
    if done.returncode != 0:
        raise Unavailable(
            f"systemctl {verb} {UNIT_NAME} failed",
            why=" ".join(done.stderr.split())[:300],
            resolution="Look at its log: journalctl -u portico-server",
        )


def _package() -> str:
    return str(Path(__file__).resolve().parents[2])


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read(8192).decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""


def bound_log(path: Path, descriptor: int, limit: int = LOG_LIMIT) -> bool:
    """Moves the content of a log that has grown past its limit to `<name>.1`; True when it did.

    The log is emptied where it is: the gateway writes to the same open file (in append mode), so a renamed one would
    go on growing under its new name. Lines written between the copy and the cut are lost.

    Args:
        descriptor: where this process writes; a file that is not the one at `path` is left alone.

    Raises:
        OSError: it cannot be copied or cut.
    """
    ours = os.fstat(descriptor)
    if not stat.S_ISREG(ours.st_mode) or ours.st_size <= limit:
        return False
    there = path.stat()
    if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
        return False
    former = path.with_name(f"{path.name}.1")
    temporary = path.with_name(f".{path.name}.1")
    try:
        with path.open("rb") as source, temporary.open("wb") as target:
            os.fchmod(target.fileno(), 0o600)
            # The newest part alone, should something have written much more than the limit meanwhile.
            source.seek(max(0, ours.st_size - 2 * limit))
            shutil.copyfileobj(source, target, 1 << 20)
        temporary.replace(former)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.truncate(path, 0)
    return True
