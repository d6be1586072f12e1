"""Switches that all tests know."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "scenarios in the lab")
    group.addoption("--pcap", action="store_true", help="record every interface of every host during each lab")
    group.addoption("--keep-lab", action="store_true", help="leave the labs running")
    group.addoption("--pause-on-error", action="store_true", help="wait for Enter when a scenario fails, lab running")
    group.addoption("--lab-logs", default="build/lab-logs", help="where logs of failed scenarios are kept")
