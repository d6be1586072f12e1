"""What the network around this machine must do for load balancing: from the settings and from what the machine is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portico.balancing.nlb.advice import Advice, advise
from portico.balancing.nlb.platform import Platform, detect, read_facts
from portico.errors import PorticoError
from portico.server.balancer import plans
from portico.server.cluster_secrets import ClusterSecrets
from portico.settings.model import Settings

SYSTEM = Path("/sys")
_NO_SECRETS = ClusterSecrets("", (), 0)
"""Advice depends on none."""


@dataclass(frozen=True)
class Advised:
    """One piece of advice for one interface."""

    interface: str
    platform: Platform
    advice: Advice

    def as_dict(self) -> dict[str, Any]:
        """As the API shows it."""
        advice = self.advice
        return {
            "interface": self.interface,
            "platform": self.platform.title,
            "code": advice.code,
            "severity": advice.severity,
            "what": advice.what,
            "why": advice.why,
            "commands": [{"where": one.where, "lines": list(one.lines)} for one in advice.commands],
        }


def advised(local: Settings, mac: Callable[[str], bytes], system: Path = SYSTEM) -> list[Advised]:
    """Everything that the mode of a document needs on this machine's networks, the worst first for each interface;
    nothing without load balancing.

    Args:
        local: the settings as this machine reads them.
        mac: an interface's own hardware address; raises PorticoError where there is none: then it has no advice.
        system: where sysfs is.
    """
    if local.load_balancing is None:
        return []
    told = plans.assignment(local, 0, _NO_SECRETS)
    platform = detect(read_facts([interface for interface, _ in told.interfaces], system))
    found: list[Advised] = []
    for interface, outside in told.interfaces:
        try:
            nic = plans.nic_plan(told, interface, outside, mac(interface))
        except PorticoError:
            continue  # that the interface cannot be balanced is an error of verification, in its own words
        bridge = (system / "class/net" / interface / "bridge").exists()
        found += [Advised(interface, platform, advice) for advice in advise(nic, platform, bridge=bridge)]
    return found
