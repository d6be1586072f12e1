"""The cmdlets against the real API and agent; only the machine (kernel, gateway) is left out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from portico.errors import Conflict, NotFound, NotPermitted, PorticoError, Unavailable
from portico.management.api.app import create_app
from portico.management.client import ApiClient, Portico
from portico.management.cmdlets.cmdlet import Context
from portico.management.cmdlets.errors import CmdletError, NotBuilt
from portico.management.cmdlets.session import Session
from portico.management.cmdlets.values import PsObject
from portico.server.agent import Agent
from portico.settings.document import load_data
from portico.settings.facts import Facts, Interface
from tests.unit.management.test_cli_commands import DOCUMENT, SESSION, Machine

SEED_LINE = """Set-RemoteAccessLoadBalancer -InternetDedicatedIPAddress @('10.244.4.19
/255.255.255.0') -InternetVirtualIPAddress @('10.244.4.21 /255.255.255.0')
-ComputerName '...' -Verbose"""


class Host:
    """Keeps what is said; answers questions with `answer`."""

    def __init__(self) -> None:
        self.verboses: list[str] = []
        self.warnings: list[str] = []
        self.informations: list[str] = []
        self.errors: list[PorticoError] = []
        self.questions: list[str] = []
        self.answer = True

    def verbose(self, text: str) -> None:
        self.verboses.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def information(self, text: str) -> None:
        self.informations.append(text)

    def error(self, error: PorticoError) -> None:
        self.errors.append(error)

    def confirm(self, question: str) -> None:
        self.questions.append(question)
        if not self.answer:
            raise NotPermitted("Nothing was changed", why="the answer was no")


class Scene:
    """A server with settings, and a session."""

    def __init__(self, agent: Agent, machine: Machine, session: Session, host: Host) -> None:
        self.agent, self.machine, self.session, self.host = agent, machine, session, host

    def run(self, text: str) -> list[Any]:
        return [item for found in self.session.results(text) for item in found]

    def one(self, text: str) -> PsObject:
        (found,) = self.run(text)
        assert isinstance(found, PsObject)
        return found

    def revision(self) -> int:
        latest = self.agent.store().latest()
        return latest.number if latest is not None else 0

    def setting(self, path: str) -> Any:
        found: Any = self.session.context.api.settings.show().settings
        for part in path.split("."):
            found = found[part]
        return found


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    agent = Agent(tmp_path / "state")
    machine = Machine(agent, monkeypatch)
    facts = Facts(own_name="da1", interfaces={"lo": Interface("lo", addresses=(ip_interface("10.244.4.21/24"),))})
    monkeypatch.setattr(agent.machine, "facts", lambda **_: facts)
    host = Host()
    with TestClient(create_app(agent), raise_server_exceptions=False) as http:
        context = Context(
            lambda: Portico(ApiClient(tmp_path / "socket", transport=http._transport), author="test"), host, "test"
        )
        with Session(context) as session:
            context.api.settings.change(load_data(DOCUMENT).as_data(), expected=0)
            yield Scene(agent, machine, session, host)
    agent.credentials.close()


def test_the_line_of_the_guide_runs_as_it_is_written(scene: Scene) -> None:
    planned = SEED_LINE.replace("-Verbose", "-Verbose -WhatIf")
    assert scene.run(planned) == []
    assert scene.revision() == 1, "nothing was changed"
    assert any("on target" in text for text in scene.host.informations)
    assert any("10.244.4.19" in text for text in scene.host.informations)

    assert scene.run(SEED_LINE) == []
    assert scene.revision() == 2
    assert scene.host.questions == []
    assert any("'...' names no computer" in text for text in scene.host.warnings)
    assert "Revision 2 is in force." in scene.host.verboses
    balancing = scene.setting("load_balancing")
    assert balancing["internal_virtual_addresses"] == ["10.244.4.21/24"]
    assert balancing["servers"][0]["internal_dedicated_addresses"] == ["10.244.4.19/24"]

    found = scene.one("Get-RemoteAccessLoadBalancer -Brief")
    assert list(found) == [
        "NlbNodeStatus",
        "ThirdPartyLoadBalancer",
        "InternetVirtualIPAddress",
        "InternalVirtualIPAddress",
    ]
    assert found.get("InternetVirtualIPAddress") == ["10.244.4.21/255.255.255.0"]
    assert scene.run("(Get-RemoteAccessLoadBalancer).NlbNodeStatus | Select-Object -ExpandProperty HostName") == ["da1"]
    with pytest.raises(Conflict, match="enabled already"):
        scene.run(SEED_LINE)
    with pytest.raises(NotFound, match="edge3 is not a part of a remote access server cluster"):
        scene.run("Remove-RemoteAccessLoadBalancerNode edge3 -Force")


def test_errors_of_binding_have_powershells_words(scene: Scene) -> None:
    for text, words, code in (
        (
            "Get-RemoteAccess -Foo",
            "A parameter cannot be found that matches parameter name 'Foo'",
            "CMDLET_PARAMETER_NOT_FOUND",
        ),
        (
            "Set-RemoteAccessLoadBalancer -Inter x",
            "Parameter cannot be processed because",
            "CMDLET_PARAMETER_AMBIGUOUS",
        ),
        (
            "Get-RemoteAccess -ComputerName",
            "Missing an argument for parameter 'ComputerName'",
            "CMDLET_ARGUMENT_MISSING",
        ),
        ("Set-RemoteAccessLoadBalancer", "Cannot process command because", "CMDLET_PARAMETER_MISSING"),
        (
            "Set-RemoteAccessLoadBalancer -InternetD 1.2.3.4/8 -Disable",
            "Parameter set cannot be",
            "CMDLET_PARAMETER_SET",
        ),
        ("Set-DAServer -Cl a -Cl b", "Cannot bind parameter because parameter 'Cl", "CMDLET_PARAMETER_TWICE"),
        ("Set-DAServer -TeredoState Maybe", "Cannot validate argument on parameter", "CMDLET_ARGUMENT"),
        ("Get-Date -Date soon", "Cannot process argument transformation on parameter 'Date'", "CMDLET_ARGUMENT"),
        ("Get-RemoteAccess a b", "A positional parameter cannot be found", "CMDLET_POSITION"),
    ):
        with pytest.raises((CmdletError, NotBuilt)) as caught:
            scene.run(text)
        if code != "CMDLET_POSITION" or caught.value.code != "CMDLET_NOT_BUILT":
            assert caught.value.code == code, text
            assert caught.value.what.startswith(words), text
    assert scene.revision() == 1


@pytest.mark.parametrize(
    "text",
    [
        "Set-DAServer -TeredoState Enabled",
        "Set-DAServer -UserAuthentication TwoFactor",
        "Set-DAClient -ForceTunnel Enabled",
        "Set-RemoteAccessAccounting -EnableAccountingType ExternalRadius",
        "Install-RemoteAccess -VpnType Vpn",
        "Get-RemoteAccess -EntrypointName x",
        "Get-RemoteAccess -AsJob",
        "Update-DAMgmtServer",
        "Add-DAEntryPoint -Name x",
        "Set-DAClientDnsConfiguration -DnsSuffix .x.example -Local FallbackPrivate",
        "Add-RemoteAccessLoadBalancerNode da2 -VpnIPAddressRange 10.1.1.1,10.1.1.9",
        "Get-RemoteAccessUserActivity laptop7 -StartDateTime 2026-01-01",
    ],
)
def test_what_is_not_built_is_refused_by_name(scene: Scene, text: str) -> None:
    with pytest.raises(NotBuilt) as caught:
        scene.run(text)
    assert caught.value.code == "CMDLET_NOT_BUILT"
    assert scene.revision() == 1


def test_objects_of_the_configuration_have_windows_order(scene: Scene) -> None:
    found = scene.one("Get-RemoteAccess")
    names = list(found)
    assert names[:8] == [
        "DAStatus",
        "DAInstallType",
        "VpnStatus",
        "VpnS2SStatus",
        "LoadBalancing",
        "ConnectToAddress",
        "InternetInterface",
        "InternalInterface",
    ]
    assert names[-5:] == [
        "IPAssignmentMethod",
        "IPAddressRangeList",
        "IPv6Prefix",
        "AuthenticationType",
        "RadiusServerList",
    ]
    assert found.get("dastatus") == "Installed"
    assert found.get("IsSingleNic") is True
    assert scene.one("Get-DAServer").get("ConnectToAddress") == "da.example.net"
    assert scene.one("Get-DAClient").get("ForceTunnel") == "Disabled"
    (text,) = scene.run("Get-RemoteAccess | Select-Object DAStatus, ConnectToAddress | ConvertTo-Json -Compress")
    assert json.loads(text) == {"DAStatus": "Installed", "ConnectToAddress": "da.example.net"}
    assert scene.one("gEt-rEmOtEaCcEsS -Computer DA1.corp.example.net").get("DAStatus") == "Installed"
    with pytest.raises(NotFound) as caught:
        scene.run("Get-RemoteAccess -Cn da9")
    assert caught.value.code == "CMDLET_COMPUTER_UNKNOWN"


def test_settings_are_changed_as_transactions(scene: Scene) -> None:
    scene.run("Set-DAServer -InternalIPv6Prefix 'fd7c:1a2b:3c4d:1::/64','fd7c:1a2b:3c4d:2::/64'")
    assert scene.setting("addresses.intranet_prefixes") == ["fd7c:1a2b:3c4d:1::/64", "fd7c:1a2b:3c4d:2::/64"]
    scene.host.answer = False
    with pytest.raises(NotPermitted):
        scene.run("Set-DAServer -ConnectToAddress da2.example.net")
    assert scene.revision() == 2
    scene.run("Set-DAServer -ConnectToAddress da2.example.net -Confirm:$false")
    assert scene.setting("deployment.connect_to") == "da2.example.net"

    found = scene.one("Add-DAClientDnsConfiguration -DnsSuffix .branch.example.net -DnsIPAddress 10.0.0.9 -PassThru")
    assert ".branch.example.net" in found.get("NrptSuffixes")
    scene.run("Add-DAClientDnsConfiguration -Namespace voip.example.net")
    assert scene.setting("nrpt.exemptions") == ["voip.example.net"]
    with pytest.raises(Conflict):
        scene.run("Add-DAClientDnsConfiguration -DnsSuffix voip.example.net")
    scene.run("Set-DAClientDnsConfiguration -DnsSuffix voip.example.net -DnsIPAddress @('10.0.0.8')")
    assert [rule["namespace"] for rule in scene.setting("nrpt.rules")] == [".branch.example.net", "voip.example.net"]
    scene.run("Remove-DAClientDnsConfiguration -DnsSuffix voip.example.net -Force")
    with pytest.raises(NotFound):
        scene.run("Remove-DAClientDnsConfiguration -DnsSuffix voip.example.net -Force")

    scene.run("Add-DAMgmtServer -MgmtServer fd7c:1a2b:3c4d:1::10/128, 10.0.0.7")
    assert [item["addresses"] for item in scene.setting("management_servers")] == [
        ["fd7c:1a2b:3c4d:1::10"],
        ["10.0.0.7"],
    ]
    assert scene.setting("access.manage_out") is True, "who may dial clients is another setting"
    assert any("user_authentication is none" in text for text in scene.host.warnings)
    assert scene.run("(Get-DAMgmtServer).Host") == ["fd7c:1a2b:3c4d:1::10", "10.0.0.7"]
    assert scene.run("Get-DAMgmtServer -Type DC") == []
    with pytest.raises(NotFound, match="8 is no management server"):
        scene.run("Remove-DAMgmtServer -MgmtServer 10.0.0.7,10.0.0.8 -Force")
    with pytest.raises(NotBuilt):
        scene.run("Add-DAMgmtServer -MgmtServer 10.0.0.0/24")
    scene.run("Remove-DAMgmtServer -MgmtServer 10.0.0.7,FD7C:1a2b:3c4d:1:0::10 -Force")
    assert scene.setting("management_servers") == []

    scene.run("Set-DANetworkLocationServer -Url https://nls.corp.example.net/")
    assert scene.one("Get-DANetworkLocationServer").get("Url") == "https://nls.corp.example.net/"
    scene.run("Set-DANetworkLocationServer -NlsOnDAServer")
    assert scene.one("Get-DANetworkLocationServer").get("NlsLocation") == "DirectAccessServer"


def test_accounting_counts_and_answers_for_a_time(scene: Scene) -> None:
    with pytest.raises(Conflict, match="disabled"):
        scene.run("Get-RemoteAccessConnectionStatistics -StartDateTime 2026-01-01")
    found = scene.one("Set-RemoteAccessAccounting -EnableAccountingType Inbox -PassThru")
    assert list(found)[:4] == [
        "RadiusAccountingStatus",
        "RemoteRadiusServerList",
        "InboxAccountingStatus",
        "InboxStoreLimit",
    ]
    scene.run("Set-RemoteAccessInboxAccountingStore -StoreLimit 2y")
    assert scene.one("Get-RemoteAccessAccounting").get("InboxStoreLimit") == "2y"
    up = {
        "event": "session_up",
        "session": 7,
        "peer": "203.0.113.1:5000",
        "identity": {"subject": "lap", "serial": "1"},
    }
    scene.agent.inbox.event(up)
    scene.agent.inbox.event({"event": "session_address", "session": 7, "address": "fd7c:1a2b:3c4d:1000::c"})
    scene.agent.inbox.event(
        {"event": "session_down", "session": 7, "bytes_in": 100, "bytes_out": 50, "reason": "peer_closed"}
    )
    found = scene.one("Get-RemoteAccessConnectionStatistics -StartDateTime (Get-Date).AddDays(-1)")
    assert (found.get("UserName"), found.get("TotalBytesIn"), found.get("ClientIPAddress")) == (
        "lap",
        100,
        ["fd7c:1a2b:3c4d:1000::c"],
    )
    assert scene.run("Get-RemoteAccessConnectionStatistics -EndDateTime (Get-Date).AddDays(-1)") == []
    summary = scene.one("Get-RemoteAccessConnectionStatisticsSummary -StartDateTime (Get-Date).AddDays(-1)")
    assert (summary.get("TotalSessions"), summary.get("MaxConcurrentSessions")) == (1, 1)
    assert scene.run("Clear-RemoteAccessInboxAccountingStore -WhatIf") == []
    scene.run("Clear-RemoteAccessInboxAccountingStore -Force")
    assert scene.run("Get-RemoteAccessConnectionStatistics -StartDateTime 2026-01-01") == []


def test_connections_of_now(scene: Scene) -> None:
    scene.machine.sessions = [{**SESSION, "since": time.time() - 60, "bytes_out": 2_000_000}]
    found = scene.one("Get-RemoteAccessConnectionStatistics | Where-Object { $_.TotalBytesOut -gt 1MB }")
    assert found.get("ClientIPAddress") == ["fd7c:1a2b:3c4d:1000::c"]
    assert found.get("ClientExternalAddress") == "203.0.113.101"
    assert found.get("TransitionTechnology") == "IPHTTPS"
    assert scene.one("Get-RemoteAccessConnectionStatisticsSummary").get("TotalConnections") == 1
    assert "UserName" in "".join(scene.session.shown("Get-RemoteAccessConnectionStatistics | Format-List"))


def fake(answer: httpx.Response) -> Session:
    """A session whose server answers everything in one way."""
    transport = httpx.MockTransport(lambda _request: answer)
    context = Context(lambda: Portico(ApiClient(Path("/none"), transport=transport)), Host(), "test")
    return Session(context)


def test_health_is_shown_component_by_component() -> None:
    finding = {
        "code": "DNS_SILENT",
        "state": "Error",
        "what": "It is silent",
        "cause": "no answer",
        "resolution": "Look",
    }
    rows = [
        {"title": "Server", "state": "OK", "findings": []},
        {"title": "Dns", "state": "Error", "findings": [finding]},
    ]
    report = {"server": "da1", "at": 5.0, "state": "Error", "components": rows}
    answer = {"state": "Error", "at": 5.0, "answered_by": "da1", "servers": [report]}
    with fake(httpx.Response(200, json=answer)) as session:
        (found,) = session.results("Get-RemoteAccessHealth -Cluster")
        assert [(row.get("Component"), row.get("HealthState")) for row in found] == [
            ("Cluster", "Error"),
            ("Server", "OK"),
            ("Dns", "Error"),
        ]
        assert list(found[0])[:6] == [
            "Component",
            "RemoteAccessServer",
            "HealthState",
            "TimeStamp",
            "Id",
            "OperationStatus",
        ]
        (text,) = session.shown(
            "(Get-RemoteAccessHealth | Where-Object HealthState -eq error).Heuristics | fl ErrorDesc"
        )
        assert text.strip() == "ErrorDesc : It is silent"


def test_what_the_server_refuses_comes_out_as_it_was() -> None:
    body = {"error": {"code": "SETTINGS_READ_ONLY", "what": "No", "why": "quorum", "resolution": "Wait"}}
    with fake(httpx.Response(503, json=body)) as session, pytest.raises(Unavailable) as caught:
        list(session.results("Get-RemoteAccess"))
    assert (caught.value.code, caught.value.resolution) == ("SETTINGS_READ_ONLY", "Wait")


def test_the_first_error_ends_a_script_unless_it_says_otherwise(scene: Scene) -> None:
    with pytest.raises(NotFound):
        scene.run("Get-RemoteAccessLoadBalancer; Set-DAServer -InternalIPv6Prefix fd7c:1a2b:3c4d:5::/64")
    assert scene.revision() == 1
    text = "Get-RemoteAccessLoadBalancer -ErrorAction Continue\nSet-DAServer -InternalIPv6Prefix fd7c:1a2b:3c4d:5::/64"
    scene.run(text)
    assert [error.code for error in scene.host.errors] == ["LB_DISABLED"]
    assert scene.revision() == 2
