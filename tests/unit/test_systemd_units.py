"""The shipped units by systemd's own judgement, and by what the agents were seen to need."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

UNITS = Path(__file__).resolve().parents[2] / "portico" / "systemd"
SERVICES = ["portico-server.service", "portico-client.service"]

EXPOSURE = 2.6
"""The most that `systemd-analyze security` may say, of 10. Most of it is what the agents are for: network,
its addresses, TUN. The largest of the rest is that they start their child under another account (CAP_SETUID)."""

needs_systemd_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_exposure(name: str) -> None:
    threshold = str(round(EXPOSURE * 10))
    got = _analyze("security", "--offline=true", f"--threshold={threshold}", UNITS / name)
    assert got.returncode == 0, got.stdout


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_no_finding_that_could_be_closed_is_open(name: str) -> None:
    got = _analyze("security", "--offline=true", "--json=short", UNITS / name)
    findings: list[dict[str, Any]] = json.loads(got.stdout)
    exposed = {str(finding.get("json_field") or finding["name"]) for finding in findings if finding.get("exposure")}
    closed = {
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateMounts",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "CapabilityBoundingSet_CAP_SYS_ADMIN",
        "CapabilityBoundingSet_CAP_SYS_PTRACE",
        "CapabilityBoundingSet_CAP_DAC_FOWNER_IPC_OWNER",
        "CapabilityBoundingSet_CAP_CHOWN_FSETID_SETFCAP",
        "SystemCallFilter_resources",
        "SystemCallFilter_mount",
        "SystemCallFilter_module",
    }
    assert not exposed & closed


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_systemd_understands_every_line(name: str) -> None:
    said = _analyze("verify", "--man=no", UNITS / name).stderr.splitlines()
    wrong = [line for line in said if name in line and "is not executable" not in line]
    assert not wrong


@pytest.mark.parametrize("name", SERVICES)
def test_the_child_can_confine_itself(name: str) -> None:
    """The unit's filter holds for the child too, which sets one of its own with the call `seccomp`."""
    text = (UNITS / name).read_text()
    assert "SystemCallFilter=@system-service seccomp\n" in text
