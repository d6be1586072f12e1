"""The first process of a lab host: makes the namespaces, keeps the services, reaps orphans.

Run by file path with `python -I -S`, so it uses the standard library only and starts in 20 ms. Its arguments are a JSON
file (written by `Host.boot`) and the descriptor that hears how it went. Killing it is a power cut: the kernel ends
every process of the host at once.

It listens on a Unix stream socket for one JSON object a line:
    {"op": "start", "name", "argv", "env", "cwd", "restart"}    starts a service; its output goes to /var/log/NAME.log
    {"op": "stop", "name", "signal", "timeout"}                 ends it and forgets it
    {"op": "services"}                                          what runs
and answers {"ok": true, ...} or {"ok": false, "error": text}.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

RESTART_DELAY = 0.2
"""Seconds before a dead service that asked for it is started again, as `RestartSec=` of a unit would."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2), private to this namespace."""
    encoded = [value.encode() if value is not None else None for value in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), data.encode() if data else None), f"mount {source} on {target}")


def _mounts_below(directory: str) -> list[str]:
    with open("/proc/self/mountinfo") as lines:
        points = [line.split()[4] for line in lines]
    return [point for point in points if point == directory or point.startswith(directory + "/")]


def make_private(spec: dict[str, Any]) -> None:
    """Gives the host its own view of the directories a computer of its own would not share."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    # A copied mount would keep other hosts' network namespaces alive after their death.
    for point in reversed(_mounts_below("/run/netns")):
        _libc.umount2(point.encode(), MNT_DETACH)
    # Nor would the memory of another lab's disks be given back when that lab ends.
    for point in reversed(_mounts_below(spec["disks"])):
        if not any(source.startswith(point + "/") for source in spec["directories"].values()):
            _libc.umount2(point.encode(), MNT_DETACH)
    sources = {target: os.open(source, os.O_PATH) for target, source in spec["directories"].items()}
    visible = {target: os.open(source, os.O_PATH) for target, source in spec["visible"].items()}
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # /proc belongs to the new process namespace now; descriptors are named through it.
    for target, descriptor in sources.items():
        mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for directory in spec["covered"]:
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for target, descriptor in visible.items():
        os.makedirs(target, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", target, flags=MS_BIND | MS_REC)
    for descriptor in (*sources.values(), *visible.values()):
        os.close(descriptor)
    for directory in ("/run/lock", "/run/named", "/run/netns"):
        os.makedirs(directory, exist_ok=True)


def set_sysctls(values: dict[str, Any]) -> None:
    """Writes kernel parameters of the new network namespace."""
    for key, value in values.items():
        path = "/proc/sys/" + key.replace(".", "/")
        with open(path, "w") as file:
            file.write(str(value))


class Service:
    """One long-running program of the host."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], cwd: str, restart: bool) -> None:
        self.name, self.argv, self.env, self.cwd, self.restart = name, argv, env, cwd, restart
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.due: float | None = None
        self.status: int | None = None

    def start(self) -> int:
        """Starts it, for the first time or again; returns its process id."""
        with open(f"/var/log/{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                restore_signals=True,
            )
        self.due = None
        self.status = None
        return self.process.pid

    def as_dict(self) -> dict[str, Any]:
        pid = self.process.pid if self.process is not None and self.process.returncode is None else None
        return {
            "name": self.name,
            "argv": self.argv,
            "pid": pid,
            "status": self.status,
            "restarts": self.restarts,
        }


class Init:
    """The loop of process 1: requests, deaths, restarts."""

    def __init__(self, listener: socket.socket) -> None:
        self.services: dict[str, Service] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = listener
        self.wakeup, writing = socket.socketpair()
        for end in (self.wakeup, writing):
            end.setblocking(False)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._writing = writing
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        self.selector.register(self.wakeup, selectors.EVENT_READ, lambda: self.wakeup.recv(4096))

    def run(self) -> NoReturn:
        while True:
            due = [service.due for service in self.services.values() if service.due is not None]
            timeout = max(0.0, min(due) - time.monotonic()) if due else None
            for key, _ in self.selector.select(timeout):
                key.data()
            self._reap()
            for service in list(self.services.values()):
                if service.due is not None and service.due <= time.monotonic():
                    service.restarts += 1
                    try:
                        service.start()
                    except OSError:
                        service.due = time.monotonic() + RESTART_DELAY

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.services.values():
                if service.process is not None and service.process.pid == pid and service.process.returncode is None:
                    service.process.returncode = service.status = os.waitstatus_to_exitcode(status)
                    if service.restart:
                        service.due = time.monotonic() + RESTART_DELAY

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(5.0)
        with connection:
            try:
                data = b""
                while not data.endswith(b"\n"):
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    data += piece
                try:
                    answer = {"ok": True, **self.handle(json.loads(data))}
                except (OSError, KeyError, ValueError) as error:
                    answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carries out one request; what it raises goes back as its answer."""
        operation = request["op"]
        if operation == "start":
            name = request["name"]
            self._end(name, signal.SIGKILL, 1.0)
            service = Service(
                name, request["argv"], request["env"], request.get("cwd", "/"), bool(request.get("restart"))
            )
            pid = service.start()
            self.services[name] = service
            return {"pid": pid}
        if operation == "stop":
            return {"status": self._end(request["name"], request.get("signal", signal.SIGTERM), request["timeout"])}
        if operation == "services":
            self._reap()
            return {"services": [service.as_dict() for service in self.services.values()]}
        raise ValueError(f"no operation {operation}")

    def _end(self, name: str, number: int, timeout: float) -> int | None:
        service = self.services.pop(name, None)
        if service is None or service.process is None:
            return None
        if service.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service.process.pid, number)
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                try:
                    pid, status = os.waitpid(service.process.pid, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid:
                    service.process.returncode = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(0.01)
            else:
                os.killpg(service.process.pid, signal.SIGKILL)
                service.process.returncode = os.waitstatus_to_exitcode(os.waitpid(service.process.pid, 0)[1])
        return service.process.returncode


def main() -> None:
    """Reads the specification, makes the namespaces, becomes process 1."""
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    ready = int(sys.argv[2])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spec["socket"])
    listener.bind(spec["socket"])
    listener.listen(64)
    os.chmod(spec["socket"], 0o600)
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID
    _check(_libc.unshare(flags), "unshare")
    child = os.fork()
    if child:
        # Two forks away from the command line, so that the machine's own init reaps this host one day.
        os.write(ready, f"{child}\n".encode())
        os._exit(0)
    try:
        make_private(spec)
        socket.sethostname(spec["hostname"])
        set_sysctls(spec["sysctls"])
        os.chdir("/")
        os.umask(0o022)
        os.write(ready, b"ready\n")
    except Exception as error:
        os.write(ready, f"error {type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os.close(ready)
    Init(listener).run()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        hint = " (root is needed)" if error.errno == errno.EPERM else ""
        os.write(int(sys.argv[2]), f"error {error}{hint}\n".encode())
        sys.exit(1)
