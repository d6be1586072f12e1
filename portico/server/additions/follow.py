"""Looks at servers that are being added, from the server that made their tokens, again and again until they serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LimitReached, PorticoError
from portico.server.additions.core import Addition, Seen, State, judge

if TYPE_CHECKING:
    from portico.server.agent import Agent

INTERVAL: Final = 0.3
QUIET: Final = 5.0
"""Seconds after which something is said though nothing has changed, so that nobody takes the line for dead."""
MAXIMUM_FOLLOWERS: Final = 16

_ENDS = (State.DONE, State.FAILED)


@dataclass(frozen=True)
class Waiting:
    """Nothing has changed for a while.

    Attributes:
        servers: those that are neither done nor have failed.
    """

    servers: tuple[str, ...]


async def look(agent: Agent, names: Sequence[str] = ()) -> list[Addition]:
    """How far servers are; without names all that this server has a token for or was asked by.

    Raises:
        NotFound: code LB_DISABLED. PorticoError: the tokens or the settings cannot be read.
    """
    peers = agent.peers
    state, _, _ = peers.require_cluster()
    tokens = await peers.admission.tokens_by_name()
    latest = await asyncio.to_thread(peers.store().latest)
    balancing = latest.settings.load_balancing if latest is not None else None
    heard = await _heard(agent)
    additions = []
    for name in names or dict.fromkeys([*tokens, *peers.admission.attempts.names()]):
        token, link = tokens.get(name), peers.links.get(name)
        entry = balancing.server(name) if balancing is not None else None
        here, attempt = heard.get(name, {}), peers.admission.attempts.get(name)
        own = name == peers.own_name
        applied = link.said.get("applied") if link is not None else None
        if own and agent.revision is not None:
            applied = agent.revision.number
        member = entry is not None and name in state.members
        waiting = token is not None and token.waiting
        seen = Seen(
            name,
            token=token.state if token is not None else None,
            expires=token.expires if token is not None else "",
            entry=entry is not None,
            member=member,
            # Whoever was asked since this agent started says so at the end; before that the token alone knows.
            confirmed=attempt.kept or (member and not waiting and not attempt.asked),
            wanted=entry.state if entry is not None else "started",
            reachable=own or (link is not None and link.reachable),
            applied=applied if isinstance(applied, int) else None,
            newest=latest.number if latest is not None else 0,
            state=here.get("state"),
            buckets=next(iter(here.get("buckets", ())), 0),
            attempt=attempt,
        )
        additions.append(judge(seen))
    return additions


class Followers:
    """Bounds how many look on at the same time."""

    def __init__(self, limit: int = MAXIMUM_FOLLOWERS) -> None:
        self._free = limit
        self._limit = limit

    async def follow(self, agent: Agent, names: Sequence[str]) -> AsyncIterator[Addition | Waiting]:
        """Each server whenever it got on, until all serve or have failed.

        Raises:
            LimitReached: too many look on. PorticoError: as `look`.
        """
        if self._free <= 0:
            raise LimitReached(
                "Nobody else can look on",
                why=f"{self._limit} follow how servers are added",
                resolution="End one of them, or look once: portico lb progress",
                code="TOO_MANY_FOLLOWERS",
            )
        self._free -= 1
        try:
            told: dict[str, Addition] = {}
            loop = asyncio.get_running_loop()
            spoken = loop.time()
            while True:
                found = await look(agent, names)
                for addition in found:
                    if told.get(addition.server) != addition:
                        told[addition.server], spoken = addition, loop.time()
                        yield addition
                if all(addition.state in _ENDS for addition in found):
                    return
                if loop.time() - spoken >= QUIET:
                    spoken = loop.time()
                    yield Waiting(tuple(item.server for item in found if item.state not in _ENDS))
                await asyncio.sleep(INTERVAL)
        finally:
            self._free += 1


async def _heard(agent: Agent) -> dict[str, dict[str, Any]]:
    """Each server as the heartbeats show it; nothing while the balancer does not answer."""
    try:
        found = await agent.balancer.status()
    except PorticoError:
        return {}
    return {str(item["name"]): item for item in found.get("servers", ()) if isinstance(item, dict)}
