"""A small deployment and the machine it runs on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest
import typer.main

from portico.settings.document import load_data
from portico.settings.facts import Facts, Interface
from portico.settings.model import Settings


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Typer reads the signatures of all commands for each call, which takes longer than most commands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def data() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fd7c:1a2b:3c4d::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
        "dns64": {"upstream_servers": ["10.0.0.53"]},
    }


@pytest.fixture
def settings(data: dict[str, Any]) -> Settings:
    return load_data(data)


@pytest.fixture
def facts() -> Facts:
    return Facts(
        interfaces={
            "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"),)),
            "eth1": Interface("eth1", addresses=(ip_interface("169.254.9.9/16"), ip_interface("10.0.0.2/24"))),
        },
        processors=2,
    )
