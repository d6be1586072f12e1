"""The topology of every figure: client - gateway - intranet server, three namespaces, veth 1500.

        client                      gateway                      server
    198.51.100.2  ----------  198.51.100.1 | 10.9.0.1  ----------  10.9.0.2
                                             fd00:9::1             fd00:9::2

The machine's cores carry everything (both tunnel ends, the load generator, the kernel), so only ratios within a run
mean something.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CLIENT_OUTER = "198.51.100.2"
GATEWAY_OUTER = "198.51.100.1"
OUTER_NETWORK = "198.51.100.0/24"
SERVER_IPV4 = "10.9.0.2"
SERVER_IPV6 = "fd00:9::2"
GATEWAY_INNER_IPV4 = "10.9.0.1"
GATEWAY_INNER_IPV6 = "fd00:9::1"
# Linux's default, whatever this machine prefers: it decides how queues fill.
CONGESTION_CONTROL = "cubic"
PREFIX = "fd00:77:9"  # of Portico's own addresses, a /48


@dataclass
class Network:
    """Three namespaces and the processes started in them."""

    directory: Path
    run: str = field(default_factory=lambda: secrets.token_hex(2))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: dict[int, Path] = field(default_factory=dict)

    def namespace(self, role: str) -> str:
        """The name of the namespace of `client`, `gateway` or `server`."""
        return f"portico-bench-{self.run}-{role}"

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace(role), *arguments]

    def call(self, role: str, *arguments: str, check: bool = True, seconds: float = 120.0) -> str:
        """Runs a command in a namespace and returns what it printed.

        Raises:
            RuntimeError: the command failed, or did not end within `seconds`; the message has its output.
        """
        command = self.command(role, arguments)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=seconds, cwd=self.directory
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{' '.join(arguments)} in {role} did not end within {seconds:.0f} s") from None
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)} in {role} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout

    def start(self, role: str, *arguments: str, log: str, environment: dict[str, str] | None = None) -> int:
        """Starts a process in a namespace and returns its pid (`ip netns exec` becomes the program)."""
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                self.command(role, arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.processes.append(process)
        self.logs[process.pid] = self.directory / log
        return process.pid

    def wait(self, pid: int, condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        """Waits for what a process is to bring about.

        Raises:
            RuntimeError: it did not within `seconds`, or the process ended; the message has the end of its log.
        """
        [process] = [process for process in self.processes if process.pid == pid]
        try:
            wait_until(lambda: process.poll() is not None or condition(), what, seconds)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {self._last_words(pid)}") from None
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}, waited for {what}: {self._last_words(pid)}")

    def _last_words(self, pid: int) -> str:
        lines = self.logs[pid].read_text(errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-3:]) or "its log is empty"

    def routes_through(self, device: str, target: str) -> bool:
        """Whether the client's route to `target` leaves by `device`."""
        return f"dev {device} " in self.call("client", "ip", "route", "get", target, check=False)

    def answers(self, target: str) -> bool:
        """Whether the client gets an echo from `target` within a second."""
        command = self.command("client", ["ping", "-c", "1", "-W", "1", target])
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0

    def stop(self, pid: int) -> None:
        """Ends one process that `start` started, and those it started itself."""
        for process in [process for process in self.processes if process.pid == pid]:
            _signal_group(pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            # A daemon's child may outlive it; the group exists as long as any of them does.
            _signal_group(pid, signal.SIGKILL)
            process.wait()
            self.processes.remove(process)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Builds the topology, and takes it down with everything that was started in it."""
    net = Network(directory)
    names = {role: net.namespace(role) for role in ("client", "gateway", "server")}
    try:
        for name in names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for role, device, peer_device, addresses, peer_addresses in (
            ("client", "outer", "outer", [f"{CLIENT_OUTER}/24"], [f"{GATEWAY_OUTER}/24"]),
            ("server", "inner", "inner", [f"{SERVER_IPV4}/24", f"{SERVER_IPV6}/64"],
             [f"{GATEWAY_INNER_IPV4}/24", f"{GATEWAY_INNER_IPV6}/64"]),
        ):  # fmt: skip
            _ip("link", "add", device, "netns", names[role], "type", "veth",
                "peer", "name", peer_device, "netns", names["gateway"])  # fmt: skip
            for name, own, wanted in (
                (names[role], device, addresses),
                (names["gateway"], peer_device, peer_addresses),
            ):
                for address in wanted:
                    _ip("-n", name, "addr", "add", address, "dev", own, *(["nodad"] if ":" in address else []))
                _ip("-n", name, "link", "set", own, "up")
        _ip("-n", names["server"], "route", "add", "default", "via", GATEWAY_INNER_IPV4)
        _ip("-n", names["server"], "-6", "route", "add", "default", "via", GATEWAY_INNER_IPV6)
        net.call("gateway", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for role in ("client", "gateway"):
            # By route, because a namespace may not choose a default that its machine does not allow everybody.
            net.call(role, "ip", "route", "change", OUTER_NETWORK, "dev", "outer", "congctl", CONGESTION_CONTROL)
        # A resolver of its own: client programs that rewrite resolv.conf must not reach the machine's.
        private = Path("/etc/netns") / names["client"]
        private.mkdir(parents=True)
        (private / "resolv.conf").write_text("# no resolver in this namespace\n")
        yield net
    finally:
        for process in list(net.processes):
            net.stop(process.pid)
        for name in names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
            private = Path("/etc/netns") / name
            for file in private.glob("*"):
                file.unlink()
            if private.exists():
                private.rmdir()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Polls until the condition holds.

    Raises:
        RuntimeError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} s for {what} in vain")
        time.sleep(0.05)
