"""The paths compared: plain routing, other products, Portico."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.network import Network


@dataclass(frozen=True)
class Path:
    """A path that is up: what to measure against, and the gateway's tunnel processes whose CPU time counts."""

    target: str
    gateway_pids: list[int] = field(default_factory=list)


Opener = Callable[[Network], AbstractContextManager[Path]]
