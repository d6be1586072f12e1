"""Runs parsed statements: variables, expressions, pipelines. Nothing but registered cmdlets can act."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from portico.errors import PorticoError
from portico.management.cmdlets import values
from portico.management.cmdlets.binding import Given, bind
from portico.management.cmdlets.cmdlet import Context, resolve
from portico.management.cmdlets.errors import CmdletError, Place
from portico.management.cmdlets.syntax import (
    ArrayOf,
    Assignment,
    Binary,
    Cast,
    Command,
    Constant,
    Expandable,
    Expression,
    Hashtable,
    Index,
    Member,
    NamedArgument,
    Pipeline,
    ScriptBlock,
    Splat,
    Statement,
    SubExpression,
    Unary,
    Variable,
)
from portico.management.cmdlets.values import Table, Value, as_list

MAXIMUM_OBJECTS: Final = 1_000_000
"""Objects between two stages of a pipeline."""

MAXIMUM_LENGTH: Final = 1 << 20
"""Characters of a string that a script puts together."""


class Block:
    """A script block as a value: run for each object by the cmdlets that take one."""

    def __init__(self, interpreter: Interpreter, block: ScriptBlock) -> None:
        self._interpreter = interpreter
        self._block = block

    def __call__(self, item: Value) -> list[Value]:
        """What its statements give with `item` as `$_`."""
        return self._interpreter.with_item(item, self._block.statements)


class Interpreter:
    """The state of one session: its variables.

    Args:
        context: what the cmdlets work on.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._variables: Table = Table()
        self._items: list[Value] = []

    def run(self, statement: Statement) -> list[Value]:
        """What a statement gives. Raises CmdletError, or the PorticoError of what it did."""
        if isinstance(statement, Assignment):
            found = self.pipeline(statement.value)
            if statement.name.lower() in _CONSTANTS:
                _fail(
                    statement.place,
                    f"Cannot overwrite variable {statement.name} because it is read-only or constant",
                    "VariableNotWritable",
                )
            self._variables[statement.name] = _collapsed(found)
            return []
        return self.pipeline(statement)

    def with_item(self, item: Value, statements: Iterable[Statement]) -> list[Value]:
        self._items.append(item)
        try:
            return [value for statement in statements for value in self.run(statement)]
        finally:
            self._items.pop()

    def pipeline(self, pipeline: Pipeline) -> list[Value]:
        flowing: list[Value] = []
        for number, stage in enumerate(pipeline.stages):
            if isinstance(stage, Command):
                flowing = self.command(stage, flowing if number else None)
            else:
                flowing = as_list(self.value(stage))
            if len(flowing) > MAXIMUM_OBJECTS:
                _fail(stage.place, f"More than {MAXIMUM_OBJECTS} objects are in the pipeline", "TooMany")
        return flowing

    def command(self, command: Command, flowing: list[Value] | None) -> list[Value]:
        cmdlet = resolve(command.name)
        if cmdlet is None:
            _fail(
                command.place,
                f"The term '{command.name}' is not recognized as the name of a cmdlet, function, script file, or "
                "operable program",
                "CommandNotFoundException",
                code="CMDLET_NOT_FOUND",
                resolution="List those that are: portico cmdlet --list",
            )
        bound = bind(cmdlet, self._given(command), command.place, expression_input=flowing is not None)
        if self.context.always_dry and cmdlet.changes:
            bound.values["WhatIf"] = True
        try:
            return cmdlet.run(self.context, bound, flowing)
        except CmdletError:
            raise
        except PorticoError as error:
            if bound.error_action == "silentlycontinue":
                return []
            if bound.error_action == "continue":
                self.context.host.error(error)
                return []
            raise
        except ValueError as error:  # a conversion within the cmdlet
            _fail(command.place, str(error), "InvalidArgument", code="CMDLET_ARGUMENT")

    def _given(self, command: Command) -> list[Given]:
        found: list[Given] = []
        for argument in command.arguments:
            if isinstance(argument, NamedArgument):
                has = argument.value is not None
                value = self.value(argument.value) if argument.value is not None else None
                found.append(Given(argument.place, argument.name, value, has, colon=has))
            elif isinstance(argument, Splat):
                table = self._variables.find(argument.name)
                if not isinstance(table, Table):
                    _fail(argument.place, f"The variable '@{argument.name}' holds no hashtable", "InvalidSplat")
                found += [Given(argument.place, name, value, True, colon=True) for name, value in table.items()]
            else:
                found.append(Given(argument.place, None, self.value(argument), True))
        return found

    # Expressions

    def value(self, expression: Expression) -> Value:
        """The value of an expression. Raises CmdletError."""
        try:
            return self._value(expression)
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            _fail(expression.place, str(error).removesuffix("."), "RuntimeException", code="CMDLET_EXPRESSION")
        except RecursionError:
            _fail(expression.place, "The expression is nested too deeply", "TooDeep")

    def _value(self, expression: Expression) -> Value:
        match expression:
            case Constant():
                return expression.value
            case Expandable():
                parts = [
                    part if isinstance(part, str) else values.text_of(self._value(part)) for part in expression.parts
                ]
                if sum(map(len, parts)) > MAXIMUM_LENGTH:
                    raise ValueError("The string is too long")
                return "".join(parts)
            case Variable():
                return self._variable(expression)
            case ArrayOf():
                return [self._value(item) for item in expression.items]
            case SubExpression():
                found = [value for statement in expression.statements for value in self.run(statement)]
                return found if expression.array else _collapsed(found)
            case Hashtable():
                return Table(
                    (values.text_of(self._value(key)), self._value(value)) for key, value in expression.entries
                )
            case ScriptBlock():
                return Block(self, expression)
            case Member():
                target = self._value(expression.target)
                if expression.arguments is None:
                    return values.member(target, expression.name)
                return _call(expression, target, [self._value(argument) for argument in expression.arguments])
            case Index():
                return _indexed(self._value(expression.target), self._value(expression.index))
            case Cast():
                return _cast(expression, self._value(expression.value))
            case Unary():
                operand = self._value(expression.operand)
                return not values.truth(operand) if expression.operator == "-not" else -values.number_of(operand)
            case Binary():
                return self._binary(expression)

    def _variable(self, expression: Variable) -> Value:
        name = expression.name.lower().removeprefix("script:").removeprefix("global:").removeprefix("local:")
        if name in ("_", "psitem"):
            return self._items[-1] if self._items else None
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name == "env:computername":
            return self.context.own_name()
        return self._variables.find(name)

    def _binary(self, expression: Binary) -> Value:
        operator = expression.operator
        left = self._value(expression.left)
        if operator == "-and":
            return values.truth(left) and values.truth(self._value(expression.right))
        if operator == "-or":
            return values.truth(left) or values.truth(self._value(expression.right))
        right = self._value(expression.right)
        if operator == "-xor":
            return values.truth(left) != values.truth(right)
        if operator in "+-*/%":
            return _arithmetic(operator, left, right)
        return compare(operator, left, right)


def compare(operator: str, left: Value, right: Value) -> Value:
    """A comparison; an array on the left gives those of its elements for which it holds. Raises ValueError."""
    name = operator.removeprefix("-")
    if name in ("contains", "notcontains", "in", "notin"):
        items, item = (left, right) if "contains" in name else (right, left)
        return any(values.same(one, item) for one in as_list(items)) != name.startswith("not")
    if name == "join":
        return values.text_of(right).join(map(values.text_of, as_list(left)))
    if name == "is":
        return _type_name(left) == values.text_of(right).lower().removeprefix("system.").strip("[]")
    case = name.startswith("c") and name != "contains"
    bare = name[1:] if name[0] in "ic" and name[1:] in _COMPARISONS else name
    holds = _COMPARISONS[bare]
    if isinstance(left, list):
        return [item for item in left if holds(item, right, case)]
    return holds(left, right, case)


_COMPARISONS: Final[dict[str, Any]] = {
    "eq": lambda one, other, case: values.same(one, other, case=case),
    "ne": lambda one, other, case: not values.same(one, other, case=case),
    "gt": lambda one, other, case: values.order(one, other, case=case) > 0,
    "ge": lambda one, other, case: values.order(one, other, case=case) >= 0,
    "lt": lambda one, other, case: values.order(one, other, case=case) < 0,
    "le": lambda one, other, case: values.order(one, other, case=case) <= 0,
    "like": lambda one, other, _: values.wildcard(values.text_of(other), values.text_of(one)),
    "notlike": lambda one, other, _: not values.wildcard(values.text_of(other), values.text_of(one)),
    "match": lambda one, other, _: values.matches(values.text_of(other), values.text_of(one)),
    "notmatch": lambda one, other, _: not values.matches(values.text_of(other), values.text_of(one)),
}

_CONSTANTS: Final[dict[str, Value]] = {"true": True, "false": False, "null": None}


def _type_name(value: Value) -> str:
    kinds = ((bool, "bool"), (int, "int"), (float, "double"), (str, "string"), (datetime, "datetime"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _collapsed(found: list[Value]) -> Value:
    """As PowerShell does it: nothing is null, one object is itself, more are an array."""
    return None if not found else found[0] if len(found) == 1 else found


def _arithmetic(operator: str, left: Value, right: Value) -> Value:
    if operator == "+":
        if isinstance(left, str):
            text = left + values.text_of(right)
            if len(text) > MAXIMUM_LENGTH:
                raise ValueError("The string is too long")
            return text
        if isinstance(left, list):
            joined = [*left, *as_list(right)]
            if len(joined) > MAXIMUM_OBJECTS:
                raise ValueError("The array is too long")
            return joined
        if isinstance(left, Table) and isinstance(right, Table):
            return Table([*left.items(), *right.items()])
        if isinstance(left, datetime) and isinstance(right, timedelta):
            return left + right
    if operator == "-" and isinstance(left, datetime):
        return left - (right if isinstance(right, timedelta) else values.time_of(right))
    one, other = values.number_of(left), values.number_of(right)
    if abs(one) > 1e30 or abs(other) > 1e30:
        raise ValueError("Value was either too large or too small")
    if operator == "/":
        if other == 0:
            raise ValueError("Attempted to divide by zero")
        found = one / other
        return int(found) if found == int(found) and isinstance(one, int) and isinstance(other, int) else found
    if operator == "%":
        if other == 0:
            raise ValueError("Attempted to divide by zero")
        return one % other
    return one + other if operator == "+" else one - other if operator == "-" else one * other


def _indexed(target: Value, index: Value) -> Value:
    if isinstance(target, Table):
        return target.find(values.text_of(index))
    items = target if isinstance(target, list | str) else as_list(target)
    at = int(values.number_of(index))
    return items[at] if -len(items) <= at < len(items) else None


def _call(expression: Member, target: Value, arguments: list[Value]) -> Value:  # noqa: RET503 (_fail raises)
    name = expression.name.lower()
    if isinstance(target, datetime) and name in _ADDS and len(arguments) == 1:
        return target + _ADDS[name] * values.number_of(arguments[0])
    if isinstance(target, datetime) and name in ("addmonths", "addyears") and len(arguments) == 1:
        months = int(values.number_of(arguments[0])) * (12 if name == "addyears" else 1)
        return add_months(target, months)
    if name == "tostring" and not arguments:
        return values.text_of(target)
    if isinstance(target, str) and not arguments and name in ("toupper", "tolower", "trim"):
        return {"toupper": target.upper, "tolower": target.lower, "trim": target.strip}[name]()
    _fail(
        expression.place,
        f"Method invocation failed because [{_type_name(target)}] does not contain a method named '{expression.name}' "
        "that is supported here",
        "MethodNotFound",
    )


_ADDS: Final = {
    "adddays": timedelta(days=1),
    "addhours": timedelta(hours=1),
    "addminutes": timedelta(minutes=1),
    "addseconds": timedelta(seconds=1),
}


def add_months(start: datetime, months: int) -> datetime:
    """The same day so many months later, or the last one of that month. Raises ValueError, OverflowError."""
    whole = start.year * 12 + start.month - 1 + months
    year, month = divmod(whole, 12)
    for day in range(start.day, 27, -1):
        try:
            return start.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    return start.replace(year=year, month=month + 1)


def _cast(expression: Cast, value: Value) -> Value:  # noqa: RET503 (_fail raises)
    kind = expression.type.removeprefix("system.")
    match kind:
        case "string":
            return values.text_of(value)
        case "int" | "int32" | "int64" | "long" | "uint64" | "uint32":
            return round(values.number_of(value))
        case "double" | "decimal":
            return float(values.number_of(value))
        case "bool" | "boolean":
            return values.truth(value)
        case "datetime":
            return values.time_of(value)
        case "array" | "object[]" | "string[]":
            return as_list(value) if kind != "string[]" else [values.text_of(item) for item in as_list(value)]
        case "void":
            return None
        case "pscustomobject":
            if isinstance(value, Table):
                return values.PsObject("System.Management.Automation.PSCustomObject", list(value.items()))
            return value
        case "ordered" | "hashtable":
            return value
    _fail(expression.place, f"Unable to find type [{expression.type}]", "TypeNotFound")


def _fail(place: Place, what: str, error_id: str, *, code: str = "CMDLET_EXPRESSION", resolution: str = "") -> NoReturn:
    raise CmdletError(what, code=code, error_id=error_id, place=place, resolution=resolution)
