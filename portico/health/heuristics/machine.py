"""Network adapters and services: is the machine beneath in order."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.heuristics.server import is_address, listed
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
ADAPTERS: Final = Component.NETWORK_ADAPTERS
SERVICES: Final = Component.SERVICES

RESTARTS: Final = 3
"""Restarts of one process within ten minutes that are told also when it runs again."""
FRAME_ERRORS: Final = 100
"""Damaged frames within ten minutes."""
UNDELIVERED: Final = 60.0
"""Seconds without success before a destination of alerts is told about."""

MISSING = CATALOGUE.add(
    "ADAPTER_MISSING",
    ADAPTERS,
    ERROR,
    what="The network interface {about} does not exist",
    cause="the settings name it as the {side} interface; it was renamed, or its driver does not run",
    resolution="See what there is: ip link; set server.{side}_interface",
)
DOWN = CATALOGUE.add(
    "ADAPTER_DOWN",
    ADAPTERS,
    ERROR,
    what="The network interface {about} has no link",
    cause="{why}",
    resolution="Look at cable and switch: ip link show {about}; ethtool {about}",
)
ERRORS = CATALOGUE.add(
    "ADAPTER_ERRORS",
    ADAPTERS,
    WARNING,
    what="Frames are damaged or lost at {about}",
    cause="{count} in ten minutes",
    resolution="Look at cable, switch port and driver: ip -s link show {about}; ethtool -S {about}",
)
ADDRESS = CATALOGUE.add(
    "ADDRESS_MISSING",
    ADAPTERS,
    ERROR,
    what="This machine lacks an address that the settings give it",
    cause="to be as the settings say, it needs: {changes}",
    resolution="Put it back, or let Portico do it: portico settings set drift=repair",
)
ADAPTERS_UNKNOWN = CATALOGUE.add(
    "ADAPTERS_UNKNOWN",
    ADAPTERS,
    UNKNOWN,
    what="The network interfaces were not looked at",
    cause="they were not read yet",
    resolution="Look at them: ip -br link",
)
STOPPED = CATALOGUE.add(
    "SERVICE_NOT_RUNNING",
    SERVICES,
    ERROR,
    what="The {about} does not run",
    cause="it is {state}{reason}",
    resolution="Look at it: systemctl status portico-{about}; it is started again by itself, after growing pauses",
)
RESTARTING = CATALOGUE.add(
    "SERVICE_RESTARTS",
    SERVICES,
    WARNING,
    what="The {about} was started again several times",
    cause="{count} times within ten minutes{reason}",
    resolution="See why: journalctl -u portico-{about}",
)
ACCOUNTING = CATALOGUE.add(
    "LOG_OF_BINDINGS_TROUBLE",
    SERVICES,
    WARNING,
    what="The log of bindings has gaps",
    cause="{why}",
    resolution="{resolution}",
)
EVENTS = CATALOGUE.add(
    "EVENT_LOG_TROUBLE",
    SERVICES,
    WARNING,
    what="Changes of health are not written down",
    cause="{why}",
    resolution="{resolution}",
)
NOT_DELIVERED = CATALOGUE.add(
    "ALERTS_NOT_DELIVERED",
    SERVICES,
    WARNING,
    what="Alerts do not reach {about}",
    cause="for {seconds:.0f} s, {waiting} wait: {error}",
    resolution="Look whether it runs and what it says; they are tried again for a day",
)
DROPPED = CATALOGUE.add(
    "ALERTS_DROPPED",
    SERVICES,
    WARNING,
    what="Alerts for {about} were given up",
    cause="{count} within ten minutes: {error}",
    resolution="See what it does not like: portico events; its own log",
)


@heuristic(ADAPTERS)
def has_links(seen: Observations) -> Findings:
    """The interfaces of the settings: there, up, with a carrier and without damaged frames."""
    if seen.settings is None:
        return None
    if seen.cards is None:
        return [ADAPTERS_UNKNOWN.finding()]
    found = []
    for card in seen.cards:
        if not card.present:
            found.append(MISSING.finding(card.name, side=card.side))
        elif not card.up:
            found.append(DOWN.finding(card.name, why="it is switched off (ip link set ... up)"))
        elif card.carrier is False:
            found.append(DOWN.finding(card.name, why="it has no carrier"))
        if card.errors_lately >= FRAME_ERRORS:
            found.append(ERRORS.finding(card.name, count=card.errors_lately))
    return found


@heuristic(ADAPTERS)
def has_addresses(seen: Observations) -> Findings:
    """Addresses that Portico manages and may not, or could not, put back."""
    if seen.settings is None:
        return None
    changes = [change for change in seen.drifting if is_address(change)]
    return [ADDRESS.finding(changes=listed(changes))] if changes else []


@heuristic(SERVICES)
def run(seen: Observations) -> Findings:
    """The agent's children."""
    if seen.settings is None:
        return None
    found = []
    for process in seen.processes:
        if not process.wanted:
            continue
        reason = f": {process.reason}" if process.reason else ""
        if process.state != "running":
            found.append(STOPPED.finding(process.name, state=process.state, reason=reason))
        elif process.restarts_lately >= RESTARTS:
            found.append(RESTARTING.finding(process.name, count=process.restarts_lately, reason=reason))
    return found


@heuristic(SERVICES)
def write_logs(seen: Observations) -> Findings:
    """What is to be written down is."""
    found = []
    for source, kind in (("accounting", ACCOUNTING), ("events", EVENTS)):
        if (trouble := seen.warnings.get(source)) is not None:
            why = f"{trouble.what}: {trouble.why}" if trouble.why else trouble.what
            found.append(kind.finding(why=why, resolution=trouble.resolution or "Free space; look at the log"))
    return found or (None if seen.settings is None else [])


@heuristic(SERVICES)
def deliver_alerts(seen: Observations) -> Findings:
    """Whoever is to be told hears it."""
    if seen.settings is None:
        return None
    found = []
    for delivery in seen.deliveries:
        if delivery.failing_for > UNDELIVERED:
            found.append(
                NOT_DELIVERED.finding(
                    delivery.name, seconds=delivery.failing_for, waiting=delivery.waiting, error=delivery.error
                )
            )
        if delivery.dropped_lately:
            found.append(DROPPED.finding(delivery.name, count=delivery.dropped_lately, error=delivery.error))
    return found
