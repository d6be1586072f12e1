"""Copy script: every changing command prints lines that are read back as what was meant."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from portico.management.cli.app import app
from portico.management.cmdlets.cmdlet import resolve
from portico.management.cmdlets.parser import parse
from portico.management.cmdlets.syntax import Command, Pipeline
from portico.management.scripts import actions, script

CALLS = {
    "lb enable": "--internet-dedicated-address '10.244.4.19 /255.255.255.0'",
    "lb disable": "",
    "lb mode": "multicast",
    "lb add": "da2",
    "lb remove": "da2",
    "cluster start": "da2",
    "cluster stop": "da2",
    "cluster drain": "da2",
    "cluster suspend": "da2",
    "cluster resume": "da2",
    "settings set": "accounting.inbox=enabled",
    "settings apply": "file.yaml -m why",
    "settings rollback": "3",
    "clients disconnect": "laptop7",
    "clients revoke": "laptop7 --reason superseded",
    "ca revoke": "ab",
    "ca init": "--name corp",
    "ca renew": "",
    "ca issue": "--name till1",
    "ca repair": "",
    "ca token create": "--name laptop7 --ttl 1d",
    "ca token revoke": "ea93",
    "management-servers add": "10.0.0.10 10.0.0.10",
    "management-servers remove": "dc1",
    "users revoke": "alice --yes",
    "settings repair": "",
    "cluster store move": "etcd",
    "cluster store recover": "",
    "cluster store rejoin": "",
    "cluster store compact": "",
    "cluster store witness add": "witness1",
    "cluster store witness remove": "",
    "dns64 flush": "app.corp.example.net --tree",
    "dns update": "",
    "admin revoke": "ab",
    "admin revoke-user": "alice",
    "admin token create": "--name ci --role viewer",
    "admin certificate issue": "alice --out alice.pem",
}

HERE_ONLY = {"import", "restore", "connect", "cmdlet", "settings edit"}
"""What changes files of the machine that it runs on, runs a script itself, or asks an editor."""


def test_every_action_is_called_here() -> None:
    assert sorted(CALLS) == actions()


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, found in getattr(group, "commands", {}).items():
        yield from commands(found, (*words, name))
    if not hasattr(group, "commands"):
        yield " ".join(words), group


def test_every_command_that_changes_the_deployment_prints_itself() -> None:
    for name, found in commands(get_command(app)):
        options = {option for parameter in found.params for option in parameter.opts}
        ours = name.startswith(("server ", "client ", "backup ", "witness ")) or name in HERE_ONLY
        if {"--yes", "--dry-run"} & options and not ours:
            assert "--script" in options, name


@pytest.mark.parametrize("action", CALLS)
def test_a_changing_command_prints_itself_and_does_nothing(action: str) -> None:
    given = [*action.split(), *shlex.split(CALLS[action])]
    result = CliRunner().invoke(app, [*given, "--script", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    words = shlex.split(found["cli"])
    assert words[: len(action.split()) + 1] == ["portico", *action.split()]
    again = CliRunner().invoke(app, [*words[1:], "--script", "--json"])
    assert json.loads(again.stdout)["cli"] == found["cli"], "the line that is printed prints itself"
    if found["cmdlet"] is None:
        assert found["why"]
        return
    for statement in parse(found["cmdlet"]):
        assert isinstance(statement, Pipeline)
        command = statement.stages[0]
        assert isinstance(command, Command)
        assert resolve(command.name) is not None


def test_no_half_of_a_change_is_offered() -> None:
    assert script("settings set", {"arguments": ["accounting.inbox=enabled", "ip_https.port=8443"]}).cmdlet is None
    assert script("lb enable", {"internet_dedicated_address": ["a"], "mode": "multicast"}).cmdlet is None
    found = script("settings set", {"arguments": ["deployment.connect_to=x'; Remove-Item.example"]}).cmdlet
    assert found == "Set-DAServer -ConnectToAddress 'x''; Remove-Item.example' -Force"
