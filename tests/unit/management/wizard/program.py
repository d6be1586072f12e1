"""`portico server ...` on a machine that is always the same: run by the tests of the terminal, as a program."""

from __future__ import annotations

import os

import pytest

from portico.management.cli import output, server, wizard
from portico.management.cli.app import app
from portico.server import install
from tests.unit.management.wizard.test_core import FACTS, MACHINE

patch = pytest.MonkeyPatch()
patch.setattr(wizard, "detect", lambda: MACHINE)
for module in (wizard, server):
    patch.setattr(module, "read_facts", lambda *_args, **_options: FACTS)
patch.setattr(output, "require_root", lambda _what: None)

if "MADE" in os.environ:  # what installing does to a machine is no part of these tests
    made = os.environ["MADE"]

    def steps(settings: object, *_: object, **__: object) -> list[install.Step]:
        def do() -> str:
            with open(made, "w") as file:  # noqa: PTH123
                file.write("done")
            return ""

        return [install.Step("Make everything", lambda: True, do)]

    patch.setattr(install, "install_steps", steps)

app(prog_name="portico")
