"""Health for Prometheus, in its text format 0.0.4. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from portico.health.report import ServerReport
from portico.health.states import HealthState


def exposition(report: ServerReport, alerts: Mapping[str, Any]) -> str:
    """One server's states, as an enumeration (one series a state, 1 for the one that is), and what became of alerts."""
    states = [
        ({"component": row.component.value, "state": state.value}, float(row.state is state))
        for row in report.components
        for state in HealthState
    ]
    since = [({"component": row.component.value}, row.since) for row in report.components]
    receivers = alerts["receivers"]
    families: list[tuple[str, str, str, Iterable[tuple[dict[str, str], float]]]] = [
        ("portico_health_state", "gauge", "State of a component: 1 for the one that is so", states),
        ("portico_health_since_seconds", "gauge", "When a component became what it is, seconds since the epoch", since),
        (
            "portico_health_findings",
            "gauge",
            "Findings of a component",
            [({"component": row.component.value}, float(len(row.findings))) for row in report.components],
        ),
        (
            "portico_alerts_sent_total",
            "counter",
            "Alerts that a receiver took",
            [({"receiver": item["name"]}, float(item["sent"])) for item in receivers],
        ),
        (
            "portico_alerts_dropped_total",
            "counter",
            "Alerts that were given up",
            [({"receiver": item["name"]}, float(item["dropped"])) for item in receivers],
        ),
    ]
    lines = []
    for name, kind, text, samples in families:
        rows = [f"{name}{{{_labels({'server': report.server, **labels})}}} {value:.15g}" for labels, value in samples]
        if rows:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
