"""The ways in, in the order in which they are preferred (protocols: native IPv6, 6to4, Teredo, IP-HTTPS).

All that are built are brought up together, since waiting for one to fail costs seconds; the first in the table that
carries packets and through which corpConnectivityHost has its address is the one in use. A technology that is built
later plugs in as a `Way`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Name(StrEnum):
    """The technologies as `Get-DAConnectionStatus` and netsh write them, in order of preference."""

    NATIVE_IPV6 = "Native IPv6"
    SIX_TO_FOUR = "6to4"
    TEREDO = "Teredo"
    IPHTTPS = "IPHTTPS"


class Way(Protocol):
    """One way in that is built.

    Attributes:
        device: the interface that packets to the intranet leave on.
    """

    device: str

    async def bring_up(self) -> None:
        """Starts it, when it is not started. Raises PorticoError or OSError when that cannot even be tried."""

    async def take_down(self) -> None:
        """Stops it with its addresses and routes."""

    def obstacle(self) -> str | None:
        """Why it carries no packets now; None when it does, empty when it is only on its way."""


@dataclass(frozen=True)
class Technology:
    """A row of the table; `way` is None for one that is not built."""

    name: Name
    way: Way | None = None


@dataclass(frozen=True)
class Trial:
    """What became of one technology: `obstacle` as of `Way`, for one that carries what its acceptance found."""

    technology: Technology
    obstacle: str | None = None
    accepted: bool = False


def table(built: Mapping[Name, Way]) -> tuple[Technology, ...]:
    """All technologies in order."""
    return tuple(Technology(name, built.get(name)) for name in Name)


async def choose(technologies: Sequence[Technology], accepts: Callable[[Way], Awaitable[str]]) -> tuple[Trial, ...]:
    """Tries them in order until one is accepted; those behind it are not tried.

    Args:
        accepts: returns an empty text, or why packets that leave on this way do not reach the intranet.
    """
    trials = []
    for technology in technologies:
        way = technology.way
        if way is None:
            trials.append(Trial(technology, "not built"))
            continue
        obstacle = way.obstacle()
        if obstacle is not None:
            trials.append(Trial(technology, obstacle))
            continue
        refusal = await accepts(way)
        trials.append(Trial(technology, refusal or None, accepted=not refusal))
        if not refusal:
            break
    return tuple(trials)


def in_use(trials: Sequence[Trial]) -> Technology | None:
    """The one that was accepted; when none was, the first that carries packets: names may be wrong where ways are not.

    None when none carries any.
    """
    for trial in trials:
        if trial.accepted:
            return trial.technology
    carrying = (trial.technology for trial in trials if trial.technology.way is not None)
    return next((technology for technology in carrying if technology.way and technology.way.obstacle() is None), None)
