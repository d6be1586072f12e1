"""Objects as PowerShell shows them: lists, tables, text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from portico.management.cmdlets.values import PsObject, Table, Value, cell_of, member

LIST_ABOVE: Final = 4
"""Objects with more properties than this are shown as a list unless their kind has a table."""


class Formatted(str):
    """Text that a Format cmdlet made; it is shown as it is."""

    __slots__ = ()


def rendered(items: Sequence[Value], width: int | None) -> str:
    """What the end of a pipeline shows: texts as they are, objects of one kind together."""
    parts: list[str] = []
    group: list[Value] = []
    for item in items:
        if isinstance(item, PsObject | Table):
            if group and _kind(group[0]) != _kind(item):
                parts.append(_shown(group, width))
                group = []
            group.append(item)
            continue
        if group:
            parts.append(_shown(group, width))
            group = []
        parts.append(str(item) if isinstance(item, Formatted) else f"{cell_of(item)}\n" if item is not None else "")
    if group:
        parts.append(_shown(group, width))
    return "".join(parts)


def columns(items: Sequence[Value]) -> list[str]:
    """The properties of the first object, which decides, as in PowerShell."""
    first = next((item for item in items if isinstance(item, PsObject | Table)), None)
    return list(first.properties if isinstance(first, PsObject) else first or ())


def _kind(item: PsObject | Table) -> tuple[str, ...]:
    return (item.type_name, *item) if isinstance(item, PsObject) else ("Hashtable",)


def _shown(items: list[Value], width: int | None) -> str:
    first = items[0]
    if isinstance(first, Table):
        rows = [PsObject("Entry", [("Name", name), ("Value", value)]) for item in items for name, value in item.items()]
        return as_table_text(rows, width)
    assert isinstance(first, PsObject)
    if first.view is not None and len(items) > 1:
        return as_table_text([_only(item, first.view) for item in items], width)
    if len(first.properties) > LIST_ABOVE or first.view is not None:
        return as_list_text(items, width)
    return as_table_text(items, width)


def _only(item: Value, names: Sequence[str]) -> Value:
    return PsObject(item.type_name, [(name, item.get(name)) for name in names]) if isinstance(item, PsObject) else item


def as_list_text(items: Sequence[Value], width: int | None) -> str:
    """`Name : value` for each property, a blank line around each object."""
    blocks = []
    for item in items:
        if not isinstance(item, PsObject | Table):
            blocks.append(cell_of(item))
            continue
        source = item.properties if isinstance(item, PsObject) else item
        longest = max(map(len, source), default=0)
        lines = []
        for name, value in source.items():
            head, indent = f"{name:<{longest}} : ", " " * (longest + 3)
            for number, line in enumerate(_wrapped(cell_of(value), width - len(indent) if width else None)):
                lines.append(f"{head if number == 0 else indent}{line}".rstrip() if line or number else head.rstrip())
        blocks.append("\n".join(lines))
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _wrapped(text: str, width: int | None) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n"):
        if width is None or width < 10:
            lines.append(line)
            continue
        rest = line
        while len(rest) > width:
            cut = rest.rfind(" ", 0, width) + 1 or width
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines


def as_table_text(items: Sequence[Value], width: int | None, *, headers: bool = True) -> str:
    """Columns under names and dashes; numbers to the right. What is too wide ends with dots."""
    names = columns(items)
    if not names:
        return "".join(f"{cell_of(item)}\n" for item in items)
    cells = [[cell_of(member(item, name)).replace("\n", " ") for name in names] for item in items]
    numeric = [
        all(isinstance(member(item, name), int | float | None) for item in items)
        and any(member(item, name) is not None for item in items)
        and not any(isinstance(member(item, name), bool) for item in items)
        for name in names
    ]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    if width is not None:
        _narrow(widths, [len(name) for name in names], width)
    rows = ([names, ["-" * len(name) for name in names]] if headers else []) + cells
    lines = []
    for row in rows:
        fitted = [
            text if len(text) <= size else f"{text[: max(0, size - 3)]}..."[:size]
            for text, size in zip(row, widths, strict=True)
        ]
        padded = [
            text.rjust(size) if right else text.ljust(size)
            for text, size, right in zip(fitted, widths, numeric, strict=True)
        ]
        lines.append(" ".join(padded).rstrip())
    return "\n" + "\n".join(lines) + "\n\n"


def _narrow(widths: list[int], least: list[int], width: int) -> None:
    """Takes from the widest column until everything fits, down to the names."""
    while sum(widths) + len(widths) - 1 > width:
        at = max(range(len(widths)), key=lambda number: widths[number] - min(least[number], 8))
        if widths[at] <= min(least[at], 8):
            return
        widths[at] -= 1
