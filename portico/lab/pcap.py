"""Recording what a host's interface carries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from portico.lab import wait
from portico.lab.hosts import Host


class Capture:
    """Records into a file while the block runs.

    Args:
        host: whose interface.
        interface: its name; "any" for all.
        to: the file on the machine; must end in .pcap.
        expression: a capture filter.
    """

    def __init__(self, host: Host, interface: str, to: Path, expression: str = "") -> None:
        self.host, self.interface, self.path, self.expression = host, interface, to, expression
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Capture:
        with self.path.open("wb") as file:
            self._process = self.host.popen(
                [*_command(self.interface), "-w", "-", *self.expression.split()],
                stdout=file,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        # tcpdump writes the file's header once the kernel records.
        wait.until(
            f"tcpdump on {self.host.name} {self.interface} to listen",
            lambda: self.path.stat().st_size >= 24 or self._ended(),
            interval=0.01,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        # The signal goes to tcpdump, which nsenter waits for: it writes what it still holds.
        os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def packets(self, display_filter: str = "", fields: Sequence[str] = ()) -> list[str]:
        """What tshark makes of the recording: one line a packet, of `fields` when given."""
        command = ["tshark", "-n", "-r", str(self.path)]
        if display_filter:
            command += ["-Y", display_filter]
        if fields:
            command += ["-T", "fields", *(word for field in fields for word in ("-e", field))]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    def _ended(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            _, errors = self._process.communicate()
            raise RuntimeError(errors.decode(errors="replace").strip())
        return False


def follow(host: Host, interface: str, to: Path | None) -> int:
    """Shows packets as they pass, or records them, until interrupted; returns tcpdump's exit status.

    Without a file and with stdout piped away, the recording itself goes to stdout (for `wireshark -k -i -`).
    """
    command = _command(interface)
    if to is None and sys.stdout.isatty():
        process = host.popen([*command, "-l"])
    elif to is None:
        process = host.popen([*command, "-w", "-"])
    else:
        with to.open("wb") as file:
            process = host.popen([*command, "-w", "-"], stdout=file)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the terminal interrupted tcpdump as well: wait for its last words


def _command(interface: str) -> list[str]:
    # -Z root: dropping privileges would need a user the file belongs to; immediate: packets show up as they pass
    return ["tcpdump", "-Z", "root", "--immediate-mode", "-U", "-n", "-i", interface]
