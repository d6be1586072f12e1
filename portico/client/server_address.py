"""Where the server is: its name looked up outside the tunnel, and the addresses it had before."""

from __future__ import annotations

import asyncio
import logging
import time

from portico.client.identity import ClientFiles, KnownAddresses
from portico.client.network import lookup
from portico.client.status import NO_SUCH_HOST, Failure
from portico.errors import PorticoError

log = logging.getLogger("portico.client.server_address")

PATIENCE = 8.0
"""Seconds for a lookup."""
HURRY = 3.0
"""The same at the start, where known addresses can be dialled instead."""


async def find(
    files: ClientFiles, host: str, dialled: tuple[str, int], known: tuple[str, ...], *, by_proxy: bool, hurry: bool
) -> tuple[tuple[str, ...], Failure | None]:
    """The addresses that are dialled, those that were known when nothing is found, and why nothing was known.

    Args:
        dialled: host and port of the server, or of the proxy. Only the server's addresses are kept on disk.
    """
    try:
        async with asyncio.timeout(HURRY if hurry and known else PATIENCE):
            found = await lookup(*dialled)
    except (OSError, TimeoutError) as error:
        log.warning("host=%s cannot be resolved: %s; known=%s", dialled[0], error, ",".join(known) or "none")
        if known:
            return known, None
        return known, Failure(NO_SUCH_HOST, f"{dialled[0]} cannot be resolved: {error}", time.time())
    if found and found != known and not by_proxy:
        try:
            files.save("addresses", KnownAddresses(host=host, addresses=found))
        except PorticoError as error:  # a disk that is full must not keep the computer outside
            log.warning("%s", error)
    return found, None
