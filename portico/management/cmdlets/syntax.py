"""What a script is made of, after parsing. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from portico.management.cmdlets.errors import Place


@dataclass(frozen=True)
class Constant:
    """A string in single quotes, a number, a bare word."""

    place: Place
    value: str | int | float
    bare: bool = False


@dataclass(frozen=True)
class Expandable:
    """A string in double quotes: texts and expressions in turn."""

    place: Place
    parts: tuple[str | Expression, ...]


@dataclass(frozen=True)
class Variable:
    place: Place
    name: str


@dataclass(frozen=True)
class ArrayOf:
    """A comma list."""

    place: Place
    items: tuple[Expression, ...]


@dataclass(frozen=True)
class SubExpression:
    """`$(...)`, `@(...)` (always an array) or `(...)`."""

    place: Place
    statements: tuple[Statement, ...]
    array: bool = False


@dataclass(frozen=True)
class Hashtable:
    place: Place
    entries: tuple[tuple[Expression, Expression], ...]


@dataclass(frozen=True)
class ScriptBlock:
    place: Place
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Member:
    """`.Name`; `arguments` is None unless it is a call."""

    place: Place
    target: Expression
    name: str
    arguments: tuple[Expression, ...] | None = None


@dataclass(frozen=True)
class Index:
    place: Place
    target: Expression
    index: Expression


@dataclass(frozen=True)
class Cast:
    place: Place
    type: str
    value: Expression


@dataclass(frozen=True)
class Unary:
    place: Place
    operator: str
    operand: Expression


@dataclass(frozen=True)
class Binary:
    place: Place
    operator: str
    left: Expression
    right: Expression


Expression = (
    Constant
    | Expandable
    | Variable
    | ArrayOf
    | SubExpression
    | Hashtable
    | ScriptBlock
    | Member
    | Index
    | Cast
    | Unary
    | Binary
)


@dataclass(frozen=True)
class NamedArgument:
    """`-Name value`, `-Name:value` or the switch `-Name`. Which of the first and the last is meant only binding knows.

    Attributes:
        value: with a colon only.
    """

    place: Place
    name: str
    value: Expression | None = None


@dataclass(frozen=True)
class Splat:
    """`@name`: a hashtable's entries as parameters."""

    place: Place
    name: str


Argument = NamedArgument | Splat | Expression


@dataclass(frozen=True)
class Command:
    place: Place
    name: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Pipeline:
    place: Place
    stages: tuple[Command | Expression, ...]


@dataclass(frozen=True)
class Assignment:
    place: Place
    name: str
    value: Pipeline


Statement = Pipeline | Assignment
