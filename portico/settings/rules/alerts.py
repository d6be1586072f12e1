"""Who is told of changes of health."""

from __future__ import annotations

from collections.abc import Iterator

from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

DUPLICATE = CATALOGUE.add(
    "ALERTS_DUPLICATE",
    severity="warning",
    what="A receiver of alerts is listed twice",
    why="{receiver} would get every alert twice",
    resolution="Remove one of the two",
    example="alerts: {syslog: [{address: 'unix:/dev/log'}, {address: 'unix:/dev/log'}]}",
)
UNPROTECTED = CATALOGUE.add(
    "ALERTS_SYSLOG_OPEN",
    severity="warning",
    what="Alerts go over the network as they are",
    why="{receiver} is neither encrypted nor signed: everybody on the way reads them, and can make some up",
    resolution="Send them to unix:/dev/log and let the syslog service of this machine forward them with TLS, or use a "
    "webhook",
    example="alerts: {syslog: [{address: 'udp://192.0.2.5:514'}]}",
)


def receivers(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """Each once, and a word about those that anybody reads."""
    webhooks = [(f"alerts.webhooks[{number}].url", item.url) for number, item in enumerate(settings.alerts.webhooks)]
    syslog = [(f"alerts.syslog[{number}].address", item.address) for number, item in enumerate(settings.alerts.syslog)]
    seen: set[str] = set()
    for path, receiver in (*webhooks, *syslog):
        if receiver in seen:
            yield DUPLICATE.problem(path, receiver=receiver)
        seen.add(receiver)
    for path, receiver in syslog:
        if receiver.startswith(("udp:", "tcp:")):
            yield UNPROTECTED.problem(path, receiver=receiver)


RULES = (receivers,)
