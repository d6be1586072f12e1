"""Many clients that ask a server without a pause, steered from a test."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from portico.errors import InvalidInput
from portico.lab import wait
from portico.lab.hosts import PYTHON, Host, LabFailure
from portico.lab.probe.core import Client

MAX_CLIENTS = 900
"""Each has a socket; more would need another limit of open files."""
MAX_RATE = 20_000
"""Questions a second, which is what one process has time for."""


@dataclass(frozen=True)
class Report:
    """What happened since the last mark.

    Attributes:
        clients: in the order of their sources.
        doubles: questions answered with two different tags (only of echoes that tag).
        not_sent: questions the host could not send.
    """

    clients: tuple[Client, ...]
    doubles: int
    not_sent: int

    @property
    def duplicates(self) -> int:
        """Questions' further answers, whoever gave them."""
        return sum(client.duplicates for client in self.clients)

    @property
    def stall(self) -> float:
        """The longest time the prober itself did not ask, seconds."""
        return max(client.stall for client in self.clients)

    def silence(self, share: float = 1.0) -> float:
        """The longest silence of all clients, or of that share of them which heard nothing for the shortest time.

        Args:
            share: 0.5 for the median client, 0.99 for the 99th percentile.
        """
        found = sorted(client.silence for client in self.clients)
        return found[min(len(found) - 1, int(share * len(found)))]


class Prober:
    """Asks while the block runs.

    Args:
        host: where the questions come from.
        target: address and UDP port of an echo.
        sources: addresses of the host, one client each (`topology.crowd_sources`).
        interval: seconds between two questions of a client.

    Raises:
        InvalidInput: more than one process can ask.
        LabFailure: it does not start.
    """

    def __init__(self, host: Host, target: tuple[str, int], sources: Sequence[str], *, interval: float = 0.008) -> None:
        rate = len(sources) / interval
        if not 1 <= len(sources) <= MAX_CLIENTS or rate > MAX_RATE:
            raise InvalidInput(
                f"{len(sources)} clients cannot ask every {interval * 1000:g} ms",
                why=f"one prober has 1 to {MAX_CLIENTS} clients and asks {MAX_RATE} times a second at most",
                resolution="Take fewer clients or a longer interval, or several probers",
            )
        self.host = host
        self._config = json.dumps({"target": list(target), "sources": list(sources), "interval": interval})
        self._answers: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = self.host.popen(
            [PYTHON, "-m", "portico.lab.probe.asking", self._config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self._next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()  # nsenter; what it started ends with its stdin
            process.wait()

    def report(self) -> Report:
        """What happened since the last mark."""
        return self._ask("report")

    def mark(self) -> Report:
        """What happened since the last mark, and a new one."""
        return self._ask("mark")

    def wait_for_answers(self, timeout: float = 10.0) -> None:
        """Waits until every client has been answered, and marks.

        Raises:
            NeverHappened: not in time.
        """
        wait.until(
            "every client to be answered",
            lambda: all(client.answered for client in self.report().clients),
            timeout=timeout,
        )
        self.mark()

    def _ask(self, word: str) -> Report:
        assert self._process is not None and self._process.stdin is not None, "use it as a context manager"
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        answer = self._next()
        return Report(tuple(Client(**client) for client in answer["clients"]), answer["doubles"], answer["not_sent"])

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _next(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=30.0)
        except queue.Empty:
            raise LabFailure(f"The prober on {self.host.name} does not answer", why="nothing for 30 s") from None
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> LabFailure:
        assert self._process is not None
        _, errors = self._process.communicate(timeout=10.0)
        return LabFailure(f"The prober on {self.host.name} has ended", why=errors.strip()[-1000:])
