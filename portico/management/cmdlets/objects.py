"""The cmdlets of pipelines: choosing, filtering, sorting, counting and turning objects into text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from portico.management.cmdlets import formatting, values
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.cmdlet import Context, cmdlet
from portico.management.cmdlets.errors import CmdletError
from portico.management.cmdlets.interpreter import compare
from portico.management.cmdlets.values import PsObject, Table, Value, as_list, member

_INPUT = Parameter("InputObject", "object", help="What flows in.")
_PROPERTY = Parameter("Property", "objects", position=0, help="Names, with * and ?, or @{Name=...; Expression={...}}.")


def _input(bound: Bound, flowing: list[Value] | None) -> list[Value]:
    return flowing if flowing is not None else as_list(bound.get("InputObject"))


def computed(item: Value, wanted: Value) -> list[tuple[str, Value]]:
    """The properties of an object that a name, pattern, script block or calculated property means."""
    if isinstance(wanted, Table):
        name = next((wanted[key] for key in ("Name", "N", "Label", "L") if key in wanted), None)
        how = next((wanted[key] for key in ("Expression", "E") if key in wanted), None)
        value = _collapsed(how(item)) if callable(how) else member(item, values.text_of(how))
        return [(values.text_of(name) if name is not None else values.text_of(how), value)]
    if callable(wanted):
        return [("Expression", _collapsed(wanted(item)))]
    text = values.text_of(wanted)
    if any(char in text for char in "*?[") and isinstance(item, PsObject | Table):
        source = item.properties if isinstance(item, PsObject) else item
        return [(name, value) for name, value in source.items() if values.wildcard(text, name)]
    source = item.properties if isinstance(item, PsObject) else item
    shown = next((n for n in source if n.lower() == text.lower()), text) if isinstance(source, dict) else text
    return [(shown, member(item, text))]


def _collapsed(found: list[Value]) -> Value:
    return None if not found else found[0] if len(found) == 1 else found


@cmdlet(
    "Select-Object",
    "Chooses properties, or some of the objects.",
    _PROPERTY,
    Parameter("ExpandProperty", help="Give the values of this property."),
    Parameter("ExcludeProperty", "strings", help="All but these."),
    Parameter("First", "int"),
    Parameter("Last", "int"),
    Parameter("Skip", "int"),
    Parameter("Unique", "switch"),
    _INPUT,
    aliases=("select",),
    cim=False,
)
def select_object(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = _input(bound, flowing)[bound.get("Skip", 0) :]
    if "First" in bound or "Last" in bound:
        first, last = bound.get("First", 0), bound.get("Last", 0)
        tail = items[max(first, len(items) - last) :] if last else []
        items = [*items[:first], *tail]
    if "ExpandProperty" in bound:
        name = bound.get("ExpandProperty")
        for item in items:
            if isinstance(item, PsObject | Table) and name not in (
                item.properties if isinstance(item, PsObject) else item
            ):
                raise CmdletError(
                    f'Property "{name}" cannot be found',
                    code="CMDLET_PROPERTY",
                    error_id="ExpandPropertyNotFound",
                    place=bound.place,
                )
        items = [value for item in items for value in as_list(member(item, name))]
    elif "Property" in bound or "ExcludeProperty" in bound:
        wanted = bound.get("Property") or ["*"]
        hidden = [name.lower() for name in bound.get("ExcludeProperty", [])]
        items = [
            PsObject(
                "Selected",
                {
                    name: value
                    for one in wanted
                    for name, value in computed(item, one)
                    if not any(values.wildcard(pattern, name) for pattern in hidden)
                },
            )
            for item in items
        ]
    if bound.switch("Unique"):
        seen: dict[str, Value] = {}
        for item in items:
            seen.setdefault(json.dumps(values.plain(item), default=str), item)
        items = list(seen.values())
    return items


_OPERATORS = (
    "EQ",
    "NE",
    "GT",
    "GE",
    "LT",
    "LE",
    "Like",
    "NotLike",
    "Match",
    "NotMatch",
    "Contains",
    "NotContains",
    "In",
)


@cmdlet(
    "Where-Object",
    "Lets through the objects for which a condition holds.",
    Parameter("FilterScript", "object", position=0, help="`{ $_.Name -eq 'x' }`, or the name of a property."),
    Parameter("Value", "object", position=1),
    *(Parameter(name, "object") for name in _OPERATORS),
    Parameter("Not", "switch"),
    Parameter("Property"),
    _INPUT,
    aliases=("where", "?"),
    cim=False,
)
def where_object(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = _input(bound, flowing)
    script = bound.get("FilterScript")
    if callable(script):
        return [item for item in items if values.truth(_collapsed(script(item)))]
    name = bound.get("Property") or values.text_of(script)
    given = [operator for operator in _OPERATORS if operator in bound]
    if not name or len(given) > 1:
        raise CmdletError(
            "Parameter set cannot be resolved using the specified named parameters",
            code="CMDLET_PARAMETER_SET",
            error_id="AmbiguousParameterSet",
            place=bound.place,
            resolution="Write it as Where-Object { $_.Name -eq 'x' }, or Where-Object Name -eq x",
        )

    def holds(item: Value) -> bool:
        value = member(item, name)
        found = (
            values.truth(value) if not given else values.truth(compare(given[0].lower(), value, bound.get(given[0])))
        )
        return found != bound.switch("Not")

    return [item for item in items if holds(item)]


@cmdlet(
    "ForEach-Object",
    "Runs a script block for each object, or takes one property of each.",
    Parameter("Process", "object", position=0, required=True),
    _INPUT,
    aliases=("%",),
    cim=False,
)
def for_each(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    how = bound.get("Process")
    if callable(how):
        return [value for item in _input(bound, flowing) for value in how(item)]
    return [value for item in _input(bound, flowing) for value in as_list(member(item, values.text_of(how)))]


@cmdlet(
    "Sort-Object",
    "Sorts objects by properties.",
    _PROPERTY,
    Parameter("Descending", "switch"),
    Parameter("Unique", "switch"),
    _INPUT,
    aliases=("sort",),
    cim=False,
)
def sort_object(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = list(_input(bound, flowing))
    wanted = bound.get("Property") or []

    def key(item: Value) -> list[Any]:
        if not wanted:
            return [values.sort_key(item)]
        return [values.sort_key(value) for one in wanted for _, value in computed(item, one)]

    items.sort(key=key, reverse=bound.switch("Descending"))
    if bound.switch("Unique"):
        items = [item for number, item in enumerate(items) if number == 0 or key(item) != key(items[number - 1])]
    return items


@cmdlet(
    "Measure-Object",
    "Counts objects, and sums up a property.",
    Parameter("Property", "strings", position=0),
    Parameter("Sum", "switch"),
    Parameter("Average", "switch"),
    Parameter("Maximum", "switch"),
    Parameter("Minimum", "switch"),
    _INPUT,
    aliases=("measure",),
    cim=False,
)
def measure_object(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = _input(bound, flowing)
    found: list[Value] = []
    for name in bound.get("Property") or [None]:
        counted = [member(item, name) if name is not None else item for item in items]
        counted = [value for value in counted if value is not None]
        calculating = any(bound.switch(what) for what in ("Sum", "Average", "Maximum", "Minimum"))
        numbers = [values.number_of(value) for value in counted] if calculating else []
        total = sum(numbers)
        found.append(
            PsObject(
                "GenericMeasureInfo",
                [
                    ("Count", len(counted)),
                    ("Average", total / len(numbers) if bound.switch("Average") and numbers else None),
                    ("Sum", total if bound.switch("Sum") else None),
                    ("Maximum", max(numbers) if bound.switch("Maximum") and numbers else None),
                    ("Minimum", min(numbers) if bound.switch("Minimum") and numbers else None),
                    ("Property", name),
                ],
            )
        )
    return found


@cmdlet(
    "Format-List",
    "Shows objects as lists of names and values.",
    _PROPERTY,
    Parameter("Force", "switch"),
    _INPUT,
    aliases=("fl",),
    cim=False,
)
def format_list(context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = [_narrowed(item, bound.get("Property")) for item in _input(bound, flowing)]
    return [formatting.Formatted(formatting.as_list_text(items, context.width))] if items else []


@cmdlet(
    "Format-Table",
    "Shows objects as a table.",
    _PROPERTY,
    Parameter("AutoSize", "switch"),
    Parameter("Wrap", "switch"),
    Parameter("HideTableHeaders", "switch"),
    Parameter("Force", "switch"),
    _INPUT,
    aliases=("ft",),
    cim=False,
)
def format_table(context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = [_narrowed(item, bound.get("Property")) for item in _input(bound, flowing)]
    if not items:
        return []
    width = None if bound.switch("Wrap") else context.width
    text = formatting.as_table_text(items, width, headers=not bound.switch("HideTableHeaders"))
    return [formatting.Formatted(text)]


def _narrowed(item: Value, wanted: list[Value] | None) -> Value:
    if not wanted or not isinstance(item, PsObject | Table):
        return item
    chosen = dict(pair for one in wanted for pair in computed(item, one))
    return PsObject("Selected", chosen, view=tuple(chosen))


@cmdlet(
    "ConvertTo-Json",
    "Turns objects into JSON.",
    Parameter("Depth", "int", help="Levels below which objects are text; 2 by default."),
    Parameter("Compress", "switch"),
    Parameter("AsArray", "switch"),
    Parameter("InputObject", "object", position=0),
    cim=False,
    notes="Times are ISO 8601, durations seconds.",
)
def convert_to_json(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = _input(bound, flowing)
    depth = min(bound.get("Depth", 2), 100)
    data = [_cut(item, depth) for item in items]
    whole = data if len(data) != 1 or bound.switch("AsArray") else data[0]
    if bound.switch("Compress"):
        return [json.dumps(whole, ensure_ascii=False, separators=(",", ":"))]
    return [json.dumps(whole, ensure_ascii=False, indent=2)]


def _cut(value: Value, depth: int) -> Any:
    if isinstance(value, list):
        return [_cut(item, depth - 1) for item in value] if depth >= 0 else values.text_of(value)
    if isinstance(value, PsObject | Table):
        source = value.properties if isinstance(value, PsObject) else value
        return {name: _cut(item, depth - 1) for name, item in source.items()} if depth >= 0 else values.text_of(value)
    return values.plain(value)


@cmdlet(
    "ConvertTo-Csv",
    "Turns objects into lines of comma-separated values.",
    Parameter("Delimiter", position=0),
    Parameter("NoTypeInformation", "switch", aliases=("NTI",), help="Taken; there is no line about types."),
    _INPUT,
    cim=False,
    notes="Several values in one property are put beside each other with blanks.",
)
def convert_to_csv(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    items = _input(bound, flowing)
    delimiter = bound.get("Delimiter", ",")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f'Cannot convert value "{delimiter}" to type "System.Char"')
    names = formatting.columns(items)
    if not names:
        return []
    lines: list[Value] = []
    for row in [names, *([values.text_of(member(item, name)) for name in names] for item in items)]:
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="").writerow(row)
        lines.append(out.getvalue())
    return lines


@cmdlet(
    "Out-String",
    "Turns what would be shown into one string.",
    Parameter("Width", "int"),
    Parameter("Stream", "switch", help="One string a line."),
    _INPUT,
    cim=False,
)
def out_string(context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    text = formatting.rendered(_input(bound, flowing), bound.get("Width", context.width))
    return list(text.splitlines()) if bound.switch("Stream") else [text]


@cmdlet("Out-Null", "Shows nothing of what flows in.", _INPUT, cim=False)
def out_null(_context: Context, _bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    return []


@cmdlet(
    "Out-Default", "Shows what flows in, as the end of every pipeline does.", _INPUT, aliases=("Out-Host",), cim=False
)
def out_default(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    return _input(bound, flowing)
