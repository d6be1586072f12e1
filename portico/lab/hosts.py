"""Hosts: one set of namespaces each, held by its first process (init.py)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from portico.errors import NotFound, PorticoError
from portico.files import read_file
from portico.lab import state as lab_state
from portico.lab import wait
from portico.lab.state import NETNS, LabState

ROOT = Path(__file__).resolve().parents[2]
"""Where the package `portico` is found from."""

CODE, INTERPRETER, COMMANDS = "/run/lab/code", "/run/lab/python", "/run/lab/bin"
"""Where hosts see the package, the environment of the interpreter that runs the lab, and the `portico` command.

Unprivileged processes of a host must be able to read them, which they could not below somebody's home directory.
"""

PYTHON = f"{INTERPRETER}/bin/{Path(sys.executable).name}"
"""The interpreter of programs inside."""

PRIVATE = ("/var/lib", "/var/log", "/var/cache")
"""Directories that start empty in a host. /etc starts as a copy of the machine's, /run empty and in memory."""

_QUICK_START = {
    # Duplicate address detection would hold every address back for a second, and nothing here can collide.
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.router_solicitation_delay": 0,
    "net.ipv6.conf.lo.disable_ipv6": 0,
    "net.ipv4.ping_group_range": "0 2147483647",
}

_libc = ctypes.CDLL(None, use_errno=True)


class LabFailure(PorticoError):
    """Something in the lab cannot be set up or does not do what it should."""

    code = "LAB_FAILED"


class HostDown(LabFailure):
    """The host is not running."""

    code = "LAB_HOST_DOWN"


class Host:
    """One running (or dead) host of a lab."""

    def __init__(self, state: LabState, name: str) -> None:
        self.state = state
        self.name = name

    def __repr__(self) -> str:
        return f"<host {self.state.netns(self.name)}>"

    @property
    def disk(self) -> Path:
        """The host's disk, seen from the machine: its /etc is `disk / "etc"`."""
        return self.state.disks / self.name

    @property
    def alive(self) -> bool:
        return self.state.alive(self.name)

    @property
    def pid(self) -> int:
        """The first process, as the machine numbers it.

        Raises:
            HostDown: the host is not running.
        """
        if not self.alive:
            raise HostDown(
                f"The host {self.name} is not running",
                resolution=f"Start it with: portico lab restart {self.name} --name {self.state.name}",
            )
        return self.state.inits[self.name]

    def log(self, service: str) -> Path:
        """The log of a service, seen from the machine."""
        return self.disk / "var/log" / f"{service}.log"

    def log_tail(self, service: str, lines: int = 15) -> str:
        """The last lines of a service's log with a heading; empty when there is none."""
        try:
            text = self.log(service).read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            return ""
        return "\n".join([f"--- {self.name}: {service}.log", *text])

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file on the host's disk (below /etc or one of the private directories)."""
        target = self.disk / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        target.write_text(text)
        target.chmod(mode)

    def environment(self) -> dict[str, str]:
        """What programs in the host find in their environment: nothing of the caller's but a terminal type."""
        return {
            "PATH": f"{COMMANDS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            "PYTHONPATH": CODE,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside all of the host's namespaces."""
        return ["nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-n", "-p", "--", *argv]

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a program inside and returns its process; `options` as for `subprocess.Popen`."""
        environment = {**self.environment(), **options.pop("env", {})}
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.command(argv), env=environment, **options)

    def run(
        self,
        *argv: str,
        timeout: float = 30.0,
        check: bool = True,
        input_text: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program inside to its end.

        Args:
            timeout: seconds after which it is killed.
            check: raise when its exit status is not 0.

        Raises:
            LabFailure: it failed or did not end in time; its own words are the cause.
        """
        process = self.popen(
            argv,
            stdin=subprocess.PIPE if input_text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(env or {}),
            start_new_session=True,
        )
        shown = " ".join(argv)
        try:
            out, err = process.communicate(input_text, timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise LabFailure(
                f"On {self.name}: {shown}", why=f"no end within {timeout:g} s\n{(out + err)[-2000:]}"
            ) from None
        if check and process.returncode != 0:
            raise LabFailure(
                f"On {self.name}: {shown}", why=f"exit status {process.returncode}: {(err or out).strip()[-2000:]}"
            )
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def output(self, *argv: str, timeout: float = 30.0) -> str:
        """What a program inside prints, without surrounding space."""
        return self.run(*argv, timeout=timeout).stdout.strip()

    def json(self, *argv: str, timeout: float = 30.0) -> Any:
        """What a program inside prints, as JSON."""
        text = self.output(*argv, timeout=timeout)
        try:
            return json.loads(text)
        except ValueError as error:
            raise LabFailure(f"On {self.name}: {' '.join(argv)}", why=f"no JSON ({error}): {text[:500]}") from error

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets opened by this thread inside the block belong to the host."""
        with Path("/proc/self/ns/net").open("rb") as here, Path(f"/proc/{self.pid}/ns/net").open("rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(here.fileno())

    def start_service(
        self, name: str, argv: Sequence[str], *, restart: bool = False, env: Mapping[str, str] | None = None
    ) -> int:
        """Starts a long-running program under the host's first process; returns its number inside the host.

        Its output goes to /var/log/NAME.log. A service of the same name is ended first. It is remembered: a restarted
        host starts it again.
        """
        request = {"argv": list(argv), "env": {**self.environment(), **(env or {})}, "restart": restart}
        services = self._remembered()
        services[name] = request
        self._remember(services)
        return int(self._ask({"op": "start", "name": name, **request})["pid"])

    def stop_service(self, name: str, *, timeout: float = 10.0) -> None:
        """Ends a service and forgets it: SIGTERM, then after `timeout` seconds SIGKILL."""
        services = self._remembered()
        services.pop(name, None)
        self._remember(services)
        self._ask({"op": "stop", "name": name, "signal": int(signal.SIGTERM), "timeout": timeout}, timeout + 5.0)

    def services(self) -> list[dict[str, Any]]:
        """What the host's first process runs: name, argv, pid (inside), status, restarts."""
        found: list[dict[str, Any]] = self._ask({"op": "services"})["services"]
        return found

    def service(self, name: str) -> dict[str, Any]:
        """One of `services()`.

        Raises:
            NotFound: the host has no such service.
        """
        for entry in self.services():
            if entry["name"] == name:
                return entry
        raise NotFound(f"{self.name} has no service {name}")

    def boot(self, sysctls: Mapping[str, object]) -> None:
        """Makes the namespaces and their first process, and the name under /run/netns.

        Raises:
            LabFailure: the kernel refused.
        """
        self._prepare_disk()
        covered = _closed_to_others(Path(sys.base_prefix))
        spec = {
            "hostname": self.name,
            "socket": str(self._socket),
            "directories": {"/etc": str(self.disk / "etc"), **{top: str(self.disk) + top for top in PRIVATE}},
            "visible": {
                # not the directory around them, which may be its owner's only (mkdtemp)
                **{f"{CODE}/{name}": str(ROOT / name) for name in ("portico", "tests") if (ROOT / name).is_dir()},
                INTERPRETER: sys.prefix,
                COMMANDS: str(self.state.runtime / "bin"),
                **({sys.base_prefix: sys.base_prefix} if covered else {}),
            },
            "covered": covered,
            "disks": str(lab_state.DISKS),
            "sysctls": {**_QUICK_START, **sysctls},
        }
        spec_path = self.state.runtime / f"{self.name}.json"
        spec_path.write_text(json.dumps(spec))
        reading, writing = os.pipe()
        with (self.state.runtime / f"{self.name}.init.log").open("ab") as log:
            starter = subprocess.Popen(
                [sys.executable, "-I", "-S", str(ROOT / "portico/lab/init.py"), str(spec_path), str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            )
        os.close(writing)
        with os.fdopen(reading) as answers:
            lines = answers.read().splitlines()
        starter.wait()
        if len(lines) != 2 or lines[1] != "ready":
            raise LabFailure(
                f"The host {self.name} cannot be started",
                why=" ".join(lines) or f"see {self.state.runtime}/{self.name}.init.log",
                resolution="The lab needs root and a kernel with namespaces for mounts, processes and networks",
            )
        pid = int(lines[0])
        started = lab_state.start_time(pid)
        if started is None:
            raise LabFailure(f"The host {self.name} died while it started", why=self.name + ".init.log")
        self.state.inits[self.name], self.state.starts[self.name] = pid, started
        self.state.save()
        self._name_network(pid)

    def start_remembered(self) -> None:
        """Starts again what ran when the host died, in the same order."""
        for name, request in self._remembered().items():
            self._ask({"op": "start", "name": name, **request})

    def power_off(self) -> None:
        """Ends every process of the host at once, without a word to anybody."""
        pid = self.state.inits.get(self.name)
        if pid is not None and self.alive:
            os.kill(pid, signal.SIGKILL)
            wait.until(f"{self.name} to end", lambda: not self.alive, timeout=10.0, interval=0.01)
        self.unname_network()
        self._socket.unlink(missing_ok=True)

    def unname_network(self) -> None:
        """Removes the host's name from /run/netns, with whatever an earlier run left there."""
        path = NETNS / self.state.netns(self.name)
        if path.exists():
            while _libc.umount2(str(path).encode(), 2) == 0:
                continue
            path.unlink(missing_ok=True)

    def _name_network(self, pid: int) -> None:
        NETNS.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.unname_network()
        path = NETNS / self.state.netns(self.name)
        path.touch(mode=0o444)
        if _libc.mount(f"/proc/{pid}/ns/net".encode(), str(path).encode(), None, ctypes.c_ulong(4096), None) != 0:
            number = ctypes.get_errno()
            path.unlink(missing_ok=True)
            raise LabFailure(f"The network of {self.name} cannot be named", why=f"{path}: {os.strerror(number)}")

    def _prepare_disk(self) -> None:
        """A disk survives a restart; only a new host gets a fresh one."""
        if (self.disk / "etc").is_dir():
            return
        self.disk.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.state.disks.chmod(0o711)
        shutil.copytree("/etc", self.disk / "etc", symlinks=True, copy_function=_copy_owned)
        for top in PRIVATE:
            (self.disk / top.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for owned in ("var/lib/bind", "var/cache/bind", "var/log/named", "var/lib/nginx", "var/log/nginx"):
            (self.disk / owned).mkdir(parents=True, exist_ok=True)
        self.write("/etc/hostname", self.name + "\n")

    @property
    def _socket(self) -> Path:
        return self.state.runtime / f"{self.name}.sock"

    def _remembered(self) -> dict[str, Any]:
        path = self.disk / "services.json"
        try:
            found: Any = json.loads(read_file(path))
        except NotFound:
            return {}
        except (ValueError, RecursionError) as error:
            found = error
        if not isinstance(found, dict):
            raise LabFailure(
                f"What ran on {self.name} is not known: {path} is damaged",
                why=str(found)[:200],
                resolution=f"Start the lab anew: portico lab down --name {self.state.name}",
            )
        return found

    def _remember(self, services: Mapping[str, Any]) -> None:
        (self.disk / "services.json").write_text(json.dumps(services, indent=2))

    def _ask(self, request: Mapping[str, Any], timeout: float = 10.0) -> dict[str, Any]:
        _ = self.pid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout)
            channel.connect(str(self._socket))
            channel.sendall(json.dumps(request).encode() + b"\n")
            with channel.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline() or b'{"ok": false, "error": "no answer"}')
        if not answer.pop("ok"):
            raise LabFailure(f"On {self.name}: {request['op']} {request.get('name', '')}", why=str(answer["error"]))
        return answer


def _copy_owned(source: str, target: str) -> str:
    """Copies a file with its mode and owner; a file that vanishes meanwhile or is no file is left out."""
    try:
        shutil.copy2(source, target, follow_symlinks=False)
        status = os.lstat(source)
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    except OSError:
        pass
    return target


def _closed_to_others(path: Path) -> list[str]:
    """The outermost directory on the way to `path` that only its owner may enter, if any.

    An interpreter below somebody's home directory is of no use to unprivileged processes: hosts cover that directory
    and show the interpreter alone.
    """
    for directory in [*reversed(path.resolve().parents), path]:
        if not directory.stat().st_mode & 0o001:
            return [str(directory)]
    return []


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
