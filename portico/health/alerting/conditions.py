"""What alerts can be about: the findings of this server, and those that all servers share, told once. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from portico.health.components import Component
from portico.health.report import FindingReport, ServerReport
from portico.health.states import HealthState, rank

CLUSTER = "cluster"


@dataclass(frozen=True, order=True)
class Subject:
    """What an alert is about. `server` is `cluster` for what all servers share; `about` then tells several apart."""

    server: str
    component: Component
    about: str = ""

    @property
    def shared(self) -> bool:
        return self.server == CLUSTER

    def __str__(self) -> str:
        return "/".join(part for part in (self.server, self.component.value, self.about) if part)


@dataclass(frozen=True)
class Condition:
    """The state of a subject, with the texts of its worst finding.

    Attributes:
        codes: of all its findings.
        seen_by: the servers that found it.
    """

    state: HealthState
    codes: frozenset[str] = frozenset()
    what: str = ""
    cause: str = ""
    resolution: str = ""
    since: float = 0.0
    seen_by: tuple[str, ...] = ()


FINE = Condition(HealthState.OK)


def conditions(own: ServerReport, others: Iterable[ServerReport], *, cluster: bool) -> dict[Subject, Condition]:
    """Everything that is not fine, by subject.

    Args:
        others: reports of the servers that answer.
        cluster: without one, nothing is shared.
    """
    found: dict[Subject, list[tuple[str, FindingReport]]] = {}
    for report in (own, *others):
        for row in report.components:
            for finding in row.findings:
                if cluster and finding.shared:
                    subject = Subject(CLUSTER, row.component, finding.about)
                elif report is own:
                    subject = Subject(own.server, row.component)
                else:
                    continue
                found.setdefault(subject, []).append((report.server, finding))
    return {subject: _condition(findings) for subject, findings in found.items()}


def _condition(findings: list[tuple[str, FindingReport]]) -> Condition:
    worst = max((finding for _, finding in findings), key=lambda finding: rank(finding.state))
    return Condition(
        state=worst.state,
        codes=frozenset(finding.code for _, finding in findings),
        what=worst.what,
        cause=worst.cause,
        resolution=worst.resolution,
        since=min(finding.since for _, finding in findings),
        seen_by=tuple(sorted({server for server, _ in findings})),
    )
