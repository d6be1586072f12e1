"""Hears at once that a key of etcd changed: a watch over the JSON gateway, which is one answer that does not end."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable

import httpx

from portico.settings.etcd.client import CONNECT_SECONDS, EtcdClient, encoded

log = logging.getLogger("portico.store")

AGAIN = 1.0
"""Seconds until another endpoint is asked after one has ended."""
QUIET = 600.0
MAXIMUM_LINE = 1 << 20


async def watch(client: EtcdClient, key: str, changed: Callable[[], None]) -> None:
    """Calls `changed` after every change of a key, until it is cancelled.

    Changes while no endpoint answers are not told; the caller looks by itself from time to time.
    """
    request = {"create_request": {"key": encoded(key)}}
    timeout = httpx.Timeout(QUIET, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(verify=client.context, trust_env=False, timeout=timeout) as http:
        while True:
            for url in client.endpoints:
                try:
                    async with http.stream("POST", f"{url}/v3/watch", json=request) as answer:
                        await _read(answer, changed)
                except (httpx.HTTPError, ssl.SSLError, OSError, ValueError) as error:
                    log.debug("endpoint=%s watch ended: %s", url, error)
                await asyncio.sleep(AGAIN)


async def _read(answer: httpx.Response, changed: Callable[[], None]) -> None:
    if answer.status_code != 200:
        return
    rest = b""
    async for chunk in answer.aiter_raw():
        rest += chunk
        if len(rest) > MAXIMUM_LINE:
            raise ValueError("a line is too long")
        *lines, rest = rest.split(b"\n")
        for line in filter(None, lines):
            said = json.loads(line)
            result = said.get("result") if isinstance(said, dict) else None
            if not isinstance(result, dict) or result.get("canceled"):
                return
            if result.get("events"):
                changed()
