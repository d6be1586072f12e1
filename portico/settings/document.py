"""The settings document as YAML text, with errors that name file, line and path.

The YAML taken is a plain subset: mappings, sequences and scalars of the 1.2 core schema (only `true` and `false` are
booleans, so a domain `no` stays text), no anchors (a small file cannot grow into a large one), no tags, no key twice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from portico.errors import PorticoError
from portico.files import read_file
from portico.settings.migrations import migrate
from portico.settings.model import SCHEMA_VERSION, Settings
from portico.settings.problems import CATALOGUE, Problem, SettingsRefused

MAXIMUM_SIZE = 1 << 20

FILE = CATALOGUE.add(
    "SETTINGS_FILE",
    what="The file cannot be read",
    why="{why}",
    resolution="{resolution}",
    example="portico settings apply missing.yaml",
)
NOT_TEXT = CATALOGUE.add(
    "SETTINGS_NOT_TEXT",
    what="The document is not text",
    why="{why}",
    resolution="Save the file as UTF-8 text, at most 1 MiB",
    example="a file of random bytes",
)
SYNTAX = CATALOGUE.add(
    "SETTINGS_SYNTAX",
    what="The document is not the YAML that is accepted here",
    why="{why}",
    resolution="Correct the line; 'portico settings show' prints a document in the right form",
    example="server: {name: da1",
)
DUPLICATE_KEY = CATALOGUE.add(
    "SETTINGS_DUPLICATE_KEY",
    what="The key '{key}' is given twice",
    why="only one of the two values could count",
    resolution="Remove one of them; the first is in line {first}",
    example="drift: repair\ndrift: report",
)
SCHEMA = CATALOGUE.add(
    "SETTINGS_SCHEMA_VERSION",
    what="The schema version of the document cannot be used",
    why="{why}",
    resolution="Write 'schema_version: {supported}', or upgrade Portico if the document comes from a newer one",
    example="schema_version: 99",
)
UNKNOWN_KEY = CATALOGUE.add(
    "SETTINGS_UNKNOWN_KEY",
    what="There is no setting of this name",
    why="'{key}' is not among: {known}",
    resolution="{hint}",
    example="ip_https: {prot: 443}",
)
MISSING = CATALOGUE.add(
    "SETTINGS_MISSING",
    what="A setting is missing",
    why="'{key}' has no default",
    resolution="Add '{key}' to {section}",
    example="server: {name: da1}   # no internet_interface",
)
INVALID = CATALOGUE.add(
    "SETTINGS_INVALID",
    what="The value cannot be used",
    why="{value}: {why}",
    resolution="{resolution}",
    example="ip_https: {port: 70000}",
)

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})", flags=re.ASCII)
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}", flags=re.ASCII)
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
_IMPLICIT_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


class _Loader(yaml.SafeLoader):
    """Composes nodes; resolves no scalar by itself and refuses aliases."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (the base class declares it so)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not accepted", mark)
        return super().compose_node(parent, index)


class _Reader:
    """Turns nodes into plain data and remembers in which line each path begins."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.problems: list[Problem] = []

    def read(self, node: yaml.Node, path: tuple[str | int, ...] = ()) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if node.tag not in _IMPLICIT_TAGS:
            self.problems.append(
                SYNTAX.problem(_dotted(path), source=self.source, line=line, why=f"the tag {node.tag} is not accepted")
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        return _scalar(str(node.value), plain=getattr(node, "style", None) is None)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(
                    SYNTAX.problem(_dotted(path), source=self.source, line=line, why="a key must be a single word")
                )
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                self.problems.append(
                    DUPLICATE_KEY.problem(_dotted(here), source=self.source, line=line, key=key, first=self.lines[here])
                )
                continue
            self.lines[here] = line
            result[key] = self.read(value_node, here)
        return result

    def line_of(self, path: tuple[str | int, ...]) -> int | None:
        """The line of the path or of its nearest ancestor that the document has."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def load(text: str | bytes, *, source: str = "the document") -> Settings:
    """Reads a document, migrating it from older schema versions.

    Args:
        source: names the document in problems; a file's path where there is one.

    Raises:
        SettingsRefused: with every problem that was found, each with path and line.
    """
    reader = _Reader(source)
    data = _plain_data(text, reader)
    if reader.problems:
        raise _refused(source, reader.problems)
    return _validated(data, reader)


def load_file(path: Path) -> Settings:
    """Reads a document from a file; SettingsRefused (code SETTINGS_FILE inside) when that is impossible."""
    try:
        data = read_file(path, limit=MAXIMUM_SIZE)
    except PorticoError as error:
        problem = FILE.problem("", source=str(path), why=error.why, resolution=error.resolution)
        raise _refused(str(path), [problem]) from None
    return load(data, source=str(path))


def load_data(data: object, *, source: str = "the document") -> Settings:
    """The same for plain data (JSON from the API, a stored revision).

    Raises:
        SettingsRefused: as `load`, without lines.
    """
    return _validated(data, _Reader(source))


def load_value(text: str, *, source: str) -> Any:
    """One value in the YAML that a document is written in: `true`, `[10.0.0.53]`, `{suffix: x.example, servers: []}`.

    Raises:
        SettingsRefused: the text is not YAML that is accepted.
    """
    reader = _Reader(source)
    value = _plain_data(text, reader) if text.strip() else None
    if reader.problems:
        raise _refused(source, reader.problems)
    return value


def known_keys(path: tuple[str, ...] = ()) -> list[str]:
    """The keys that a section of the document has; none for what is no section."""
    return _keys_of(path)


def dump(settings: Settings) -> str:
    """The document as YAML; `load` of it is equal to `settings`."""
    return yaml.safe_dump(settings.as_data(), sort_keys=False, allow_unicode=True, width=100, default_flow_style=False)


def _plain_data(text: str | bytes, reader: _Reader) -> Any:
    source = reader.source
    if len(text) > MAXIMUM_SIZE:
        raise _refused(source, [NOT_TEXT.problem("", source=source, why=f"it is larger than {MAXIMUM_SIZE} bytes")])
    if isinstance(text, bytes):
        text = _decoded(text, source)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise _refused(source, [SYNTAX.problem("", source=source, why="the document is empty")])
        return reader.read(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        why = ", ".join(part for part in (error.context, error.problem) if part) or "syntax error"
        raise _refused(source, [SYNTAX.problem("", source=source, line=line, why=why)]) from None
    except yaml.reader.ReaderError as error:
        why = f"the character at position {error.position} is not allowed in YAML"
        raise _refused(source, [NOT_TEXT.problem("", source=source, why=why)]) from None
    except (RecursionError, ValueError):
        raise _refused(source, [SYNTAX.problem("", source=source, why="it is nested too deeply")]) from None


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"byte {error.start} is not UTF-8"
        raise _refused(source, [NOT_TEXT.problem("", source=source, line=line, why=why)]) from None


def _scalar(text: str, *, plain: bool) -> str | int | float | bool | None:
    if not plain:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _validated(data: Any, reader: _Reader) -> Settings:
    source = reader.source
    if not isinstance(data, dict):
        why = "a mapping of settings was expected"
        raise _refused(source, [SYNTAX.problem("", source=source, line=reader.line_of(()), why=why)])
    try:
        data, _ = migrate(data, to=SCHEMA_VERSION)
    except ValueError as error:
        path = ("schema_version",)
        problem = SCHEMA.problem(
            "schema_version", source=source, line=reader.line_of(path), why=str(error), supported=SCHEMA_VERSION
        )
        raise _refused(source, [problem]) from None
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _refused(source, _deduplicated(_explain(detail, data, reader) for detail in details)) from None
    except RecursionError:
        raise _refused(source, [SYNTAX.problem("", source=source, why="it is nested too deeply")]) from None


def _explain(detail: ErrorDetails, data: Any, reader: _Reader) -> Problem:
    path = _existing(detail["loc"], data, missing=detail["type"] == "missing")
    key = str(path[-1]) if path else ""
    section = _dotted(path[:-1]) or "the document"
    common: dict[str, Any] = {"source": reader.source, "line": reader.line_of(path)}
    if detail["type"] == "extra_forbidden":
        known = _keys_of(path[:-1])
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "Remove it"
        return UNKNOWN_KEY.problem(_dotted(path), key=key, known=", ".join(known), hint=hint, **common)
    if detail["type"] == "missing":
        return MISSING.problem(_dotted(path), key=key, section=section, **common)
    why = detail["msg"].removeprefix("Value error, ")
    why = why[:1].lower() + why[1:] if why[:5] == "Input" else why
    return INVALID.problem(
        _dotted(path), value=_shown(detail["input"]), why=why, resolution=_advice(path, detail), **common
    )


def _existing(location: tuple[str | int, ...], data: Any, *, missing: bool) -> tuple[str | int, ...]:
    """The path without the names pydantic adds for the members of a union."""
    path: list[str | int] = []
    for part in location:
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        elif not (missing and part == location[-1]):
            continue
        path.append(part)
    return tuple(path)


def _advice(path: tuple[str | int, ...], detail: ErrorDetails) -> str:
    field = _model_at(path[:-1])
    description = None
    if field is not None and path and isinstance(path[-1], str):
        name = next((n for n, info in field.model_fields.items() if path[-1] in (n, info.alias)), None)
        description = field.model_fields[name].description if name else None
    if detail["type"] == "int_type":
        return "Write a whole number without quotes"
    if detail["type"] == "bool_type":
        return "Write true or false"
    return f"Give another value ({description})" if description else "Give another value"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:200]


def _keys_of(path: tuple[str | int, ...]) -> list[str]:
    model = _model_at(path)
    return [info.alias or name for name, info in model.model_fields.items()] if model is not None else []


def _model_at(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Settings
    for part in path:
        if isinstance(part, int):
            continue
        if model is None:
            return None
        info = next((info for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        model = _model_in(info.annotation) if info is not None else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, UnionType, Annotated):
        for argument in get_args(annotation):
            if (found := _model_in(argument)) is not None:
                return found
    return None


def _deduplicated(problems: Iterable[Problem]) -> list[Problem]:
    """One problem per path, the deepest ones only: a union reports a reason for each of its members."""
    seen: dict[str, Problem] = {}
    for problem in problems:
        seen.setdefault(problem.path, problem)
    return [p for p in seen.values() if not any(other.startswith((f"{p.path}.", f"{p.path}[")) for other in seen)]


def _refused(source: str, problems: list[Problem]) -> SettingsRefused:
    return SettingsRefused(f"{source} is not a settings document that can be used", problems)
