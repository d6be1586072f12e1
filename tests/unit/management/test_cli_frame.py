"""The frame every command shares: errors, exit statuses, JSON, confirmation, units."""

import json

import pytest
import typer
from typer.testing import CliRunner

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError, Unavailable
from portico.management.cli import output
from portico.management.cli.app import app as portico
from portico.management.cli.exit_codes import SETTINGS_REFUSED, ExitCode, exit_code

runner = CliRunner()


def command(body: object) -> typer.Typer:
    app = typer.Typer(cls=output.PorticoGroup)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def run(json: output.Json = False, yes: output.Yes = False) -> None:
        body(yes)  # type: ignore[operator]

    return app


def raising(error: PorticoError) -> typer.Typer:
    def body(_yes: bool) -> None:
        raise error

    return command(body)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PorticoError("x"), 1),
        (InvalidInput("x"), 1),
        (PorticoError("x", code=SETTINGS_REFUSED), 3),
        (Unavailable("x"), 4),
        (NotPermitted("x"), 5),
        (NotFound("x"), 6),
        (Conflict("x"), 7),
        (PorticoError("x", code="NOT_FOUND"), 6),
    ],
)
def test_exit_status_follows_the_error(error: PorticoError, code: int) -> None:
    assert exit_code(error) == code
    assert runner.invoke(raising(error), ["run"]).exit_code == code


def test_error_says_what_why_and_next_on_stderr() -> None:
    result = runner.invoke(raising(NotFound("No client x", why="never enrolled", resolution="List them")), ["run"])
    assert result.stdout == ""
    assert [line.split(":")[0].strip() for line in result.stderr.splitlines()] == ["Error", "Why", "Next"]


def test_error_as_json() -> None:
    result = runner.invoke(raising(NotFound("No client x", why="w", resolution="r")), ["run", "--json"])
    error = json.loads(result.stderr)["error"]
    assert error == {"code": "NOT_FOUND", "what": "No client x", "why": "w", "resolution": "r"}


def test_brackets_in_foreign_text_are_not_markup() -> None:
    result = runner.invoke(raising(NotFound("No client [red]x[/]")), ["run"])
    assert "[red]x[/]" in result.stderr


def test_confirmation_without_a_terminal_is_refused() -> None:
    app = command(lambda yes: output.confirm("Remove it?", yes=yes))
    assert runner.invoke(app, ["run"]).exit_code == ExitCode.NOT_PERMITTED
    assert runner.invoke(app, ["run", "--yes"]).exit_code == ExitCode.DONE


def test_a_refused_confirmation_names_the_options_that_the_command_has() -> None:
    app = typer.Typer(cls=output.PorticoGroup)

    @app.command()
    def careful(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
        output.confirm("Remove it?", yes=yes)

    @app.command()
    def bold(yes: output.Yes = False, json: output.Json = False) -> None:
        output.confirm("Remove it?", yes=yes)

    for name, looks in (("careful", True), ("bold", False)):
        result = runner.invoke(app, [name, "--json"])
        said = json.loads(result.stderr)["error"]["resolution"]
        assert "--yes" in said and ("--dry-run" in said) is looks


def test_failed_step_is_recorded_and_marked() -> None:
    progress = output.Progress()
    with progress.step("good") as detail:
        detail("fine")
    with pytest.raises(ValueError), progress.step("bad"):
        raise ValueError
    assert [(s["step"], s["state"], s["detail"]) for s in progress.steps] == [
        ("good", "done", "fine"),
        ("bad", "failed", ""),
    ]


def test_units() -> None:
    assert [output.bytes_text(n) for n in (0, 999, 1500, 2.5e9)] == ["0 B", "999 B", "1.5 kB", "2.5 GB"]
    assert [output.duration_text(n) for n in (0, 65, 3600, 90061)] == ["0 s", "1 min 5 s", "1 h", "1 d 1 h"]


def test_root_help_documents_the_exit_statuses() -> None:
    result = runner.invoke(portico, ["--help"])
    assert result.exit_code == 0
    assert "7 conflict" in result.output


def test_settings_refused_on_this_machine_show_each_problem_once() -> None:
    from portico.settings.document import load
    from portico.settings.problems import SettingsRefused

    with pytest.raises(SettingsRefused) as caught:
        load("schema_version: 1\nip_https: {prot: 443}", source="settings.yaml")
    result = runner.invoke(raising(caught.value), ["run"])
    assert result.exit_code == ExitCode.REFUSED
    assert "settings.yaml line 2: ip_https.prot: There is no setting of this name" in " ".join(result.stderr.split())
    assert result.stderr.count("Did you mean") == 1
    shown = json.loads(runner.invoke(raising(caught.value), ["run", "--json"]).stderr)["error"]["problems"]
    assert "SETTINGS_UNKNOWN_KEY" in {problem["code"] for problem in shown}


def test_fields_are_words() -> None:
    def body(_yes: bool) -> None:
        output.console().print(output.fields({"a": True, "b": ["x", "y"], "c": {"link": 0}, "d": None}))

    assert [
        line.split(maxsplit=1)[1].strip() for line in runner.invoke(command(body), ["run"]).stdout.splitlines()
    ] == [
        "yes",
        "x, y",
        "link 0",
    ]


def test_every_command_has_an_example() -> None:
    import typer.main

    def walk(command: object, path: str) -> list[str]:
        inner = getattr(command, "commands", None)
        if inner is not None:
            return [found for name, child in inner.items() for found in walk(child, f"{path} {name}")]
        text = " ".join((getattr(command, "help", None) or "").split())
        hidden = getattr(command, "hidden", False)
        return [] if hidden or f"Example: `{path}" in text else [path]

    assert walk(typer.main.get_command(portico), "portico") == []
