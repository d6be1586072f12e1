"""The shipped units by systemd's own judgement, and by what the agents were seen to need."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from portico import paths
from portico.client.agent import ACCOUNT, TUNNEL_UNIT
from portico.server.balancer import handle as balancer
from portico.server.balancer.process import CAPABILITIES, PRIORITY
from portico.server.etcd import member
from portico.server.gateway import UNIT, USER
from portico.server.location import pages as location
from portico.server.witness import joining

UNITS = Path(__file__).resolve().parents[2] / "portico" / "systemd"
AGENTS = ["portico-server.service", "portico-client.service"]
PACKET_PATHS = ["portico-gateway.service", "portico-tunnel.service"]
BALANCER = "portico-balancer.service"
STORE = "portico-store.service"
LOCATION = "portico-location.service"
WITNESS = "portico-witness.service"
SERVICES = [*AGENTS, *PACKET_PATHS, BALANCER, STORE, LOCATION, WITNESS]

EXPOSURE = {**dict.fromkeys([*AGENTS, BALANCER], 1.9), **dict.fromkeys([*PACKET_PATHS, STORE, LOCATION, WITNESS], 1.2)}
"""The most that `systemd-analyze security` may say, of 10; every shipped service must stay below 2.0. What is left is
what they are for: the network, for the agents its configuration, and files that belong to root; frames and the call
`bpf` for the balancer."""

needs_systemd_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_the_balancers_unit_says_the_priority_that_it_gives_itself() -> None:
    assert f"Nice={PRIORITY}\n" in (UNITS / BALANCER).read_text()


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_exposure(name: str) -> None:
    assert EXPOSURE[name] < 2.0
    threshold = str(round(EXPOSURE[name] * 10))
    got = _analyze("security", "--offline=true", f"--threshold={threshold}", UNITS / name)
    assert got.returncode == 0, got.stdout


def test_every_shipped_service_is_looked_at() -> None:
    assert sorted(path.name for path in UNITS.iterdir()) == sorted(SERVICES)


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_no_finding_that_could_be_closed_is_open(name: str) -> None:
    got = _analyze("security", "--offline=true", "--json=short", UNITS / name)
    findings: list[dict[str, Any]] = json.loads(got.stdout)
    exposed = {str(finding.get("json_field") or finding["name"]) for finding in findings if finding.get("exposure")}
    closed = {
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateMounts",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "CapabilityBoundingSet_CAP_SYS_ADMIN",
        "CapabilityBoundingSet_CAP_SYS_PTRACE",
        "CapabilityBoundingSet_CAP_DAC_FOWNER_IPC_OWNER",
        "CapabilityBoundingSet_CAP_CHOWN_FSETID_SETFCAP",
        "CapabilityBoundingSet_CAP_KILL",
        "CapabilityBoundingSet_CAP_SET_UID_GID_PCAP",
        "SystemCallFilter_privileged",
        "SystemCallFilter_resources",
        "SystemCallFilter_mount",
        "SystemCallFilter_module",
    }
    if name == BALANCER:
        closed -= {"SystemCallFilter_privileged"}  # `bpf` is one of them, see below
    assert not exposed & closed


@needs_systemd_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_systemd_understands_every_line(name: str) -> None:
    said = _analyze("verify", "--man=no", UNITS / name).stderr.splitlines()
    wrong = [line for line in said if name in line and "is not executable" not in line]
    assert not wrong


@pytest.mark.parametrize("name", [*AGENTS, *PACKET_PATHS, LOCATION])
def test_the_child_can_confine_itself(name: str) -> None:
    """The unit's filter holds for the child too, which sets one of its own with the call `seccomp`."""
    text = (UNITS / name).read_text()
    assert "SystemCallFilter=@system-service seccomp\n" in text


@pytest.mark.parametrize("name", [*PACKET_PATHS, LOCATION])
def test_a_packet_path_has_an_account_and_no_capability(name: str) -> None:
    text = (UNITS / name).read_text()
    account = {UNIT: USER, TUNNEL_UNIT: ACCOUNT, LOCATION: location.USER}[name]
    assert f"\nUser={account}\n" in text
    assert "\nCapabilityBoundingSet=\n" in text
    assert "AmbientCapabilities" not in text


def test_the_balancer_has_an_account_and_the_capabilities_that_it_keeps() -> None:
    text = (UNITS / BALANCER).read_text()
    assert f"\nUser={balancer.USER}\n" in text
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        [words] = re.findall(f"^{key}=(.*)$", text, re.MULTILINE)
        assert set(words.split()) == {f"CAP_{name}" for name in CAPABILITIES}


def test_the_store_has_an_account_a_directory_of_its_own_and_no_capability() -> None:
    text = (UNITS / STORE).read_text()
    assert f"\nUser={member.USER}\n" in text
    assert "\nCapabilityBoundingSet=\n" in text and "AmbientCapabilities" not in text
    assert "\nStateDirectory=portico-store\nStateDirectoryMode=0700\n" in text


def test_the_witness_has_an_account_and_a_directory_of_its_own_and_sees_no_other() -> None:
    text = (UNITS / WITNESS).read_text()
    assert f"\nUser={joining.USER}\n" in text and joining.UNIT == WITNESS
    assert "\nCapabilityBoundingSet=\n" in text and "AmbientCapabilities" not in text
    assert "\nStateDirectory=portico-witness\nStateDirectoryMode=0700\n" in text
    assert paths.witness_state().name == "portico-witness"
    assert "\nInaccessiblePaths=-/var/lib/portico -/var/log/portico\n" in text


def test_the_balancer_may_call_bpf_and_nothing_else_that_is_privileged() -> None:
    calls = [line for line in (UNITS / BALANCER).read_text().splitlines() if line.startswith("SystemCallFilter=")]
    assert calls == [f"SystemCallFilter={words}" for words in ("@system-service", "~@privileged @resources", "bpf")]


@pytest.mark.parametrize(
    ("agent", "path", "unit"),
    [
        *zip(AGENTS, PACKET_PATHS, [UNIT, TUNNEL_UNIT], strict=True),
        ("portico-server.service", BALANCER, balancer.UNIT),
        ("portico-server.service", STORE, member.UNIT),
        ("portico-server.service", LOCATION, location.UNIT),
    ],
)
def test_a_process_comes_and_goes_with_its_agent_and_meets_it(agent: str, path: str, unit: str) -> None:
    """One socket, in a directory that the process' account alone enters; what the agent expects has that name."""
    ours, theirs = (UNITS / agent).read_text(), (UNITS / path).read_text()
    assert path == unit
    assert path in ours.partition("Wants=")[2].splitlines()[0].split()
    assert f"\nPartOf={agent}\n" in theirs
    assert "\nRestart=always\n" in theirs
    assert "\nStartLimitIntervalSec=0\n" in theirs, "pausing is the agent's decision"
    [socket] = re.findall(r"--connect (\S+)", theirs)
    assert f"-socket {socket}" in ours.partition("\nExecStart=")[2].splitlines()[0]
    [account] = re.findall(r"^User=(\S+)$", theirs, re.MULTILINE)
    directory = socket.rpartition("/")[0]
    assert f"\nExecStartPre=+/usr/bin/install -d -o root -g {account} -m 0710 {directory}\n" in ours
    assert importlib.util.find_spec(theirs.partition(" -m ")[2].split()[0]) is not None
