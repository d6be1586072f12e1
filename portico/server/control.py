"""Starting and stopping the agent: through systemd where it runs, otherwise as a detached process with a pid file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from portico.errors import NotPermitted, Unavailable
from portico.server.install import UNIT_NAME, systemd_runs

PID_NAME = "server.pid"
LOG_NAME = "server.log"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0


def running_pid(runtime: Path) -> int | None:
    """The agent that `start` detached, None when it does not run. A stale or foreign number is nobody's."""
    try:
        pid = int((runtime / PID_NAME).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
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
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotPermitted(f"Cannot write {log}", why=str(error), resolution="Run as root") from None
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "portico", "server", "run"],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_package(), os.environ.get("PYTHONPATH")]))},
        )
    finally:
        os.close(descriptor)
    (runtime / PID_NAME).write_text(f"{process.pid}\n")
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
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""
