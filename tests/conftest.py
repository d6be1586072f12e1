"""Switches that all tests know, and what holds for all property tests."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, settings

# How long examples take to draw is a matter of what else the machine does, and no defect.
settings.register_profile("portico", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("portico")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "scenarios in the lab")
    group.addoption("--pcap", action="store_true", help="record every interface of every host during each lab")
    group.addoption("--keep-lab", action="store_true", help="leave the labs running")
    group.addoption("--pause-on-error", action="store_true", help="wait for Enter when a scenario fails, lab running")
    group.addoption("--lab-logs", default="build/lab-logs", help="where logs of failed scenarios are kept")


@pytest.fixture(scope="session")
def etcd_program() -> str:
    """etcd, without which half of the cluster's store would go untested: it is demanded, not asked for."""
    found = shutil.which("etcd", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if found is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server (`make test` does)", pytrace=False)
    return found
