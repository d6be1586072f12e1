"""Lines as the documents of Windows write them, pasted into `portico cmdlet`: real agent, real API, the command itself.

Every cmdlet that is built has a line here that runs to its end, so none is built in the table only.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from portico.management.cli import cmdlet as command
from portico.management.cli.app import app
from portico.management.cmdlets import local
from portico.management.cmdlets.cmdlet import cmdlets
from tests.unit.management.cmdlets.test_cmdlets import Scene, scene
from tests.unit.management.test_cli_commands import SESSION

__all__ = ["scene"]

SUFFIX = ".branch.example.net"

LINES: tuple[tuple[str, Any], ...] = (
    ("Get-RemoteAccess | Select-Object DAStatus, LoadBalancing, ConnectToAddress", {"LoadBalancing": "NotConfigured"}),
    ("Get-RemoteAccess -ComputerName 'da1.corp.example.net' | fl DAInstallType", {"DAInstallType": "FullInstall"}),
    (
        "Set-DAServer -ClientIPv6Prefix fd7c:1a2b:3c4d:1000::/59 -Force -PassThru",
        {"ClientIPv6Prefix": "fd7c:1a2b:3c4d:1000::/59"},
    ),
    ("Set-DAServer -ConnectToAddress edge1.contoso.com -TeredoState Disabled -Force", None),
    ("(Get-DAServer).ConnectToAddress", "edge1.contoso.com"),
    ("Set-DAServer -InternalIPv6Prefix @('fd7c:1a2b:3c4d:1::/64', 'fd7c:1a2b:3c4d:2::/64') -Verbose", None),
    (
        "Set-DAClient -ForceTunnel Disabled -OnlyRemoteComputers Disabled -Downlevel Disabled -Force -PassThru",
        {"ForceTunnel": "Disabled"},
    ),
    ("Get-DAClient | Format-List ForceTunnel", {"ForceTunnel": "Disabled"}),
    (
        f"Add-DAClientDnsConfiguration -DnsSuffix {SUFFIX} -DnsIPAddress @('10.0.0.8', '10.0.0.9') "
        "-PassThru | Out-Null",
        None,
    ),
    (f"Set-DAClientDnsConfiguration -DnsSuffix {SUFFIX} -DnsIPAddress 10.0.0.9", None),
    ("Add-DAClientDnsConfiguration -DnsSuffix voip.example.net", None),
    (f"(Get-DAClientDnsConfiguration).NrptSuffixes -contains '{SUFFIX}'", True),
    (f"Remove-DAClientDnsConfiguration -DnsSuffix {SUFFIX} -Force", None),
    ("Set-DANetworkLocationServer -Url https://nls.corp.example.net/ -Force", None),
    ("Get-DANetworkLocationServer | Select-Object -ExpandProperty Url", "https://nls.corp.example.net/"),
    ("Set-DANetworkLocationServer -NlsOnDAServer -Force", None),
    ("Add-DAMgmtServer -MgmtServer 10.0.0.7, fd7c:1a2b:3c4d:1::10 -PassThru | Measure-Object", {"Count": 2}),
    ("Remove-DAMgmtServer -MgmtServer 10.0.0.7 -Force", None),
    ("Get-DAMgmtServer -Type All | ConvertTo-Json -Compress", {"Host": "fd7c:1a2b:3c4d:1::10", "Type": "Manual"}),
    ("Set-RemoteAccessAccounting -EnableAccountingType Inbox", None),
    ("Set-RemoteAccessInboxAccountingStore -StoreLimit 3m -PassThru", {"StoreLimit": "3m"}),
    ("Get-RemoteAccessInboxAccountingStore", {"StoreLimit": "3m"}),
    ("Get-RemoteAccessAccounting", {"InboxAccountingStatus": "Enabled"}),
    (
        "Clear-RemoteAccessInboxAccountingStore -StartDateTime '1/1/2026' -EndDateTime ([datetime]'2/1/2026') -Force",
        None,
    ),
    (
        "Get-RemoteAccessConnectionStatistics | Where-Object { $_.UserName -like 'client*' }",
        {"TransitionTechnology": "IPHTTPS"},
    ),
    ("Get-RemoteAccessConnectionStatisticsSummary", {"TotalDAConnections": 1}),
    (
        "Get-RemoteAccessConnectionStatisticsSummary -StartDateTime 2026-01-01 -EndDateTime 2026-02-01",
        {"TotalSessions": 0},
    ),
    ("Get-RemoteAccessUserActivity -UserName client1", {"ServerPort": 443}),
    (
        "Get-RemoteAccessHealth -Refresh | Where-Object { $_.Component -eq 'Server' }",
        {"Component": "Server", "RemoteAccessServer": "da1"},
    ),
    (
        "Install-RemoteAccess -DAInstallType FullInstall -ConnectToAddress edge1.contoso.com "
        "-InternetInterface lo -InternalInterface lo -WhatIf",
        None,
    ),
    ("Uninstall-RemoteAccess -Force -WhatIf", None),
    (
        "Set-RemoteAccessLoadBalancer -InternetDedicatedIPAddress @('10.244.4.19 /255.255.255.0') "
        "-InternetVirtualIPAddress @('10.244.4.21 /255.255.255.0') -ComputerName '...' -Verbose",
        None,
    ),
    (
        "Get-RemoteAccessLoadBalancer -Brief | fl ThirdPartyLoadBalancer, InternetVirtualIPAddress",
        {"ThirdPartyLoadBalancer": "Disabled", "InternetVirtualIPAddress": ["10.244.4.21/255.255.255.0"]},
    ),
    ("Get-RemoteAccess | Select-Object LoadBalancing", {"LoadBalancing": "Nlb"}),
    ("Set-RemoteAccessLoadBalancer -ThirdPartyLoadBalancer Disabled -WhatIf", None),
    ("Set-RemoteAccessLoadBalancer -Disable -Force", None),
    ("Get-RemoteAccess | Select-Object LoadBalancing", {"LoadBalancing": "NotConfigured"}),
)
"""A line, and what its one object holds; a value is the result itself, None is that nothing comes out."""

OF_A_CLUSTER = {
    "Add-RemoteAccessLoadBalancerNode -RemoteAccessServer da2 -Force": "LB_DISABLED",
    "Remove-RemoteAccessLoadBalancerNode -RemoteAccessServer edge3 -Force": "LB_DISABLED",
}
"""What needs a second server: here as far as the server that answers (tests/unit/server/peers has the others)."""


def test_every_line_runs_as_it_is_written(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def table(kind: str, **_: Any) -> dict[str, Any]:
        row = {
            "destination": "10.0.0.4",
            "destination_port": 443,
            "protocol": "tcp",
            "client": "fd7c:1a2b:3c4d:1000::c",
        }
        return {kind: [row], "next": None, "total": 1}

    monkeypatch.setattr(scene.agent.translation, "table", table)
    monkeypatch.setattr(command, "server", lambda: scene.session.context.connect().api)
    facts = scene.agent.machine.facts()
    monkeypatch.setattr(local, "read_facts", lambda *_, **__: facts)
    monkeypatch.setattr(local, "_dns_servers", lambda: ["10.0.0.53"])
    monkeypatch.setattr(local, "_domain", lambda: "corp.example.net")
    monkeypatch.setenv("PORTICO_STATE_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    scene.machine.sessions = [{**SESSION, "since": time.time() - 60}]
    for line, wanted in LINES:
        result = CliRunner().invoke(app, ["cmdlet", "--json", line])
        assert result.exit_code == 0, f"{line}: {result.output}"
        found = json.loads(result.stdout)
        if wanted is None:
            assert found == [], line
            continue
        assert len(found) == 1, f"{line}: {found}"
        (value,) = found
        if isinstance(wanted, dict) and isinstance(value, str):
            for part in (str(part) for pair in wanted.items() for part in pair if isinstance(part, str)):
                assert part in value, f"{line}: {value}"
        elif isinstance(wanted, dict):
            assert {name: value.get(name) for name in wanted} == wanted, f"{line}: {value}"
        else:
            assert value == wanted, line
    for line, code in OF_A_CLUSTER.items():
        result = CliRunner().invoke(app, ["cmdlet", "--json", line])
        assert result.exit_code != 0 and f'"{code}"' in result.output, f"{line}: {result.output}"


def test_no_cmdlet_that_is_built_has_no_line() -> None:
    text = "\n".join([*(line for line, _ in LINES), *OF_A_CLUSTER]).lower()
    built = [found.name for found in cmdlets() if not found.missing and found.cim]
    assert len(built) >= 28
    assert [name for name in built if name.lower() not in text] == []
