"""docs/health.md, written from the catalogue: components, and what each finding means. Pure."""

from __future__ import annotations

from typing import Final

from portico.health import evaluate as _evaluate  # registers every finding
from portico.health import report as _report
from portico.health.components import Component
from portico.health.findings import CATALOGUE, Kind
from portico.health.registry import HEURISTICS

_HEAD: Final = """\
# Health

What `portico health` shows, by component, in the order and with the names of `Get-RemoteAccessHealth`. How to read it,
and how to be told of changes, is in [operate.md](operate.md), *Health and alerts*.

A component is in the state of its worst finding; a server is in the state of its worst component, a cluster in that of
its worst server. Error is worse than Warning, that is worse than Unknown; what is Disabled does not count. Codes are
stable. Words in braces stand for values of the case at hand. *Warning, Error* is a finding that becomes an error at a
second threshold. *Shared*: all servers of a cluster find the same, and one of them alone sends alerts about it.
"""


def health_markdown() -> str:
    """The whole page."""
    _ = _evaluate, _report
    lines = [_HEAD]
    for component in Component:
        lines += [f"## {component.label}", "", f"`{component.value}`: {component.about}."]
        if not HEURISTICS[component]:
            lines += [f"Always Disabled in this version: {component.disabled}.", ""]
            continue
        lines += [f"Disabled: when {component.disabled}.", ""]
        lines += ["| code | state | what, and why | what to do |", "|---|---|---|---|"]
        kinds = [CATALOGUE[code] for code in sorted(CATALOGUE) if CATALOGUE[code].component is component]
        lines += [*map(_row, kinds), ""]
    return "\n".join(lines)


def _row(kind: Kind) -> str:
    state = kind.state.value if kind.worse is None else f"{kind.state.value}, {kind.worse.value}"
    state += "; shared" if kind.shared else ""
    cells = (f"`{kind.code}`", state, f"**{kind.what}**: {kind.cause}", kind.resolution)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
