"""Which servers together may change what all of them share. Pure.

More than half of the servers may; exactly half may when the one with the lowest priority number is among them. Two
groups that share no server can never both do so, however a cluster is cut: of two servers, the first goes on alone and
the second is read-only until it sees the first. A document with other servers than the one before needs both: those of
the former document and those of the new one, so that no two such groups exist on the way either.
"""

from __future__ import annotations

from collections.abc import Collection

from portico.errors import Unavailable
from portico.settings.model import Settings


def has_quorum(settings: Settings, present: Collection[str]) -> bool:
    """Whether these servers may change a document; without load balancing always."""
    balancing = settings.load_balancing
    if balancing is None or not balancing.servers:
        return True
    here = [server for server in balancing.servers if server.name in present]
    first = min(balancing.servers, key=lambda server: server.priority)
    twice = 2 * len(here)
    return twice > len(balancing.servers) or (twice == len(balancing.servers) and first in here)


def require_quorum(what: str, present: Collection[str], *documents: Settings) -> None:
    """Raises Unavailable (NO_QUORUM) unless these servers have a quorum in every document."""
    for settings in documents:
        if has_quorum(settings, present):
            continue
        balancing = settings.load_balancing
        assert balancing is not None
        names = [server.name for server in balancing.servers]
        missing = [name for name in names if name not in present]
        first = min(balancing.servers, key=lambda server: server.priority).name
        raise Unavailable(
            what,
            why=f"settings are read-only while most servers cannot be reached: {', '.join(missing)} of "
            f"{', '.join(names)} do not answer",
            resolution=f"Start them or repair the network between the servers; of half of them, those with {first} "
            "may change settings. A server that is lost for good: portico lb remove NAME, there",
            code="NO_QUORUM",
        )


def leader(settings: Settings, present: Collection[str]) -> str | None:
    """The server that writes what only one may: the lowest priority number of those that are there."""
    balancing = settings.load_balancing
    here = [server for server in balancing.servers if server.name in present] if balancing is not None else []
    return min(here, key=lambda server: server.priority).name if here else None
