"""What a balancer says about itself and about the others, as JSON data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portico.cluster.core import Member
from portico.cluster.states import Condition, State
from portico.server.balancer.orphans import Orphans
from portico.server.balancer.plans import Assignment


def picture(told: Assignment, member: Member, now: float) -> dict[str, Any]:
    """The cluster as this server sees it."""
    names = told.names
    members = {view.host: view for view in member.members(now)}
    servers = []
    for priority, name in sorted(names.items()):
        view = members.get(priority)
        servers.append(
            {
                "name": name,
                "priority": priority,
                "state": view.windows_state.value if view is not None else None,
                "conditions": condition_names(view.conditions) if view is not None else [],
                "weight": view.weight if view is not None else None,
                "buckets": list(view.buckets) if view is not None else [],
                "paths": [member.config.paths[number].name for number in view.paths] if view is not None else [],
                "silence_seconds": round(view.silence, 3) if view is not None else None,
            }
        )
    return {
        "name": told.own.name,
        "priority": told.own.priority,
        "converged": member.is_converged(now),
        "map_version": member.map.version,
        "servers": servers,
        "rules": [
            {
                "rule": "default" if rule.rule is None else str(rule.rule),
                "owners": list(rule.owners),
                "owned": len(rule.owned),
                "dirty": len(rule.dirty),
                "quiet": len(rule.quiet),
                "orphaned": len(rule.orphaned),
            }
            for rule in member.ownership.rules
        ],
        "mode": told.balancing.mode,
        "directory": {name: len(member.directory.holdings_of(host)) for host, name in names.items()},
    }


def orphans(found: Orphans) -> dict[str, Any]:
    """What became of connections of dead servers."""
    return {"orphans": {**vars(found.counters), "reset": found.resets.sent, "limited": found.resets.limited}}


def condition_names(conditions: Condition) -> list[str]:
    return [flag.name.lower() for flag in Condition if flag in conditions and flag.name is not None]


def plain(values: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """An event's fields as JSON data, hosts by their names."""
    hosts: Sequence[str] = ("host", "default_host")
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in hosts:
            found[name] = names.get(value, str(value))
        elif isinstance(value, frozenset):
            found[name] = sorted(names.get(item, str(item)) for item in value)
        elif isinstance(value, tuple):
            found[name] = len(value)
        elif isinstance(value, Condition):
            found[name] = condition_names(value)
        elif isinstance(value, State):
            found[name] = value.name.lower()
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
