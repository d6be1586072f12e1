"""The client's policy: the worked example value by value, and the three forms it is written in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from portico.settings.effective import effective
from portico.settings.model import Settings
from portico.windows import gpo, texts
from portico.windows.policy import ASSISTANT, CONNECTIVITY, DNS_POLICY, IPHTTPS, Texts, client_policy
from portico.windows.registry_pol import Data, Kind, RegistryValue, parse
from tests.unit.windows.conftest import document

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _by_name(values: list[RegistryValue], key: str) -> Mapping[str, Data]:
    return {value.name: value.data for value in values if value.key == key}


def _rules(values: list[RegistryValue]) -> dict[str, Mapping[str, Data]]:
    keys = dict.fromkeys(value.key for value in values if value.key.startswith(DNS_POLICY))
    rows = [_by_name(values, key) for key in keys]
    return {row["Name"][0]: row for row in rows if isinstance(row["Name"], tuple)}


def test_the_worked_example_value_by_value(values: list[RegistryValue]) -> None:
    assert _by_name(values, IPHTTPS) == {
        "IPHTTPS_ClientState": 0,
        "IPHTTPS_ClientUrl": "https://da.example.net:443/IPHTTPS",
    }
    rules = _rules(values)
    assert rules[".corp.example.net"]["DirectAccessDNSServers"] == "fdc4:29bd:abde:3333::1"
    assert rules["directaccess-nls.corp.example.net"]["DirectAccessDNSServers"] == ""
    assert {row["ConfigOptions"] for row in rules.values()} == {4}
    assert {row["Version"] for row in rules.values()} == {1}
    assert _by_name(values, CONNECTIVITY) == {
        "WebProbeUrl": "http://directaccess-WebProbeHost.corp.example.net",
        "DnsProbeHost": "directaccess-corpConnectivityHost.corp.example.net",
        "DnsProbeContent": "fdc4:29bd:abde:7777::7f00:1",
        "SitePrefixes": "fdc4:29bd:abde:1::/64,fdc4:29bd:abde:7777::/96,"
        "fdc4:29bd:abde:1000::1/128,fdc4:29bd:abde:1000::2/128",
        "DomainLocationDeterminationUrl": "https://directaccess-nls.corp.example.net/",
    }
    assert _by_name(values, rf"{ASSISTANT}\DTEs") == {
        "DTE1": "PING:fdc4:29bd:abde:1000::1",
        "DTE2": "PING:fdc4:29bd:abde:1000::2",
    }
    probes = _by_name(values, rf"{ASSISTANT}\Probes")
    assert probes["Probe1"] == "HTTP:http://directaccess-WebProbeHost.corp.example.net"
    assert any(str(probe).startswith("PING:") for probe in probes.values()), "Windows wants one PING at least"


def test_no_ipsec_rule_is_exported(values: list[RegistryValue]) -> None:
    assert not [value for value in values if "Firewall" in value.key]
    assert {row["DirectAccessQueryIPSECRequired"] for row in _rules(values).values()} == {0}


def test_a_single_adapter_server_has_its_location_server_on_port_62000() -> None:
    settings = document(server={"internet_interface": "eth0", "internal_interface": "eth0"})
    found = _by_name(client_policy(settings, effective(settings)), CONNECTIVITY)
    assert found["DomainLocationDeterminationUrl"] == "https://directaccess-nls.corp.example.net:62000/"


def test_an_ipv6_only_intranet_has_the_loopback_address_as_probe() -> None:
    settings = document(nat64={"state": "disabled"})
    found = _by_name(client_policy(settings, effective(settings)), CONNECTIVITY)
    assert found["DnsProbeContent"] == "::1"


def test_a_location_server_elsewhere_is_named_and_exempt() -> None:
    for url, rule in (
        ("https://nls.corp.example.net/", "nls.corp.example.net"),
        ("https://inside.example.org:8443/x", None),
    ):
        settings = document(network_location_server={"url": url})
        values = client_policy(settings, effective(settings))
        assert _by_name(values, CONNECTIVITY)["DomainLocationDeterminationUrl"] == url
        if rule is not None:
            assert _rules(values)[rule]["DirectAccessDNSServers"] == ""
        assert "inside.example.org" not in _rules(values), "outside the rules nothing needs an exemption"


def test_texts_have_windows_limits() -> None:
    with pytest.raises(ValueError, match="friendly_name"):
        Texts(friendly_name="x" * 51)
    with pytest.raises(ValueError, match="support_email"):
        Texts(support_email="x" * 51)


def test_a_group_policy_backup_has_every_file_and_names_itself_alike(values: list[RegistryValue]) -> None:
    files = gpo.backup_files(values, domain="corp.example.net", now=NOW)
    backup = gpo.backup_id("corp.example.net", gpo.DEFAULT_NAME)
    manifest = "{http://www.microsoft.com/GroupPolicy/GPOOperations/Manifest}"
    listed = ElementTree.fromstring(files["manifest.xml"]).find(f"{manifest}BackupInst")
    alone = ElementTree.fromstring(files[f"{backup}/bkupInfo.xml"])
    assert listed is not None
    assert [(e.tag, e.text) for e in listed] == [(e.tag, e.text) for e in alone]
    assert alone.findtext(f"{manifest}ID") == backup
    assert alone.findtext(f"{manifest}BackupTime") == "2026-01-02T03:04:05"
    scheme = "{http://www.microsoft.com/GroupPolicy/GPOOperations}"
    core = ElementTree.fromstring(files[f"{backup}/Backup.xml"]).find(f".//{scheme}GroupPolicyCoreSettings")
    assert core is not None
    assert core.findtext(f"{scheme}ID") == alone.findtext(f"{manifest}GPOGuid")
    assert core.findtext(f"{scheme}DisplayName") == gpo.DEFAULT_NAME
    ElementTree.fromstring(files[f"{backup}/gpreport.xml"])
    assert parse(files[f"{backup}/DomainSysvol/GPO/Machine/registry.pol"]) == values


def test_the_same_deployment_exports_the_same_policy_again(settings: Settings, values: list[RegistryValue]) -> None:
    assert client_policy(settings, effective(settings)) == values


def test_the_reg_file_has_every_value_once(values: list[RegistryValue]) -> None:
    raw = texts.reg_bytes(values)
    assert raw[:2] == b"\xff\xfe"
    text = raw.decode("utf-16")
    assert text.startswith("Windows Registry Editor Version 5.00\r\n")
    assert len(re.findall(r'^"', text, flags=re.MULTILINE)) == len(values)
    assert '"IPHTTPS_ClientUrl"="https://da.example.net:443/IPHTTPS"' in text


def test_quotes_do_not_leave_their_text() -> None:
    evil = [RegistryValue("Software\\X", "n", Kind.SZ, "a'; Remove-Item 'C:\\\" & calc")]
    script = texts.powershell(evil, name="it's", domain="corp.example.net")
    assert "'a''; Remove-Item ''C:\\\" & calc'" in script
    assert "'it''s'" in script
    assert '"n"="a\'; Remove-Item \'C:\\\\\\" & calc"' in texts.reg_file(evil)


def test_the_script_sets_every_value_once(values: list[RegistryValue]) -> None:
    script = texts.powershell(values, name=gpo.DEFAULT_NAME, domain="corp.example.net")
    assert script.count("Set-Value $key") == len(values)
    assert "([string[]]@('.corp.example.net'))" in script
