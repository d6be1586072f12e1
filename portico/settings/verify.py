"""All rules over one document and one machine. Pure: same arguments, same problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portico.settings import document as _document  # defines the problems of reading a document
from portico.settings.facts import Facts
from portico.settings.localise import balanced_facts, localise
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem, SettingsRefused, errors
from portico.settings.rules import (
    addresses,
    alerts,
    backup,
    certificates,
    cluster_store,
    dedicated,
    load_balancing,
    location,
    machine,
    machines,
    management,
    mappings,
    naming,
    nat64,
    order,
    remote_access,
    users,
)

Rule = Callable[[Settings, Facts], Iterable[Problem]]

RULES: tuple[Rule, ...] = (
    *addresses.RULES,
    *mappings.RULES,
    *nat64.RULES,
    *naming.RULES,
    *certificates.RULES,
    *location.RULES,
    *machine.RULES,
    *management.RULES,
    *alerts.RULES,
    *backup.RULES,
    *users.RULES,
)
"""Rules about one server: they see the document as this machine reads it, and the machine as the document makes it."""

CLUSTER_RULES: tuple[Rule, ...] = (
    *load_balancing.RULES,
    *dedicated.RULES,
    *cluster_store.RULES,
    *remote_access.RULES,
)
"""Rules about all servers: they see the document itself, and the machine as the administrator has it."""


def verify(settings: Settings, facts: Facts | None = None) -> list[Problem]:
    """Every problem of the settings on a machine, errors before warnings; empty when all is well.

    Args:
        facts: what is known about the machine; without it only the document itself is judged.
    """
    known = facts if facts is not None else Facts()
    local = settings
    if (name := dedicated.own_name(settings, known)) is not None:
        local = localise(settings, name)
    as_balanced = balanced_facts(local, known)
    problems = [problem for rule in RULES for problem in rule(local, as_balanced)]
    problems += [problem for rule in CLUSTER_RULES for problem in rule(settings, known)]
    return sorted(problems, key=lambda problem: problem.severity != "error")


verify_change = order.verify_change
verify_machines = machines.verify_machines


def require(settings: Settings, facts: Facts | None = None) -> list[Problem]:
    """The warnings.

    Raises:
        SettingsRefused: there are errors; it carries errors and warnings.
    """
    problems = verify(settings, facts)
    if errors(problems):
        raise SettingsRefused("the settings cannot be applied", problems)
    return problems


def catalogue_markdown() -> str:
    """docs/problems.md: every code with its texts and example."""
    _ = _document
    lines = [
        "# Problems with settings",
        "",
        "Every problem that `portico check`, `portico plan`, `portico settings apply` and the API report, by its code.",
        "Codes are stable. An *error* keeps a document from being stored and applied; a *warning* does not. Words in",
        "braces stand for values of the case at hand.",
        "",
    ]
    for code in sorted(CATALOGUE):
        kind = CATALOGUE[code]
        lines += [
            f"## {code}",
            "",
            f"**{kind.what}** ({kind.severity})",
            "",
            f"- Why: {kind.why}.",
            f"- What to do: {kind.resolution}.",
            "",
            "Example:",
            "",
            "```yaml",
            kind.example,
            "```",
            "",
        ]
    return "\n".join(lines)
