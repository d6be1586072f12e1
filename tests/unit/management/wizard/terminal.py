"""A program on a pseudo-terminal: what a person reads and types."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
SECONDS = 60.0


class Terminal:
    """Runs a program until `finish`. `shown` is everything that it wrote, without control sequences."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # What a shell puts into the background ignores interrupts and passes that on; whoever sits here does not.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
            )
        finally:
            signal.signal(signal.SIGINT, before)
        os.close(slave)
        self.shown = ""
        self._read = 0

    def expect(self, text: str) -> None:
        """Waits until the text stands in what was shown since the last one that was waited for."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown[self._read :]:
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.shown}"
            assert self._more(0.2) or self._process.poll() is None, f"ended before {text!r}:\n{self.shown}"
        self._read = self.shown.index(text, self._read) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal gives it to whoever waits for input; once more when it came before the wait began,
        which Python's input() then does not notice."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            os.killpg(self._process.pid, signal.SIGINT)
            self._more(1.0)

    def finish(self) -> int:
        """Waits until the program ends, and returns its exit status."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.shown}"
            self._more(0.2)
        while self._more(0.0):
            pass
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def _more(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.shown += _CONTROL.sub("", data.decode("utf-8", "replace"))
        return bool(data)
