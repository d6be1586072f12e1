"""From observations to the state of each component. Pure: same observations, same states."""

from __future__ import annotations

from dataclasses import dataclass

from portico.health.components import Component
from portico.health.findings import CATALOGUE, Finding
from portico.health.heuristics import load
from portico.health.observations import Observations
from portico.health.registry import HEURISTICS
from portico.health.states import HealthState, rank, worst

MAXIMUM_FINDINGS = 20
"""Of one component; the worst stay, and one finding says how many more there are."""

FAILED = CATALOGUE.add(
    "HEURISTIC_FAILED",
    Component.SERVER,
    HealthState.UNKNOWN,
    what="A check of health failed",
    cause="{about}: {error}",
    resolution="Report it as a bug of Portico, with the server's log",
)
MORE = CATALOGUE.add(
    "MORE_FINDINGS",
    Component.SERVER,
    HealthState.UNKNOWN,
    what="There is more of this kind",
    cause="{count} more findings of this component are not shown",
    resolution="Begin with those that are shown",
)

load()


@dataclass(frozen=True)
class ComponentHealth:
    """A component's state and what it comes from, the worst first; `why` says why it is Disabled."""

    component: Component
    state: HealthState
    findings: tuple[Finding, ...] = ()
    why: str = ""


def evaluate(seen: Observations) -> dict[Component, ComponentHealth]:
    """All components, in their order. A heuristic that fails makes its component Unknown and hides no other's."""
    return {component: _component(component, seen) for component in Component}


def _component(component: Component, seen: Observations) -> ComponentHealth:
    applies = False
    findings: list[Finding] = []
    for function in HEURISTICS[component]:
        try:
            found = function(seen)
            applies = applies or found is not None
            findings += found or ()
        except Exception as error:
            applies = True
            findings.append(_of(component, FAILED.finding(function.__name__, error=f"{type(error).__name__}: {error}")))
    if not applies:
        return ComponentHealth(component, HealthState.DISABLED, why=component.disabled)
    findings.sort(key=lambda finding: -rank(finding.state))
    state = worst([HealthState.OK, *(finding.state for finding in findings)])
    if len(findings) > MAXIMUM_FINDINGS:
        more = len(findings) - MAXIMUM_FINDINGS + 1
        findings = [*findings[: MAXIMUM_FINDINGS - 1], _of(component, MORE.finding(count=more))]
    return ComponentHealth(component, state, tuple(findings))


def _of(component: Component, finding: Finding) -> Finding:
    return Finding(
        finding.code,
        component,
        finding.state,
        finding.about,
        finding.what,
        finding.cause,
        finding.resolution,
        finding.shared,
    )
