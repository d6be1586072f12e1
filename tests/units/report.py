"""What was looked at, one line each, with what went wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from portico.errors import PorticoError
from portico.lab.hosts import LabFailure


class Report:
    """Counts. A check that fails does not end the run: the next ones may say why."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    @contextmanager
    def check(self, what: str) -> Iterator[None]:
        """A block that must end without an assertion or an error of Portico's."""
        begun = time.monotonic()
        try:
            yield
        except (AssertionError, PorticoError, LookupError, ValueError) as error:
            self.failed.append(what)
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, PorticoError):
                why = f"{error.what}: {error.why}"
            print(f"FAILED  {what}\n        " + why.replace("\n", "\n        "), flush=True)
        else:
            self.passed += 1
            print(f"ok      {what} ({time.monotonic() - begun:.0f} s)", flush=True)

    def end(self) -> int:
        """Prints the closing line; returns the exit status."""
        for what in self.failed:
            print(f"FAILED  {what}", file=sys.stderr)
        print(f"{self.passed} passed, {len(self.failed)} failed")
        return 1 if self.failed or not self.passed else 0


def need(condition: object, why: str) -> None:
    """Raises LabFailure when it is not so."""
    if not condition:
        raise LabFailure("It is not so", why=why)
