"""Which heuristics belong to which component. Pure.

A heuristic is a function of `Observations`. It returns None when it does not apply (its feature is not enabled), and
otherwise its findings; none of them means OK. A component to which no heuristic applies is Disabled.

To add one: write a module below `portico/health/heuristics`, name it in that package's `MODULES`, add the kinds of its
findings to `CATALOGUE`, and mark the function:

    @heuristic(Component.NETWORK_LOCATION_SERVER)
    def reachable(seen: Observations) -> Findings:
        if seen.settings is None or not seen.settings.nls:
            return None
        ...

What it needs to see beyond `Observations` is a type of its own, which a probe makes (`portico.server.health.probes`)
and `seen.extra(TheType)` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portico.health.components import Component
from portico.health.findings import Finding
from portico.health.observations import Observations

Findings = Iterable[Finding] | None
Heuristic = Callable[[Observations], Findings]

HEURISTICS: dict[Component, list[Heuristic]] = {component: [] for component in Component}


def heuristic(component: Component) -> Callable[[Heuristic], Heuristic]:
    """Makes a function one of a component's heuristics."""

    def register(function: Heuristic) -> Heuristic:
        HEURISTICS[component].append(function)
        return function

    return register
