"""What can be wrong with settings: problems with a stable code, and the type of their catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from portico.errors import InvalidInput

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong, as the CLI, the API and the console show it.

    Attributes:
        code: stable, documented in docs/problems.md.
        path: the setting it is about, `nat64.ipv4_address_port_pool[0]`; empty for the document as a whole.
        what, why, resolution: sentences for the administrator.
        severity: an error keeps the document from being stored or applied; a warning does not.
        source, line: the file and its line (from 1), where a file was read.
    """

    code: str
    path: str
    what: str
    why: str
    resolution: str
    severity: Severity = "error"
    source: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = ""
        if self.source is not None:
            place = f"{self.source}{f' line {self.line}' if self.line else ''}: "
        path = f"{self.path}: " if self.path else ""
        return f"{place}{path}{self.what}: {self.why}. {self.resolution}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class SettingsRefused(InvalidInput):
    """A document that cannot be taken, with every problem found in it (at least one error)."""

    code = "SETTINGS_REFUSED"

    def __init__(self, what: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        errors = [problem for problem in self.problems if problem.severity == "error"] or list(self.problems)
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(what, why=f"{_place(first)}{first.what}: {first.why}{more}", resolution=first.resolution)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "problems": [problem.as_dict() for problem in self.problems]}


def _place(problem: Problem) -> str:
    line = f"line {problem.line}: " if problem.line else ""
    return f"{line}{problem.path}: " if problem.path else line


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Only those that forbid storing and applying."""
    return [problem for problem in problems if problem.severity == "error"]


@dataclass(frozen=True)
class Kind:
    """An entry of the catalogue: the texts of one code and one documented example.

    `what`, `why` and `resolution` are format strings; `example` is a fragment of a document (or a state of the machine
    in words) that causes the problem.
    """

    code: str
    severity: Severity
    what: str
    why: str
    resolution: str
    example: str

    def problem(self, path: str, *, source: str | None = None, line: int | None = None, **values: object) -> Problem:
        """The problem with its texts filled in; KeyError when a value that a text needs is missing."""
        return Problem(
            code=self.code,
            path=path,
            what=self.what.format_map(values),
            why=self.why.format_map(values),
            resolution=self.resolution.format_map(values),
            severity=self.severity,
            source=source,
            line=line,
        )


class Catalogue(dict[str, Kind]):
    """Codes to kinds, each code once."""

    def add(
        self, code: str, *, what: str, why: str, resolution: str, example: str, severity: Severity = "error"
    ) -> Kind:
        if code in self:
            raise ValueError(f"the code {code} is defined twice")
        self[code] = kind = Kind(code, severity, what, why, resolution, example)
        return kind


CATALOGUE = Catalogue()
