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


LONG = (
    "server/peers/test_kills.py",
    "server/peers/test_store.py",
    "server/peers/test_store_enable.py",
    "server/peers/test_store_witness.py",
    "server/peers/test_distribution.py",
    "server/peers/test_store_kills.py",
    "server/peers/",
    "server/test_last_good_state.py",
    "server/users/test_device_flow.py",
    "management/wizard/test_terminal.py",
    "management/test_api_fuzz.py",
    "cluster/test_membership.py",
    "tests/dns64/",
    "tests/iphttps/",
    "lab/test_cluster_faults.py",
    "lab/test_robustness.py",
    "lab/test_recovery.py",
    "lab/test_health.py",
    "lab/test_units.py",
    "lab/test_assistant.py",
    "lab/test_cluster.py",
    "lab/test_location.py",
    "lab/test_nlb_explain.py",
    "lab/test_check.py",
    "lab/test_levels.py",
    "lab/test_nlb_network.py",
    "lab/test_cluster_store.py",
    "lab/test_bulk.py",
    "lab/test_cluster_join.py",
    "lab/test_active_directory.py",
)
"""What takes long, the longest first: a worker that began one of them last would be waited for by the others.
Clusters of three servers stand apart from each other."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take long come first; see `TEST_WORKERS` in the Makefile."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, part in enumerate(LONG) if part in path), len(LONG))

    items.sort(key=place)  # the order of those beside each other stays


@pytest.fixture(scope="session")
def etcd_program() -> str:
    """etcd, without which half of the cluster's store would go untested: it is demanded, not asked for."""
    found = shutil.which("etcd", path="/usr/bin:/usr/sbin:/usr/local/bin")
    if found is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server (`make test` does)", pytrace=False)
    return found
