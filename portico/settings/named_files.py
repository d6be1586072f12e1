"""The files that a settings document names, found by how the settings are marked (`kinds.FileOf`). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from portico.settings.kinds import FileOf
from portico.settings.model import Settings


@dataclass(frozen=True)
class NamedFile:
    """A file and the setting that names it, as `certificates.client_ca[0]`."""

    setting: str
    path: str
    of: FileOf


def named_files(settings: Settings) -> dict[str, NamedFile]:
    """Each file once, by its path, in the order of the document; of several settings the most careful one."""
    found: dict[str, NamedFile] = {}
    for named in _walk(settings, ""):
        former = found.get(named.path)
        if former is None or (named.of.secret and not former.of.secret):
            found[named.path] = named
    return found


def _walk(section: BaseModel, prefix: str) -> Iterator[NamedFile]:
    marks = _marks(type(section))
    for name, info in type(section).model_fields.items():
        value, setting = getattr(section, name), f"{prefix}{info.alias or name}"
        for text, item in _items(value, setting):
            if isinstance(item, BaseModel):
                yield from _walk(item, f"{text}.")
            elif (mark := marks.get(name)) is not None and isinstance(item, str):
                yield NamedFile(text, item, mark)


def _items(value: Any, setting: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield from ((f"{setting}[{index}]", item) for index, item in enumerate(value))
    else:
        yield setting, value


@cache
def _marks(section: type[BaseModel]) -> dict[str, FileOf]:
    hints = get_type_hints(section, include_extras=True)
    found = {name: _mark(hints[name]) for name in section.model_fields}
    return {name: mark for name, mark in found.items() if mark is not None}


def _mark(annotation: Any) -> FileOf | None:
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        return next((item for item in metadata if isinstance(item, FileOf)), None) or _mark(kind)
    return next((mark for part in get_args(annotation) if (mark := _mark(part)) is not None), None)
