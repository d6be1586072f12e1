"""Copy script: every changing command prints lines that are read back as what was meant."""

from __future__ import annotations

import json
import shlex

import pytest
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
}


def test_every_action_is_called_here() -> None:
    assert sorted(CALLS) == actions()


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
