"""Parts of the settings document as the cmdlets show and change them. Pure, on the document's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portico.management.client.models import SettingsDocument


def at(data: dict[str, Any], path: str) -> Any:
    """A value by its path; None when the document has no such place."""
    found: Any = data
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Sets a value whose section is there. Raises KeyError."""
    *sections, last = path.split(".")
    for part in sections:
        data = data[part]
    data[last] = value


def enabled(value: bool) -> str:
    return "Enabled" if value else "Disabled"


def namespaces(found: SettingsDocument) -> list[str]:
    """Every suffix and name of the NRPT, the one of the deployment's domain first."""
    rules = [rule["namespace"] for rule in at(found.settings, "nrpt.rules") or []]
    domain = f".{at(found.settings, 'deployment.domain')}"
    return list(dict.fromkeys([domain, *rules, *(at(found.settings, "nrpt.exemptions") or [])]))


TYPES: Mapping[str, str] = {"DomainController": "DC", "Update": "Sccm"}
"""Kinds of management servers in the words of Windows; all others are Manual."""


def managers(data: dict[str, Any]) -> list[dict[str, Any]]:
    """What computers reach before their user has authenticated: `{name, addresses, type}` each."""
    return list(at(data, "management_servers") or [])
