"""A computer whose first process is a real systemd, in the network of a lab host.

systemd-nspawn boots it, with namespaces for mounts, processes, names and control groups, and a root file system, of its
own. Nothing of this machine's /run, /tmp or /var is in it; only /dev/net/tun and what is bound read-only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from portico.lab import wait
from portico.lab.hosts import Host, LabFailure
from portico.lab.state import NETNS, LabState

CGROUPS = Path("/sys/fs/cgroup")
_ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
_CONTAINER = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    # A real machine refuses no system call by itself, and its /proc/sys/net can be written.
    "SYSTEMD_SECCOMP": "0",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
}


class Machine(Host):
    """A lab host under systemd. `run` and the rest of `Host` act inside it."""

    def __init__(self, state: LabState, name: str, root: Path, visible: Mapping[Path, str] | None = None) -> None:
        """
        Args:
            root: its root file system.
            visible: directories of this machine that it sees read-only, and where.
        """
        super().__init__(state, name)
        self.root = root
        self._visible = dict(visible or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        return self.root

    @property
    def pid(self) -> int:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        raise LabFailure(f"{self.name} is not running", why=self._console())

    @property
    def alive(self) -> bool:
        try:
            return self.pid > 0
        except LabFailure:
            return False

    def environment(self) -> dict[str, str]:
        """What a root shell has; nothing of the lab's."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}

    def log_tail(self, service: str, lines: int = 15) -> str:
        if not self.alive:
            return self._console()
        done = self.run("journalctl", "-q", "--no-pager", "-o", "cat", "-n", str(lines), "-u", service, check=False)
        return f"--- {self.name}: {service}\n{done.stdout}"

    def power_on(self) -> None:
        """Starts systemd and waits until everything that is enabled has been started. Raises NeverHappened."""
        groups = _make_groups(self._group)
        netns = NETNS / self.state.netns(self.name)
        program = [
            *("nsenter", f"--net={netns}", "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
            *(f"--directory={self.root}", f"--machine={self._group}", f"--hostname={self.name}", "--console=pipe"),
            *(f"--network-namespace-path={netns}", "--capability=all", "--bind=/dev/net/tun", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off"),
            *(f"--bind-ro={path}:{seen}" for path, seen in self._visible.items()),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _ENTER, "sh", *map(str, groups), "--", *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_CONTAINER,
                start_new_session=True,
            )
        self.wait_until_started()

    def wait_until_started(self) -> None:
        """Raises NeverHappened."""
        wait.until(f"{self.name} to be started", self._started, timeout=180.0, interval=0.5, evidence=self._console)

    def failed_units(self) -> list[str]:
        text = self.output("systemctl", "list-units", "--failed", "--no-legend", "--plain")
        return [line.split()[0] for line in text.splitlines()]

    def shut_down(self, how: str) -> None:
        """`systemctl reboot` or `poweroff`, to the end of every process; `power_on` is what comes next."""
        self.run("systemctl", how, check=False)
        wait.until(f"{self.name} to end", lambda: not self.alive, timeout=120.0, interval=0.2, evidence=self._console)
        self._ended()

    def power_cut(self) -> None:
        """Ends every process at once."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def power_off(self) -> None:
        """Lets systemd end everything, then whatever is left."""
        if self.alive:
            with contextlib.suppress(LabFailure):
                self.shut_down("poweroff")
        self.power_cut()

    def _ended(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for group in _groups(self._group):
            for path in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):
                    path.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            Path("/run/systemd/nspawn/propagate", self._group).rmdir()

    def _started(self) -> bool:
        if not self.alive:
            raise LabFailure(f"{self.name} does not boot", why=self._console())
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    @property
    def _group(self) -> str:
        return f"portico-{self.state.name}-{self.name}"

    @property
    def _log(self) -> Path:
        return self.state.runtime / f"{self.name}.console.log"

    def _console(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


def _groups(name: str) -> list[Path]:
    """Where a control group of this name is: the unified hierarchy, and systemd's own where both kinds are mounted."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / name]
    return [CGROUPS / kind / name for kind in ("unified", "systemd") if (CGROUPS / kind).is_dir()]


def _make_groups(name: str) -> list[Path]:
    found = _groups(name)
    if not found:
        raise LabFailure(
            "systemd cannot be booted here",
            why=f"there is no unified hierarchy of control groups in {CGROUPS}",
            resolution="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    for path in found:
        path.mkdir(exist_ok=True)
    return found
