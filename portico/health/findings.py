"""What heuristics find: findings with a stable code, and the catalogue of their kinds. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from portico.health.components import Component
from portico.health.states import HealthState

MAXIMUM_TEXT: Final = 600
"""Characters of a text that is kept, sent and logged; causes may quote other programs."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        code: stable, documented in docs/health.md.
        state: Warning, Error or Unknown.
        about: which of several (a DNS server, an interface, another server); empty where there is one only.
        what, cause, resolution: sentences for the administrator, without a full stop.
        shared: every server of a cluster finds the same; only one of them tells it to the outside.
    """

    code: str
    component: Component
    state: HealthState
    about: str
    what: str
    cause: str
    resolution: str
    shared: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """An entry of the catalogue; `what`, `cause` and `resolution` are format strings.

    Attributes:
        worse: the state when it is past its second threshold, where it has one.
    """

    code: str
    component: Component
    state: HealthState
    what: str
    cause: str
    resolution: str
    shared: bool
    worse: HealthState | None = None

    def finding(self, about: str = "", *, worse: bool = False, **values: object) -> Finding:
        """The finding with its texts filled in; KeyError when a value that a text needs is missing."""
        known = {"about": about, **values}
        state = self.worse if worse and self.worse is not None else self.state
        what, cause, resolution = (
            _bounded(text.format_map(known)) for text in (self.what, self.cause, self.resolution)
        )
        return Finding(self.code, self.component, state, about[:100], what, cause, resolution, self.shared)


class Catalogue(dict[str, Kind]):
    """Codes to kinds, each code once."""

    def add(
        self,
        code: str,
        component: Component,
        state: HealthState,
        *,
        what: str,
        cause: str,
        resolution: str,
        shared: bool = False,
        worse: HealthState | None = None,
    ) -> Kind:
        if code in self:
            raise ValueError(f"the code {code} is defined twice")
        if state in (HealthState.OK, HealthState.DISABLED):
            raise ValueError(f"{code}: {state} is nothing to tell")
        self[code] = kind = Kind(code, component, state, what, cause, resolution, shared, worse)
        return kind


def _bounded(text: str) -> str:
    """One line of printable characters, cut to what is kept."""
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line if len(line) <= MAXIMUM_TEXT else f"{line[: MAXIMUM_TEXT - 3]}..."


CATALOGUE = Catalogue()
