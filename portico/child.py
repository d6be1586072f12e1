"""What a supervisor needs to know of a native child: what it is, what it gets, and how it is had and ended.

There are two ways to have one. `portico.spawned` starts it (the lab, development, machines without systemd);
`portico.connected` waits until the service manager has started it under an account of its own and it connects (what the
shipped units do). Whoever starts the agent says which; it is never guessed.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MORE, LAST, REFUSED = b"+", b".", b"!"
"""What precedes the channel of a child that connects, see `portico.connected`."""
BATCH = 128
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""


@dataclass(frozen=True)
class Program:
    """What to run: a Python module that takes the channel's descriptor number as its only argument.

    Attributes:
        name: for messages.
        module: run with `python -m`.
        user: the account to become when the parent is root; None keeps the parent's (without its capabilities).
        heartbeat: an operation the child answers at once; a child that does not within `heartbeat_timeout` is killed.
    """

    name: str
    module: str
    user: str | None = None
    heartbeat: str | None = None
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 10.0
    start_timeout: float = 15.0
    stop_timeout: float = 3.0


@dataclass(frozen=True)
class Start:
    """What a new child gets: its configuration and the descriptors, which stay open in the parent.

    Attributes:
        descriptors: how many the child may need at one time. It gets the parent's hard limit, or more when that is too
            low and the parent may raise it.
    """

    config: Mapping[str, Any]
    fds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    descriptors: int = 0


class Child(Protocol):
    """One living process."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    async def ended(self) -> None:
        """Returns when the process is gone."""

    def status(self) -> str:
        """How it ended, in words; empty when only the service manager knows."""

    def terminate(self) -> None:
        """Asks it to end, over nothing that it must read."""

    def kill(self) -> None:
        """Ends it at once, whatever it does."""

    async def reap(self) -> None:
        """After `kill`: returns when it is gone, or when waiting has no use any more."""


@dataclass(frozen=True)
class Begun:
    """A child that can be spoken to.

    Attributes:
        channel: the stream socket that carries the lines.
        fds: the names of its descriptors with the numbers by which it finds them.
    """

    child: Child
    channel: socket.socket
    fds: Mapping[str, Sequence[int]]


class Source(Protocol):
    """Where children come from, one at a time."""

    @property
    def unit(self) -> str | None:
        """Of the service manager, when that starts them."""

    @property
    def awaited(self) -> str:
        """What `available` waits for, in words; empty when it does not wait."""

    async def available(self) -> None:
        """Returns when a child can be had."""

    async def begin(self, program: Program, start: Start) -> Begun:
        """Has it, with its descriptors but without its configuration.

        Raises:
            PorticoError, OSError: it cannot be had now.
        """
