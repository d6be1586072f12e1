"""The whole tree of commands: `--json` and an example everywhere, and no text names a command that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from portico.lab.cli import app as lab_app
from portico.management.cli.app import app as management_app
from portico.management.client import ApiClient

ROOT = Path(__file__).parents[3]
ENDLESS = {"server run", "client run", "witness run", "lab exec", "lab pcap", "lab console"}
"""These become another program or run until they are stopped: they have no result."""
CHANGE_SHARED_STATE = ("server", "settings", "clients", "ca", "nat64", "dns64", "lb")
READ_ONLY = {"show", "status", "list", "plan", "history", "compare", "export", "run"} | {
    "sessions",
    "bindings",
    "stats",
    "log",
    "query",
    "servers",
    "progress",
}


def _app() -> Any:
    root: Any = typer.main.get_command(management_app)
    root.commands["lab"] = typer.main.get_command(lab_app)
    return root


APP = _app()


def _walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _walk(below, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(_walk(APP))


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    if name not in ENDLESS:
        assert "--json" in _options(command)
    if not command.hidden:
        assert "xample" in (command.help or ""), "help shows how it is used"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_changes_something_shared_can_be_tried_dry(name: str) -> None:
    group, verb = name.split()[0], name.split()[-1]
    if (group in CHANGE_SHARED_STATE and verb not in READ_ONLY) or name == "cluster stop":
        assert "--dry-run" in _options(COMMANDS[name])


def _texts() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "portico").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value
    for path in sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]):
        if path.exists():
            yield path, path.read_text()


_MENTION = re.compile(
    r"(?<![\w./@-])portico ((?:server|settings|clients|client|ca|lab|lb|nat64|dns64|admin|audit)\b[^\n`'\"|;&)(]*)"
)


def _mentions() -> list[tuple[str, str]]:
    return sorted({(str(path.relative_to(ROOT)), found) for path, text in _texts() for found in _MENTION.findall(text)})


def _problem(text: str) -> str | None:
    """Why a command line that a text mentions cannot be one, None when it can."""
    command, words = APP, text.split()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.endswith(":"):
            return None  # a sentence about the group
        word = word.rstrip(",.")
        if word not in command.commands:
            # A sentence may say "a portico client agent"; what follows a group in a command line is a command.
            return f"there is no command {word!r}" if command is not APP and re.fullmatch(r"[a-z-]+", word) else None
        command = command.commands[word]
    known = {*_options(command), "--help", "-h"}
    for word in words:
        if word == "--":
            break
        option = word.rstrip(",.:]").lstrip("[").split("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*", option) and option not in known:
            return f"it has no option {option}"
    return None


PROSE = re.compile(r"(server|client|clients|settings|lab|ca) (agent|machine|role|process|document|writes|applied)\b")


def test_every_command_that_a_text_mentions_exists() -> None:
    mentions = _mentions()
    assert len(mentions) > 50
    wrong = [
        f"{path}: 'portico {text.strip()}': {problem}"
        for path, text in mentions
        if not PROSE.match(text) and (problem := _problem(text)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_the_shell_completes_names_that_only_the_server_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "/v1/clients": {"clients": [{"name": "laptop7"}, {"name": "laptop8"}, {"name": "till1"}]},
        "/v1/settings/history": [{"number": 12}, {"number": 1}],
        "/v1/ca/certificates": {
            "certificates": [{"serial": "ab", "revoked": None}, {"serial": "ac", "revoked": "2026"}],
        },
        "/v1/ca/tokens": {"tokens": [{"id": "t1", "state": "open"}, {"id": "t2", "state": "used"}]},
    }
    monkeypatch.setattr(ApiClient, "get", lambda _self, path, **_: answers[path])

    def completions(line: str, program: Any) -> list[str]:
        words = line.split(" ")
        environment = {
            "_PORTICO_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        result = CliRunner().invoke(program, [], prog_name="portico", env=environment)
        return sorted(result.stdout.split())

    assert completions("portico clients show lap", management_app) == ["laptop7", "laptop8"]
    assert completions("portico clients revoke t", management_app) == ["till1"]
    assert completions("portico settings rollback 1", management_app) == ["1", "12"]
    assert completions("portico nat64 sessions --client lap", management_app) == ["laptop7", "laptop8"]
    assert completions("portico dns64 query app4.corp.example.net AA", management_app) == ["AAAA"]
    assert completions("portico settings set nat64.log", management_app) == ["nat64.log_bindings="]
    assert completions("portico ca revoke a", management_app) == ["ab"]
    assert completions("portico ca token revoke t", management_app) == ["t1"]
    assert completions("portico kill app", lab_app) == ["app4", "app6"]
    monkeypatch.setattr(ApiClient, "get", lambda *_, **__: (_ for _ in ()).throw(KeyError("gone")))
    assert completions("portico clients show lap", management_app) == []
