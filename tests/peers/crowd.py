"""Thousands of IP-HTTPS clients in one native process (gateway/examples/clients), steered from Python."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
NAME = "da.example.net"


def program() -> Path:
    """The native program, the optimized one when it was built.

    Raises:
        FileNotFoundError: neither was built.
    """
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for profile in ("release", "debug"):
        path = target / profile / "examples" / "clients"
        if path.exists():
            return path
    raise FileNotFoundError(f"{target}/debug/examples/clients: `make` builds it (cargo build --example clients)")


@dataclass(frozen=True)
class Credentials:
    """PEM files; without a certificate the server must run in mode `none`."""

    trust: str
    certificate: str | None = None
    key: str | None = None


class CrowdFailed(RuntimeError):
    """The program ended or refused a command."""


class Crowd:
    """A running crowd. Use as a context manager; leaving it ends every client at once.

    Args:
        namespace: name of the network namespace to dial from (`ip netns`); None: this one.
        directory: for the configuration and the program's messages.
        targets: `address:port` of the server.
        ping_target: an address behind the server that answers echo requests.
        options: more keys of the configuration, as crowd.rs has them.
    """

    def __init__(
        self,
        namespace: str | None,
        directory: Path,
        targets: Sequence[str],
        credentials: Credentials,
        ping_target: str,
        **options: Any,
    ) -> None:
        config = {
            "targets": list(targets),
            "server_name": NAME,
            "trust": credentials.trust,
            "certificate": credentials.certificate,
            "key": credentials.key,
            "ping_target": ping_target,
            **options,
        }
        self.directory = directory
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.progress: list[dict[str, Any]] = []
        path = directory / f"clients-{id(self):x}.json"
        path.write_text(json.dumps(config))
        self.messages = path.with_suffix(".log")
        with self.messages.open("ab") as log:
            self._process = subprocess.Popen(
                in_namespace(namespace, [str(program()), str(path)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        threading.Thread(target=self._read, daemon=True).start()
        self._next(30.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the program; its sockets close without goodbyes."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def ask(self, op: str, *, timeout: float = 60.0, **fields: Any) -> Any:
        """Sends a command and returns its answer.

        Raises:
            CrowdFailed: it was refused, or the program ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        answer = self._next(timeout)
        if isinstance(answer, dict) and "error" in answer:
            raise CrowdFailed(f"{op}: {answer['error']}")
        return answer

    def connect(self, count: int) -> None:
        self.ask("connect", count=count)

    def disconnect(self, count: int, how: str = "close") -> int:
        """Makes the oldest clients leave: `close` with a goodbye, `abort` as when the power fails."""
        return int(self.ask("disconnect", count=count, how=how)["disconnected"])

    def profile(self, profile: dict[str, Any], start: int = 0, stop: int | None = None) -> None:
        """What clients do from now on; without `stop` also those that come later."""
        fields = {} if stop is None else {"to": stop}
        self.ask("profile", profile=profile, **{"from": start}, **fields)

    def state(self) -> dict[str, Any]:
        """clients, connecting, up, reachable (numbers of clients) and seconds since the start."""
        found: dict[str, Any] = self.ask("state")
        return found

    def figures(self, *, reset: bool = False) -> dict[str, Any]:
        """Everything counted since the start or the last reset."""
        found: dict[str, Any] = self.ask("figures", reset=reset)
        return found

    def addresses(self) -> list[str]:
        """The clients' addresses in the tunnel."""
        found: list[str] = self.ask("addresses")
        return found

    def wait(self, count: int, *, what: str = "reachable", timeout: float = 60.0) -> float:
        """Waits until that many clients are `up` or `reachable`; returns the seconds it took.

        Raises:
            CrowdFailed: not within `timeout` seconds; the message has the figures.
        """
        began = time.monotonic()
        while (state := self.state())[what] < count:
            if time.monotonic() - began > timeout:
                raise CrowdFailed(
                    f"only {state[what]} of {count} clients are {what} after {timeout:g} s: {self._why()}"
                )
            time.sleep(0.05)
        return time.monotonic() - began

    def _why(self) -> str:
        figures = self.figures()
        return json.dumps({key: figures[key] for key in ("dialled", "failed", "came_up", "lost", "state")})

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if isinstance(message, dict) and "progress" in message:
                self.progress.append(message["progress"])
            else:
                self._lines.put(message)
        self._lines.put({"ended": True})

    def _next(self, timeout: float) -> Any:
        try:
            message = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise CrowdFailed(f"no answer within {timeout:g} s") from None
        if isinstance(message, dict) and message.get("ended"):
            raise self._ended()
        return message

    def _ended(self) -> CrowdFailed:
        status = self._process.wait(10.0)
        return CrowdFailed(f"the clients ended with status {status}: {self.messages.read_text()[-1000:]}")


class Responder:
    """The intranet's end of exchanges, in a namespace. Use as a context manager."""

    def __init__(self, namespace: str | None, address: str, port: int = 9000) -> None:
        self.target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._process = subprocess.Popen(
            in_namespace(namespace, [str(program()), "respond", self.target]), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if "listening" not in self._process.stdout.readline():
            raise CrowdFailed(f"the responder does not listen on {self.target}: status {self._process.wait(10.0)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def in_namespace(namespace: str | None, command: list[str]) -> list[str]:
    """The command line that runs a program with the network of a namespace."""
    return command if namespace is None else ["ip", "netns", "exec", namespace, *command]
