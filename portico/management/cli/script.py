"""`--script`: the one place where commands print how to repeat what they were called with, instead of doing it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from portico.management.cli import output
from portico.management.scripts import Script, actions, script

_LEFT_OUT = frozenset({"yes", "dry_run", "json", "script"})
_OPTION = Annotated[
    bool, typer.Option("--script", help="Print the command line and the cmdlet that do this; do nothing.")
]


def add_script(app: typer.Typer, group: str) -> None:
    """Gives every command of a group that has a script the option `--script`."""
    for registered in app.registered_commands:
        callback = registered.callback
        if callback is None:
            continue
        name = registered.name or callback.__name__.replace("_", "-")
        if f"{group} {name}" in actions():
            registered.callback = _scripted(callback, f"{group} {name}")
    for inner in app.registered_groups:
        if inner.typer_instance is not None and isinstance(inner.name, str):
            add_script(inner.typer_instance, f"{group} {inner.name}")


def of_call(action: str, context: typer.Context) -> Script:
    """The script for the command line that is being run; what has its default is left out."""
    values: dict[str, Any] = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.params.get(name)
        if name in _LEFT_OUT or given is None or given == parameter.get_default(context):
            continue
        found = list(map(str, given)) if isinstance(given, list | tuple) else given
        if parameter.param_type_name == "argument":
            values.setdefault("arguments", []).extend(found if isinstance(found, list) else [str(found)])
        else:
            option = max(parameter.opts, key=len).removeprefix("--").replace("-", "_")
            values[option] = found if isinstance(found, list | bool) else str(found)
    return script(action, values)


def _scripted(callback: Callable[..., Any], action: str) -> Callable[..., Any]:
    @functools.wraps(callback)
    def command(*arguments: Any, portico_context: typer.Context, script: bool = False, **named: Any) -> Any:
        if not script:
            return callback(*arguments, **named)
        found = of_call(action, portico_context)

        def people(out: Console) -> None:
            none = f"# No cmdlet: {found.why or 'none says all of this'}"
            for text in (found.cli, found.cmdlet if found.cmdlet is not None else none):
                out.print(text, markup=False, soft_wrap=True, highlight=False)

        output.show(found.as_dict(), people)
        return None

    signature = inspect.signature(callback, eval_str=True)  # strings would be looked up in this module
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("script", kind, default=False, annotation=_OPTION),
        inspect.Parameter("portico_context", kind, annotation=typer.Context),
    ]
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    command.__annotations__ = {**hints, "script": _OPTION, "portico_context": typer.Context}
    return command
