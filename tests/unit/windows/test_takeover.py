"""Settings of a Windows deployment: what is carried over, changed and left, from each form of export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from portico.errors import InvalidInput
from portico.management.cli.app import app
from portico.settings.document import load_data, load_file
from portico.settings.effective import effective
from portico.settings.model import Settings
from portico.settings.verify import verify
from portico.windows.exported import Export, Exported, read
from portico.windows.policy import client_policy
from portico.windows.registry_pol import RegistryValue, pack
from portico.windows.takeover import Takeover, missing, take_over
from tests.unit.windows.conftest import document

EXPORTS = Path(__file__).parent / "exports"
HERE = {
    "server.name": "edge1",
    "server.internet_interface": "eth0",
    "server.internal_interface": "eth1",
    "dns64.upstream_servers": ["10.0.0.53"],
}


def _read(*names: str) -> list[Export]:
    return [read((EXPORTS / name).read_bytes(), source=name) for name in names]


def _outcomes(result: Takeover, name: str) -> set[str]:
    return {entry.outcome for entry in result.entries if entry.origin.endswith(f": {name}")}


def test_a_deployment_is_carried_over() -> None:
    result = take_over(_read("remoteaccess.xml", "dns.json"), HERE)
    assert missing(result) == []
    settings = load_data(result.data)
    assert settings.deployment.connect_to == "da.example.net"
    assert settings.deployment.domain == "corp.example.net"
    assert str(settings.deployment.organisation_prefix) == "fdc4:29bd:abde::/48"
    assert [rule.namespace for rule in settings.nrpt.rules] == [".branch.example.org"]
    assert settings.nrpt.exemptions == [], "the exemption for the network location server is automatic"
    assert settings.network_location_server.name is None
    values = effective(settings)
    assert str(values.dns64_address) == "fdc4:29bd:abde:3333::1"
    assert str(values.client_prefix) == "fdc4:29bd:abde:1000::/64"
    assert settings.dns64.address is None, "what the organisation's prefix derives stays derived"
    assert [p for p in verify(settings) if p.severity == "error"] == []


def test_every_property_that_says_something_is_in_the_report() -> None:
    exports = _read("remoteaccess.xml", "dns.json")
    result = take_over(exports, HERE)
    said = {entry.origin for entry in result.entries}
    for export in exports:
        for item in export.objects:
            for name, value in item.properties.items():
                if value not in (None, "", [], "NotConfigured", "Disabled", "Uninstalled") and name != "DnsIPAddress":
                    assert f"{item.source}: {name}" in said, name
    assert _outcomes(result, "ClientSecurityGroupNameList") == {"left"}
    assert _outcomes(result, "InternetInterface") == {"changed"}
    assert _outcomes(result, "ConnectToAddress") == {"carried over"}


def test_our_own_export_comes_back(values: list[RegistryValue]) -> None:
    result = take_over([read(pack(values), source="registry.pol")], HERE)
    assert missing(result) == []
    imported = load_data(result.data)
    again = client_policy(imported, effective(imported))
    assert {(v.key, v.name, v.data) for v in again} == {(v.key, v.name, v.data) for v in values}


def test_prefixes_that_are_not_derived_are_kept() -> None:
    settings = document(nat64={"prefix": "2001:db8:64::/96"}, dns64={"address": "fdc4:29bd:abde:3333::53"})
    policy = pack(client_policy(settings, effective(settings)))
    imported = load_data(take_over([read(policy, source="registry.pol")], HERE).data)
    assert str(imported.nat64.prefix) == "2001:db8:64::/96"
    assert str(imported.dns64.address) == "fdc4:29bd:abde:3333::53"


def test_an_ipv6_only_intranet_is_recognised() -> None:
    settings = document(nat64={"state": "disabled"})
    policy = pack(client_policy(settings, effective(settings)))
    imported = load_data(take_over([read(policy, source="registry.pol")], HERE).data)
    assert imported.nat64.state == "disabled"


@pytest.mark.parametrize(
    ("properties", "path", "expected"),
    [
        ({"ConnectToAddress": "https://da.example.net:8443/IPHTTPS"}, "ip_https.port", 8443),
        ({"NlsUrl": "https://nls.corp.example.net/x"}, "network_location_server.url", "https://nls.corp.example.net/x"),
        ({"DAInstallType": "ManageOut"}, "access.intranet", []),
        ({"NlbNodeStatus": [{"HostName": "EDGE1.corp.example.net"}, {"HostName": "EDGE2"}]}, "server.name", "edge1"),
        ({"ClientIPv6Prefix": "fdc4:29bd:abde:1000::/59"}, "ip_https.client_prefix", "fdc4:29bd:abde:1000::/59"),
        ({"ClientIPv6Prefix": "fdc4:29bd:abde:1000::/56"}, "ip_https.client_prefix", None),
    ],
)
def test_properties_become_settings(properties: dict[str, Any], path: str, expected: object) -> None:
    assert take_over([Export(objects=(Exported("x", "", properties),))]).get(path) == expected


def test_exports_that_disagree_are_reported() -> None:
    first = Exported("a.xml", "", {"ConnectToAddress": "da.example.net"})
    second = Exported("b.xml", "", {"ConnectToAddress": "other.example.net"})
    result = take_over([Export(objects=(first, second))])
    assert result.get("deployment.connect_to") == "da.example.net"
    assert any(e.outcome == "left" and e.origin.startswith("b.xml") for e in result.entries)


def test_powershell_writes_utf16_when_it_redirects() -> None:
    text = (EXPORTS / "dns.json").read_text()
    assert read(b"\xff\xfe" + text.encode("utf-16-le"), source="x") == read(text.encode(), source="x")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"MZ\x90\x00", "EXPORT_DAMAGED"),
        (b"text", "EXPORT_UNKNOWN_FORM"),
        (b"\xff\xfe\x00", "EXPORT_DAMAGED"),
        (b"<Objs", "EXPORT_DAMAGED"),
        (b"<html/>", "EXPORT_UNKNOWN_FORM"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><Objs/>', "EXPORT_DAMAGED"),
        (b"[1]", "EXPORT_UNKNOWN_FORM"),
        (b"[" * 100_000, "EXPORT_DAMAGED"),
        (b"PReg\x02\0\0\0", "EXPORT_DAMAGED"),
        (b"x" * (17 << 20), "EXPORT_TOO_LARGE"),
    ],
)
def test_other_files_are_refused_with_what_to_do(data: bytes, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(data, source="file")
    assert caught.value.code == code
    assert "Export-Clixml" in caught.value.resolution


_text = st.text("ab:/.0fF[]", max_size=8)
_scalar = st.none() | st.booleans() | st.integers(-1, 1) | _text
_json = (
    _scalar
    | st.lists(_scalar | st.lists(_scalar, max_size=2), max_size=3)
    | st.dictionaries(_text, _scalar, max_size=2)
)
_known = st.sampled_from(
    ["ConnectToAddress", "ClientIPv6Prefix", "InternalIPv6Prefix", "NlsUrl", "NlbNodeStatus", "DnsSuffix",
     "DnsIPAddress", "ClientGpoName", "DAInstallType", "Other"]
)  # fmt: skip


@given(st.lists(st.dictionaries(_known, _json, max_size=6), max_size=3))
def test_no_content_of_an_export_breaks_the_import(items: list[dict[str, Any]]) -> None:
    result = take_over([read(json.dumps(items).encode(), source="x")])
    assert all(entry.outcome in ("carried over", "changed", "left") for entry in result.entries)


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["import", *arguments])


def test_the_command_writes_a_document_that_can_be_planned(tmp_path: Path) -> None:
    target = tmp_path / "settings.yaml"
    arguments = [str(EXPORTS / "remoteaccess.xml"), str(EXPORTS / "dns.json"), "-o", str(target)]
    lacking = _run(*arguments, "--json")
    assert lacking.exit_code == 3
    assert not target.exists()
    found = {entry["setting"] for entry in json.loads(lacking.stdout)["report"] if entry["outcome"] == "missing"}
    assert found == set(HERE)
    complete = [*arguments, "--server-name", "edge1", "--set", "server.internet_interface=eth0"]
    complete += ["--internal-interface", "eth1", "--dns-server", "10.0.0.53"]
    assert _run(*complete, "--dry-run").exit_code == 0
    assert not target.exists()
    done = _run(*complete)
    assert done.exit_code == 0, done.output
    assert isinstance(load_file(target), Settings)
    assert _run(*complete).exit_code == 7, "a document that is there is not replaced"
