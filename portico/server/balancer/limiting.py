"""The limit of resets, kept where it is while the balancer runs. Serving goes on without it, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress

from portico.balancing.nlb.plan import NicPlan
from portico.balancing.nlb.reset_limit import ResetLimit
from portico.errors import PorticoError

log = logging.getLogger("portico.balancer")

INTERVAL = 10.0
"""Seconds between looks whether it is still there."""


class Limiting:
    """Bounds the resets from the VIPs of a plan."""

    def __init__(self) -> None:
        self._limit = ResetLimit()
        self._due = 0.0

    def install(self, nics: Iterable[NicPlan]) -> None:
        """Raises Unavailable."""
        self._limit.install(dict.fromkeys(vip for nic in nics for vip in nic.vips))

    def look(self, now: float) -> None:
        """Makes it again where somebody removed it. Call it as often as you like."""
        if now < self._due:
            return
        self._due = now + INTERVAL
        try:
            if not self._limit.keep():
                log.warning("the limit of resets was removed by somebody else; it is there again")
        except PorticoError as error:
            log.error("resets have no limit now: %s", error)

    def counts(self) -> dict[str, int]:
        """Resets of this server that left and that did not; empty when the kernel does not say."""
        try:
            return self._limit.counters()
        except PorticoError as error:
            log.error("resets cannot be counted: %s", error)
            return {}

    def remove(self) -> None:
        with suppress(PorticoError):
            self._limit.remove()
