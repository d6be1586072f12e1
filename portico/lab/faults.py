"""What goes wrong inside a host: its processes stop, die, or have no time. Cables and switches: links.py, switch.py."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portico.errors import InvalidInput
from portico.lab import wait
from portico.lab.hosts import PYTHON, Host, LabFailure

MAX_LOAD_SECONDS = 600.0

# One process a core. The parent's end is theirs, so that an interrupted load leaves nothing behind.
_BUSY = """
import os, sys, time
end = time.monotonic() + float(sys.argv[1])
parent = os.getpid()
for _ in range(os.cpu_count() or 1):
    if os.fork() == 0:
        while time.monotonic() < end and os.getppid() == parent:
            for _ in range(100000): pass
        os._exit(0)
try:
    while True: os.wait()
except ChildProcessError:
    pass
"""


def processes(host: Host) -> list[int]:
    """Every process of a host, as the machine numbers them: those in the namespace of its first process, and that."""
    inside = Path(f"/proc/{host.pid}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == inside:
                found.append(int(entry.name))
    return sorted(found)


def freeze(host: Host) -> int:
    """Stops (SIGSTOP) every process of a host, its first one too; returns how many.

    Raises:
        HostDown: the host is not running.
        NeverHappened: new processes came faster than they could be stopped.
    """
    # The first process goes first: what dies meanwhile is not started again.
    stopped: set[int] = {host.pid} if _signal(host, host.pid, signal.SIGSTOP) else set()

    def all_stopped() -> bool:
        running = [pid for pid in processes(host) if not _is_stopped(pid)]
        stopped.update(pid for pid in running if _signal(host, pid, signal.SIGSTOP))
        return not running

    wait.until(f"every process of {host.name} to stop", all_stopped, interval=0.005)
    return len(stopped)


def thaw(host: Host) -> int:
    """Lets every process of a host go on (SIGCONT); returns how many.

    Raises:
        HostDown: the host is not running.
    """
    # The first process goes last: it finds its services as they were.
    return sum(_signal(host, pid, signal.SIGCONT) for pid in sorted(processes(host), key=lambda pid: pid == host.pid))


def frozen(host: Host) -> bool:
    """Whether a host's first process is stopped."""
    return host.alive and _is_stopped(host.pid)


def kill_process(host: Host, service: str) -> int:
    """Ends a service's process at once (SIGKILL), not its children; returns the number it had inside the host.

    Whether it is started again is the host's affair (`restart=True` of `Host.start_service`).

    Raises:
        NotFound: the host has no such service.
        LabFailure: the service does not run.
    """
    pid = host.service(service)["pid"]
    if pid is None:
        raise LabFailure(f"The service {service} on {host.name} cannot be killed", why="it does not run")
    host.run("kill", "-9", str(pid))
    wait.until(f"{service} on {host.name} to die", lambda: host.service(service)["pid"] != pid, interval=0.01)
    return int(pid)


@contextmanager
def loaded(host: Host, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Keeps every core busy from inside a host while the block runs, for `seconds` at most.

    Raises:
        InvalidInput: it would be too long.
    """
    if not 0 < seconds <= MAX_LOAD_SECONDS:
        raise InvalidInput(
            f"A load of {seconds:g} seconds cannot be made",
            why=f"it takes the whole machine's time, so that {MAX_LOAD_SECONDS:g} seconds are the most",
        )
    process = host.popen([PYTHON, "-c", _BUSY, str(seconds)], start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _signal(host: Host, pid: int, number: signal.Signals) -> bool:
    """Signals a process if it is (still) the host's; returns whether it was."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds the process; only now is its number certain to be that of what is looked at.
        if Path(f"/proc/{pid}/ns/pid").readlink() != Path(f"/proc/{host.pid}/ns/pid").readlink():
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped, or gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "TtZX"
