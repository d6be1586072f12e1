"""What location saw, for the health of this server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portico.errors import PorticoError
from portico.health.location import LocationSeen
from portico.health.observations import Trouble

if TYPE_CHECKING:
    from portico.server.agent import Agent


async def see_location(agent: Agent) -> LocationSeen | None:
    """The last looks; None while there are no settings in force."""
    settings, values = agent.platform.settings, agent.platform.values
    if settings is None or values is None:
        return None
    seen = agent.location.observations()
    last = agent.location.records.last
    return LocationSeen(
        nls=values.nls_url is not None,
        nls_checked=seen.nls is not None,
        nls_troubles=tuple(map(_trouble, seen.nls.problems)) if seen.nls is not None else (),
        page_troubles=tuple(map(_trouble, seen.pages)),
        records=settings.corporate_dns.state == "enabled" and bool(settings.dns64.upstream_servers),
        records_checked=last is not None,
        record_troubles=tuple(map(_trouble, seen.records)),
    )


def _trouble(error: PorticoError) -> Trouble:
    return Trouble(error.code, error.what, error.why, error.resolution)
