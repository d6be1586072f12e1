"""How every command speaks: tables and progress for people on a terminal, `--json` for programs.

Results go to stdout, everything else (progress, questions, errors) to stderr, so that stdout can always be piped.
Errors say what happened, why, and what to do next; with `--json` they are one JSON object on stderr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from portico.errors import NotPermitted, PorticoError
from portico.management.cli.exit_codes import ExitCode, exit_code


@dataclass
class _State:
    json: bool = False
    can_look: bool = False
    """The command has `--dry-run`."""


_state = _State()


def _choose_json(value: bool) -> bool:
    _state.json = value
    return value


def _can_look(value: bool) -> bool:
    _state.can_look = True
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of tables.", callback=_choose_json, is_eager=True)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; answer every question with yes.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change and change nothing.", callback=_can_look)
]


class PorticoGroup(TyperGroup):
    """The root command: turns a `PorticoError` from any command below it into text (or JSON) and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        _state.json = _state.can_look = False
        try:
            return super().invoke(ctx)
        except PorticoError as error:
            raise typer.Exit(print_error(error)) from error
        except BrokenPipeError as error:
            sys.stdout = None  # nobody reads it; the interpreter must not flush it again
            raise typer.Exit(ExitCode.DONE) from error


def wants_json() -> bool:
    """Whether this invocation was asked for JSON."""
    return _state.json


def console() -> Console:
    """The console on stdout. Made anew: tests and pagers replace the stream."""
    terminal = sys.stdout.isatty()
    # In a pipe nobody has a width: tables are as wide as their content.
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else 1000)


def stderr() -> Console:
    """The console on stderr, for progress, questions and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def print_json(data: object) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json.dumps(data, default=_plain, indent=2, ensure_ascii=False) + "\n")


def show(data: object, people: Callable[[Console], None]) -> None:
    """The result of a command: `data` as JSON when asked for, otherwise what `people` draws."""
    if _state.json:
        print_json(data)
    else:
        people(console())


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, empty: str = ""
) -> Table | str:
    """A table in the one style of this CLI; `empty` is what is said instead when there are no rows.

    Cells are text, never markup: they may come from a client's certificate or a file.
    """
    drawn = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        drawn.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    return drawn if drawn.row_count or not empty else empty


def fields(pairs: Mapping[str, object]) -> Table:
    """A two-column list of names and values; None is left out."""
    drawn = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            drawn.add_row(name, escape(words(value)))
    return drawn


def words(value: object) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return str(value)


def print_error(error: PorticoError) -> ExitCode:
    """Prints an error on stderr and returns the exit status that goes with it."""
    # Those of this process are objects, those that came through the API are JSON.
    problems = [p if isinstance(p, Mapping) else p.as_dict() for p in getattr(error, "problems", None) or ()]
    if _state.json:
        document: dict[str, object] = dict(error.as_dict())
        if problems:
            document["problems"] = problems
        sys.stderr.write(json.dumps({"error": document}, default=_plain, ensure_ascii=False) + "\n")
        return exit_code(error)
    out = stderr()
    out.print(f"[bold red]Error:[/] {escape(error.what)}")
    for problem in problems:
        print_problem(out, problem)
    if error.why and not problems:
        out.print(f"  Why:  {escape(error.why)}")
    if error.resolution and not problems:
        out.print(f"  Next: {escape(error.resolution)}")
    return exit_code(error)


def print_problem(out: Console, problem: Mapping[str, Any]) -> None:
    """One problem found by verification: severity, place, what, why, what to do."""
    warning = problem.get("severity") == "warning"
    out.print(
        f"  [{'yellow' if warning else 'red'}]{'Warning' if warning else 'Problem'}[/]"
        f" {escape(_place(problem))}{escape(problem.get('what', ''))} ({escape(problem.get('code', ''))})"
    )
    if problem.get("why"):
        out.print(f"    Why:  {escape(problem['why'])}")
    if problem.get("resolution"):
        out.print(f"    Next: {escape(problem['resolution'])}")


def _place(problem: Mapping[str, Any]) -> str:
    source, line = problem.get("source"), problem.get("line")
    file = f"{source}{f' line {line}' if line else ''}: " if source else ""
    return file + (f"{problem['path']}: " if problem.get("path") else "")


def warn(text: str) -> None:
    """A warning on stderr that does not change the exit status."""
    stderr().print(f"[yellow]Warning:[/] {escape(text)}")


def note(text: str) -> None:
    """Something the person should know, on stderr; silent with `--json`."""
    if not _state.json:
        stderr().print(escape(text))


def confirm(question: str, *, yes: bool) -> None:
    """Asks before a change.

    Raises:
        NotPermitted: there is nobody to ask (no terminal, or `--json`) and `--yes` was not given.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if _state.json or not sys.stdin.isatty():
        raise NotPermitted(
            "Nothing was changed",
            why="this command changes something and there is no terminal to ask for confirmation on",
            resolution=f"Repeat it with --yes{', or look first with --dry-run' if _state.can_look else ''}",
        )
    typer.confirm(question, abort=True, err=True)


def require_root(what: str) -> None:
    """Refuses early, with a sentence, what only root can do.

    Raises:
        NotPermitted: the caller is not root.
    """
    import os

    if os.geteuid() != 0:
        raise NotPermitted(
            what, why="this needs root", resolution=f"Run it with sudo: sudo portico {' '.join(sys.argv[1:])}"
        )


class Progress:
    """Steps of a longer command, each named before it starts and ticked when it is done.

    On a terminal a running step shows a spinner; elsewhere each step is one line when it ends; with `--json` nothing is
    printed and `steps` goes into the command's result.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, object]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """One step. Yields a function that adds a detail to its line."""
        details: list[str] = []
        started = time.monotonic()
        out = stderr()
        state = "failed"
        try:
            if _state.json or not out.is_terminal:
                yield details.append
            else:
                with out.status(escape(name)):
                    yield details.append
            state = "done"
        finally:
            seconds = round(time.monotonic() - started, 3)
            detail = ", ".join(details)
            self.steps.append({"step": name, "state": state, "detail": detail, "seconds": seconds})
            if not _state.json:
                mark = "[green]✓[/]" if state == "done" else "[red]✗[/]"
                out.print(f"{mark} {escape(name)}" + (f" [dim]{escape(detail)}[/]" if detail else ""))


def bytes_text(count: float) -> str:
    """A byte count for people: 1.2 GB (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit always returns")


def duration_text(seconds: float) -> str:
    """A duration for people in its two largest units: 3 d 4 h, 12 min 5 s."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def time_text(seconds: float | None) -> str:
    """A point in time (seconds since the epoch) in local time; empty for None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
