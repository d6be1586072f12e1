"""Which argument of a line is which parameter: names by prefix and alias, positions, parameter sets, types. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, Protocol

from portico.management.cmdlets import values
from portico.management.cmdlets.errors import CmdletError, Place, not_built
from portico.management.cmdlets.values import Value

Type = Literal["string", "strings", "int", "switch", "bool", "datetime", "object", "objects", "block", "secret"]

_DOTNET: Final = {
    "string": "System.String",
    "strings": "System.String[]",
    "int": "System.UInt64",
    "switch": "System.Management.Automation.SwitchParameter",
    "bool": "System.Boolean",
    "datetime": "System.DateTime",
    "object": "System.Object",
    "objects": "System.Object[]",
    "block": "System.Management.Automation.ScriptBlock",
    "secret": "System.String",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a cmdlet.

    Attributes:
        aliases: as Windows has them.
        position: from 0; None must be named.
        required: within the sets that have it.
        sets: names of the parameter sets that have it; empty is all of them.
        choices: the values that are taken, in Windows's spelling.
        missing: the feature that Portico lacks for it; the parameter is then refused by name, never ignored.
        missing_values: the same for single values of `choices`.
        help: one sentence.
    """

    name: str
    type: Type = "string"
    aliases: tuple[str, ...] = ()
    position: int | None = None
    required: bool = False
    sets: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    missing: str = ""
    missing_values: dict[str, str] = field(default_factory=dict)
    help: str = ""

    @property
    def dotnet(self) -> str:
        return _DOTNET[self.type]


COMMON: Final = (
    Parameter("Verbose", "switch", ("vb",), help="Say what is planned and what was done."),
    Parameter("Debug", "switch", ("db",), help="As -Verbose."),
    Parameter(
        "ErrorAction",
        aliases=("ea",),
        choices=("Stop", "Continue", "SilentlyContinue", "Ignore", "Inquire", "Suspend", "Break"),
        missing_values=dict.fromkeys(("Inquire", "Suspend", "Break"), "asking after an error"),
        help="Stop (the default here) or Continue with the next line after an error.",
    ),
    Parameter(
        "WarningAction",
        aliases=("wa",),
        choices=("Continue", "SilentlyContinue", "Ignore", "Stop", "Inquire"),
        missing_values=dict.fromkeys(("Stop", "Inquire"), "stopping at a warning"),
        help="Whether warnings are shown.",
    ),
    Parameter("InformationAction", aliases=("infa",), help="Taken; there is nothing that it would change."),
    *(
        Parameter(name, aliases=(alias,), missing="Storing output by parameter", help="Use an assignment instead.")
        for name, alias in (
            ("ErrorVariable", "ev"),
            ("WarningVariable", "wv"),
            ("InformationVariable", "iv"),
            ("OutVariable", "ov"),
            ("OutBuffer", "ob"),
            ("PipelineVariable", "pv"),
        )
    ),
)
CHANGING: Final = (
    Parameter("WhatIf", "switch", ("wi",), help="Verify and show the plan; change nothing."),
    Parameter("Confirm", "switch", ("cf",), help="Ask before the change; -Confirm:$false never asks."),
)
CIM: Final = (
    Parameter("ComputerName", aliases=("Cn",), help="A server of the cluster, by name or address."),
    Parameter("CimSession", "objects", ("Session",), missing="CIM"),
    Parameter("ThrottleLimit", "int", help="Taken; one request is made at a time."),
    Parameter("AsJob", "switch", missing="Running in the background", help="Let the shell do it: `&`."),
)


@dataclass(frozen=True)
class Given:
    """One argument as it was written, evaluated. `name` None is a positional one."""

    place: Place
    name: str | None
    value: Value = None
    has_value: bool = False
    colon: bool = False


@dataclass
class Bound:
    """What a cmdlet was called with.

    Attributes:
        parameter_set: the one that was meant; empty when the cmdlet has one only.
    """

    cmdlet: str
    place: Place
    parameter_set: str = ""
    values: dict[str, Value] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def switch(self, name: str) -> bool:
        return bool(self.values.get(name))

    @property
    def error_action(self) -> str:
        action = str(self.values.get("ErrorAction", "Stop")).lower()
        return "silentlycontinue" if action == "ignore" else action


class Shape(Protocol):
    """What binding needs of a cmdlet."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> Sequence[Parameter]: ...
    @property
    def default_set(self) -> str: ...
    @property
    def open_positions(self) -> bool: ...


def bind(shape: Shape, given: Sequence[Given], place: Place, *, expression_input: bool = False) -> Bound:
    """Puts arguments to parameters.

    Args:
        expression_input: something flows in, so a required `InputObject` is there.

    Raises:
        CmdletError: in PowerShell's words.
        NotBuilt: a parameter or value whose feature there is not.
    """
    bound = Bound(shape.name, place)
    rest: list[Given] = []
    waiting: tuple[Parameter, Given] | None = None
    for argument in given:
        if argument.name is None:
            if waiting is not None:
                _take(bound, waiting[0], argument.value, waiting[1].place)
                waiting = None
            else:
                rest.append(argument)
            continue
        if waiting is not None:
            _no_argument(*waiting)
        parameter = _named(shape, argument)
        if parameter.name in bound.values:
            _fail(
                f"Cannot bind parameter because parameter '{parameter.name}' is specified more than once",
                "ParameterAlreadyBound",
                argument.place,
                "CMDLET_PARAMETER_TWICE",
            )
        if argument.has_value:
            _take(bound, parameter, argument.value, argument.place)
        elif parameter.type == "switch":
            _take(bound, parameter, True, argument.place)
        else:
            waiting = (parameter, argument)
    if waiting is not None:
        _no_argument(*waiting)
    _positions(shape, bound, rest)
    _choose_set(shape, bound, expression_input)
    return bound


def _named(shape: Shape, argument: Given) -> Parameter:
    assert argument.name is not None
    wanted = argument.name.lower()
    exact = [p for p in shape.parameters if wanted == p.name.lower() or wanted in map(str.lower, p.aliases)]
    if exact:
        return exact[0]
    found = [p for p in shape.parameters if p.name.lower().startswith(wanted)]
    if not found:  # the prefix of an alias counts too
        found = [p for p in shape.parameters if any(a.lower().startswith(wanted) for a in p.aliases if len(a) > 2)]
    if not found:
        own = ", ".join(f"-{p.name}" for p in shape.parameters if p not in COMMON)
        _fail(
            f"A parameter cannot be found that matches parameter name '{argument.name}'",
            "NamedParameterNotFound",
            argument.place,
            "CMDLET_PARAMETER_NOT_FOUND",
            resolution=f"{shape.name} has: {own}" if own else f"{shape.name} has no parameters of its own",
        )
    # Common parameters give way: -Deb of nothing, but -Disable before -Debug.
    own_found = [p for p in found if p not in COMMON] or found
    if len(found) > 1 and (len(own_found) > 1 or len(wanted) < 2):
        names = " ".join(f"-{p.name}" for p in found)
        _fail(
            f"Parameter cannot be processed because the parameter name '{argument.name}' is ambiguous. Possible "
            f"matches include: {names}",
            "AmbiguousParameter",
            argument.place,
            "CMDLET_PARAMETER_AMBIGUOUS",
        )
    return own_found[0]


def _no_argument(parameter: Parameter, argument: Given) -> NoReturn:
    _fail(
        f"Missing an argument for parameter '{parameter.name}'. Specify a parameter of type '{parameter.dotnet}' "
        "and try again",
        "MissingArgument",
        argument.place,
        "CMDLET_ARGUMENT_MISSING",
    )


def _positions(shape: Shape, bound: Bound, rest: list[Given]) -> None:
    order = sorted(
        (p for p in shape.parameters if p.position is not None and p.name not in bound.values),
        key=lambda p: p.position if p.position is not None else 0,
    )
    # A positional parameter of a set that the named ones exclude is none.
    named = _possible(shape, bound)
    order = [p for p in order if not p.sets or not named or set(p.sets) & named]
    for argument in rest:
        if not order:
            _fail(
                f"A positional parameter cannot be found that accepts argument '{values.text_of(argument.value)}'",
                "PositionalParameterNotFound",
                argument.place,
                "CMDLET_POSITION",
                resolution="Name the parameter, and put texts with blanks into quotes",
            )
        _take(bound, order.pop(0), argument.value, argument.place)


def _take(bound: Bound, parameter: Parameter, value: Value, place: Place) -> None:
    try:
        converted = _CONVERSIONS[parameter.type](value)
    except ValueError as error:
        _fail(
            f"Cannot process argument transformation on parameter '{parameter.name}'. {error}",
            "ParameterArgumentTransformationError",
            place,
            "CMDLET_ARGUMENT",
        )
    if parameter.missing and converted is not False:
        raise not_built(f"-{parameter.name}", parameter.missing, resolution=parameter.help)
    if parameter.choices:
        converted = _chosen(parameter, converted, place)
    bound.values[parameter.name] = converted


def _chosen(parameter: Parameter, value: Any, place: Place) -> Any:
    found = []
    for one in values.as_list(value):
        choice = next((c for c in parameter.choices if c.lower() == str(one).lower()), None)
        if choice is None:
            _fail(
                f"Cannot validate argument on parameter '{parameter.name}'. The argument \"{one}\" does not belong to "
                f'the set "{",".join(parameter.choices)}" specified by the ValidateSet attribute',
                "ParameterArgumentValidationError",
                place,
                "CMDLET_ARGUMENT",
                resolution="Supply an argument that is in the set and then try the command again",
            )
        if choice in parameter.missing_values:
            raise not_built(f"-{parameter.name} {choice}", parameter.missing_values[choice])
        found.append(choice)
    return found if isinstance(value, list) else found[0]


def _possible(shape: Shape, bound: Bound) -> set[str]:
    """The parameter sets that have everything that is bound; empty when the cmdlet knows none."""
    every = {name for p in shape.parameters for name in p.sets}
    for parameter in shape.parameters:
        if parameter.name in bound.values and parameter.sets:
            every &= set(parameter.sets)
            if not every:
                _fail(
                    "Parameter set cannot be resolved using the specified named parameters",
                    "AmbiguousParameterSet",
                    bound.place,
                    "CMDLET_PARAMETER_SET",
                    resolution="These parameters cannot be used together: "
                    + ", ".join(f"-{p.name}" for p in shape.parameters if p.name in bound.values and p.sets),
                )
    return every


def _choose_set(shape: Shape, bound: Bound, expression_input: bool) -> None:
    possible = _possible(shape, bound)

    def lacks(name: str) -> list[str]:
        return [
            p.name
            for p in shape.parameters
            if p.required
            and p.name not in bound.values
            and (not p.sets or name in p.sets)
            and not (p.name == "InputObject" and expression_input)
        ]

    complete = [name for name in sorted(possible) if not lacks(name)]
    if shape.default_set in complete or (not complete and shape.default_set in possible) or not possible:
        bound.parameter_set = shape.default_set
    elif complete:
        bound.parameter_set = complete[0]
    else:
        bound.parameter_set = sorted(possible)[0]
    missing = lacks(bound.parameter_set)
    if missing:
        _fail(
            f"Cannot process command because of one or more missing mandatory parameters: {' '.join(missing)}",
            "MissingMandatoryParameter",
            bound.place,
            "CMDLET_PARAMETER_MISSING",
            resolution=f"See: portico cmdlet --help-for {shape.name}",
        )


def _string(value: Value) -> str:
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f'Cannot convert value to type "System.String": {len(value)} values were given')
        value = value[0]
    if value is None:
        raise ValueError("The argument is null")
    return values.text_of(value)


def _int(value: Value) -> int:
    number = values.number_of(_string(value))
    if number != int(number) or number < 0:
        raise ValueError(f'Cannot convert value "{number}" to type "System.UInt64"')
    return int(number)


def _bool(value: Value) -> bool:
    if isinstance(value, str):
        raise ValueError(
            f'Cannot convert value "{value}" to type "System.Boolean". Boolean parameters accept only Boolean values '
            "and numbers, such as $True, $False, 1 or 0"
        )
    return values.truth(value)


def _block(value: Value) -> Any:
    if not callable(value):
        raise ValueError(
            f'Cannot convert value "{values.text_of(value)}" to type "System.Management.Automation.ScriptBlock"'
        )
    return value


_CONVERSIONS: Final[dict[str, Callable[[Value], Any]]] = {
    "string": _string,
    "secret": _string,
    "strings": lambda value: [_string(item) for item in values.as_list(value)],
    "int": _int,
    "switch": _bool,
    "bool": _bool,
    "datetime": lambda value: values.time_of(value if not isinstance(value, list) else _string(value)),
    "object": lambda value: value,
    "objects": values.as_list,
    "block": _block,
}


def _fail(what: str, error_id: str, place: Place, code: str, *, resolution: str = "") -> NoReturn:
    raise CmdletError(what, code=code, error_id=error_id, place=place, resolution=resolution)
