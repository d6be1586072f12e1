"""Single settings changed in a document's data: `nat64.log_bindings=true`, `dns64.exclusion_list+=.x.example`. Pure."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_origin

from portico.errors import InvalidInput
from portico.settings.document import known_keys, load_value
from portico.settings.model import Settings

_FORM = re.compile(r"\s*([a-z0-9_.\[\]]+?)\s*([+-]?=)(.*)", flags=re.ASCII | re.DOTALL)
_PART = re.compile(r"([a-z0-9_]+)((?:\[[0-9]{1,6}\])*)", flags=re.ASCII)

_MAKES = {"load_balancing": "Enable load balancing first: portico lb enable"}

Path = list[str | int]


def assign(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The data of a document with the assignments made, in their order. It is not verified here.

    `KEY=VALUE` sets, `KEY+=VALUE` adds an entry to a list, `KEY-=VALUE` removes it. Values are YAML.

    Raises:
        InvalidInput: an assignment cannot be read, names no setting, or removes what is not there.
        SettingsRefused: a value is not YAML.
    """
    result = copy.deepcopy(data)
    for text in assignments:
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"'{text}' changes nothing",
                why="it is not KEY=VALUE",
                resolution="Write it like nat64.log_bindings=true, or KEY+=VALUE and KEY-=VALUE for entries of a list",
            )
        key, operator, value = match[1], match[2], load_value(match[3], source=f"the value of {match[1]}")
        holder, last = _holder(result, _path(key), key)
        if operator == "=":
            holder[last] = value
        else:
            _entry(holder, last, key, operator, value)
    return result


def keys() -> Iterator[str]:
    """Every setting's path, sections left out, entries of lists not looked into."""
    for section in known_keys():
        info = Settings.model_fields.get(section)
        inner = [] if info is not None and get_origin(info.annotation) is list else known_keys((section,))
        yield from (f"{section}.{key}" for key in inner) if inner else (section,)


def _path(text: str) -> Path:
    path: Path = []
    for part in text.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise InvalidInput(f"'{text}' is not the path of a setting", resolution="Write it like nat64.log_bindings")
        path.append(match[1])
        path += [int(number) for number in re.findall(r"\[(\d+)\]", match[2])]
    return path


def _holder(data: Any, path: Path, text: str) -> tuple[Any, str | int]:
    """What holds the setting, and its key in it."""
    names: list[str] = []
    for part, follows in zip(path, [*path[1:], None], strict=True):
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                size = f"it has {len(data)} entries" if isinstance(data, list) else "it is no list"
                raise InvalidInput(f"There is no entry {part} in {'.'.join(names)}", why=size)
        else:
            known = known_keys(tuple(names))
            if part not in known:
                close = difflib.get_close_matches(part, known, n=1)
                raise InvalidInput(
                    f"There is no setting {text}",
                    why=f"'{part}' is not among: {', '.join(known)}" if known else f"'{part}' follows a single value",
                    resolution=f"Did you mean '{close[0]}'?" if close else "docs/settings.md lists them",
                    code="SETTINGS_UNKNOWN_KEY",
                )
            names.append(part)
        if data is None:
            raise InvalidInput(
                f"{text} cannot be set",
                why=f"{'.'.join(names[:-1])} is null, so there is nothing in it",
                resolution=_MAKES.get(names[0], f"Set {'.'.join(names[:-1])} as a whole"),
            )
        if follows is None:
            return data, part
        data = data[part] if isinstance(part, int) else data.get(part) if isinstance(data, dict) else None
    raise InvalidInput(f"'{text}' is not the path of a setting")


def _entry(holder: Any, last: str | int, key: str, operator: str, value: Any) -> None:
    try:
        found = holder[last]
    except (LookupError, TypeError):
        found = None
    entries = [] if found is None else found
    if not isinstance(entries, list):
        raise InvalidInput(f"{key} is no list", why="entries are added to lists only", resolution=f"Write {key}=VALUE")
    if operator == "+=":
        holder[last] = [*entries, value]
        return
    kept = [entry for entry in entries if not _same(entry, value)]
    if len(kept) == len(entries):
        present = ", ".join(map(str, entries)) or "it is empty"
        raise InvalidInput(f"{key} has no such entry", why=f"{value} is not among: {present}")
    holder[last] = kept


def _same(entry: Any, value: Any) -> bool:
    """Whether an entry is the one that is meant: equal, or an object with all the fields that are given."""
    if isinstance(entry, dict) and isinstance(value, dict):
        return bool(value) and all(entry.get(key) == given for key, given in value.items())
    return str(entry) == str(value)
