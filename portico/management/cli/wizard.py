"""The questions of `portico server install` on a terminal: a thin shell around `portico.management.wizard.core`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import Conflict, InvalidInput
from portico.files import write_file
from portico.management.cli import output
from portico.management.wizard.core import Wizard
from portico.management.wizard.detect import detect
from portico.management.wizard.questions import Question
from portico.server.facts import read_facts
from portico.settings.document import dump
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused, errors

BACK = "<"
_HELP = f"Enter takes what stands in brackets, '{BACK}' goes back, Ctrl-C ends without any change."
_YES, _NO = ("y", "yes"), ("n", "no")


def can_ask() -> bool:
    """Whether there is somebody to ask: questions go to stderr and answers come from stdin."""
    return not output.wants_json() and sys.stdin.isatty() and sys.stderr.isatty()


def ask(given: Mapping[str, str], plan: Callable[[Settings], Sequence[str]], *, last: str | None) -> Settings:
    """Asks until the document is complete, without an error, and confirmed.

    Args:
        given: answers that are known already.
        plan: what will be done with a document, in words.
        last: the question at the end; None asks nothing and takes the document as it is.

    Raises:
        typer.Abort: Ctrl-C, the end of the input, or no; nothing was changed.
        SettingsRefused: something is wrong with what was given.
    """
    out = output.stderr()
    wizard = Wizard(detect(), given, lambda settings, names: read_facts(settings, resolve=names))
    out.print(escape(_HELP), style="dim")
    try:
        while True:
            while (question := wizard.question) is not None:
                _one(out, wizard, question)
            found = wizard.problems()
            if errors(found):
                _tell(out, found)
                if not wizard.back_to(errors(found)):
                    raise SettingsRefused("This machine cannot be installed with these settings", found)
                continue
            settings = wizard.settings()
            _summary(out, settings, found, plan(settings))
            if last is None or _confirmed(last, wizard):
                return settings
    except typer.Abort:
        out.print("\nNothing was changed.")
        raise


def require_free(path: Path) -> None:
    """Raises Conflict when the file is there: it may be somebody's document."""
    if path.exists():
        raise Conflict(
            f"{path} exists",
            why="the answers would take its place",
            resolution=f"Give another name with --save, or remove it: rm {path}",
            code="FILE_EXISTS",
        )


def save(settings: Settings, path: Path) -> None:
    """Writes the answers as a document that `--file` takes. Raises Conflict, Unavailable."""
    require_free(path)
    head = "# The answers of an installation. Repeat it with: portico server install --file THIS\n"
    write_file(path, (head + dump(settings)).encode(), mode=0o644)
    output.note(f"The answers are in {path}.")


def nobody_to_ask(missing: Sequence[str]) -> InvalidInput:
    """What is said without a terminal when something is missing."""
    return InvalidInput(
        "The settings are incomplete",
        why=f"missing: {', '.join(missing)}; and there is no terminal to ask on",
        resolution="Give these options, or --file settings.yaml, or answer the questions on a terminal",
    )


def _one(out: Console, wizard: Wizard, question: Question) -> None:
    number, count = wizard.number
    out.print(f"\n[bold]{number}/{count} {escape(question.text)}[/]")
    out.print(escape(f"  {question.why}"), style="dim")
    if found := wizard.found():
        out.print(escape(f"  {found}"), style="dim")
    for position, choice in enumerate(wizard.choices(), 1):
        out.print(f"  {position}  {choice.value:<16} {choice.text}", markup=False)
    default = wizard.default()
    # Empty is no answer to typer.prompt, which then asks again by itself, without a word about why.
    text = str(typer.prompt(" ", default=default, show_default=bool(default), err=True, prompt_suffix="> ")).strip()
    if text == BACK:
        if not wizard.back():
            out.print("  This is the first question.")
        return
    _tell(out, wizard.answer(text))


def _tell(out: Console, problems: Sequence[Problem]) -> None:
    for problem in problems:
        output.print_problem(out, problem.as_dict())


def _summary(out: Console, settings: Settings, warnings: Sequence[Problem], steps: Sequence[str]) -> None:
    out.print("\n[bold]The settings[/]")
    out.print(escape(dump(settings)))
    _tell(out, warnings)
    for step in steps:
        out.print(f"Will: {escape(step)}")


def _confirmed(question: str, wizard: Wizard) -> bool:
    """False: the administrator goes back. Raises typer.Abort on no."""
    while True:
        text = str(typer.prompt(f"{question} [yes, no, {BACK}]", err=True, prompt_suffix=" ")).strip().lower()
        if text in _YES:
            return True
        if text in _NO:
            raise typer.Abort
        if text == BACK and wizard.back():
            return False
