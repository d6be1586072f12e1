"""Waiting for conditions. The lab never sleeps for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from portico.errors import PorticoError

T = TypeVar("T")


_LONGEST_PAUSE = 0.5
"""Seconds that a look which takes long is followed by, at most."""


class NeverHappened(PorticoError):
    """A condition did not come true in time."""

    code = "LAB_CONDITION_NOT_MET"


def until(
    what: str,
    condition: Callable[[], T],
    *,
    timeout: float = 30.0,
    interval: float = 0.05,
    evidence: Callable[[], str] | None = None,
) -> T:
    """Waits until `condition` returns something true and returns that.

    A condition that raises has not come true yet; the last exception is part of the message.

    Args:
        what: what is waited for, as a sentence goes on after "waited for".
        timeout: seconds.
        interval: seconds between two looks; longer when a look itself takes long (a program is started), as what is
            waited for needs the processor too.
        evidence: called on failure; its text (a log's tail) goes into the message.

    Raises:
        NeverHappened: the time is over.
    """
    deadline = time.monotonic() + timeout
    last = ""
    while True:
        began = time.monotonic()
        try:
            result = condition()
            if result:
                return result
            last = ""
        except Exception as error:
            last = f"{type(error).__name__}: {error}"
        now = time.monotonic()
        if now >= deadline:
            break
        time.sleep(max(interval, min(now - began, _LONGEST_PAUSE)))
    why = f"waited {timeout:g} s for {what}" + (f" (last: {last})" if last else "")
    if evidence is not None:
        tail = evidence().strip()
        if tail:
            why += "\n" + tail
    raise NeverHappened("The lab is not as it should be", why=why)
