"""Every code of the catalogue has an example here that causes it, and the plain document causes none."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.settings.diff import compare
from portico.settings.document import dump, load, load_data, load_file
from portico.settings.facts import CertificateFile, Facts, Interface, Kernel, Listener, SecretFile
from portico.settings.problems import CATALOGUE, SettingsRefused
from portico.settings.verify import catalogue_markdown, require, verify
from tests.unit.settings.user_examples import USER_EXAMPLES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "dns64": {"upstream_servers": ["10.0.0.53"]},
}
IMPORTED = {"mode": "imported", "server_certificate": "/a.pem", "server_key": "/a.key", "client_ca": ["/ca.pem"]}
MACHINE = Facts(
    now=NOW,
    interfaces={
        "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"),)),
        "eth1": Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface("fd7c:1a2b:3c4d:1::2/64"))),
    },
    resolved={"da.example.net": (ip_address("203.0.113.11"),)},
    kernel=Kernel("6.1"),
    processors=2,
)
SERVER_FILE = CertificateFile(
    "certificates.server_certificate",
    "/a.pem",
    names=("da.example.net",),
    common_name="da.example.net",
    not_before=NOW - timedelta(days=1),
    not_after=NOW + timedelta(days=365),
    key_matches=True,
)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The plain document with `section.key` paths replaced."""
    data = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key:
            data.setdefault(section, {})[key] = value
        else:
            data[section] = value
    return data


def machine(**changes: Any) -> Facts:
    return replace(MACHINE, **changes)


def with_file(**changes: Any) -> Facts:
    return machine(certificate_files=(replace(SERVER_FILE, **changes),))


def with_interfaces(**changes: Interface) -> Facts:
    assert MACHINE.interfaces is not None
    return machine(interfaces={**MACHINE.interfaces, **changes})


ORGANISATION = "deployment.organisation_prefix"
CONNECT_TO = "deployment.connect_to"
CLIENT = "ip_https.client_prefix"
POOL = "nat64.ipv4_address_port_pool"
MAPPING = "nat64.prefix_mapping"
STATIC = "nat64.static_bindings"
FORWARDING = "dns64.conditional_forwarding"
BINDING: dict[str, Any] = {
    "protocol": "tcp",
    "client": "fd7c:1a2b:3c4d:1000::5",
    "client_port": 22,
    "address": "10.0.0.2",
    "port": 50022,
}


def static(**changes: Any) -> dict[str, Any]:
    return {STATIC: [{**BINDING, **changes}]}


BALANCING: dict[str, Any] = {
    "internet_virtual_addresses": ["203.0.113.11/24"],
    "internal_virtual_addresses": ["10.0.0.2/24", "fd7c:1a2b:3c4d:1::2/64"],
    "servers": [
        {
            "name": "da1",
            "priority": 1,
            "internet_dedicated_addresses": ["203.0.113.12/24"],
            "internal_dedicated_addresses": ["10.0.0.12/24", "fd7c:1a2b:3c4d:1::12/64"],
        },
        {
            "name": "da2",
            "priority": 2,
            "internet_dedicated_addresses": ["203.0.113.13/24"],
            "internal_dedicated_addresses": ["10.0.0.13/24", "fd7c:1a2b:3c4d:1::13/64"],
        },
    ],
}


def balanced(**changes: Any) -> dict[str, Any]:
    """A cluster of two with changes; `da1__key` and `da2__key` change an entry of a server."""
    section = copy.deepcopy(BALANCING)
    for key, value in changes.items():
        server, _, name = key.partition("__")
        if name:
            section["servers"][int(server[-1]) - 1][name] = value
        else:
            section[key] = value
    return {"load_balancing": section}


def rule(**changes: Any) -> dict[str, Any]:
    return balanced(port_rules=[changes])


def nine_servers() -> dict[str, Any]:
    servers = [
        {
            "name": f"da{n}",
            "priority": n,
            "internet_dedicated_addresses": [f"203.0.113.{20 + n}/24"],
            "internal_dedicated_addresses": [f"10.0.0.{20 + n}/24", f"fd7c:1a2b:3c4d:1::{20 + n}/64"],
        }
        for n in range(1, 10)
    ]
    return balanced(servers=servers)


NLS = "network_location_server"
NLS_NAME = "directaccess-nls.corp.example.net"
IMPORTED_SETTINGS: dict[str, Any] = {"certificates": IMPORTED, NLS: {"certificate": "/n.pem", "key": "/n.key"}}


def with_nls_file(**changes: Any) -> Facts:
    found = replace(SERVER_FILE, setting=f"{NLS}.certificate", file="/n.pem", names=(NLS_NAME,), common_name=NLS_NAME)
    return machine(certificate_files=(SERVER_FILE, replace(found, **changes)))


EXAMPLES: dict[str, tuple[dict[str, Any], Facts]] = {
    **USER_EXAMPLES,
    "ORGANISATION_PREFIX_LENGTH": ({ORGANISATION: "fd00::/56"}, MACHINE),
    "ORGANISATION_PREFIX_KIND": ({ORGANISATION: "fe80::/48"}, MACHINE),
    "CLIENT_PREFIX_LENGTH": ({CLIENT: "fd7c:1a2b:3c4d:1000::/56"}, MACHINE),
    "NAT64_PREFIX_LENGTH": ({"nat64.prefix": "fd7c:1a2b:3c4d:7777::/64"}, MACHINE),
    "NAT64_PREFIX_BITS": ({"nat64.prefix": "fd7c:1a2b:3c4d:7777:100::/96"}, MACHINE),
    "NAT64_PREFIX_WELL_KNOWN": ({"nat64.prefix": "64:ff9b::/96"}, MACHINE),
    "NAT64_PREFIX_TWICE": ({"nat64.prefix": "fd00:9::/96", MAPPING: ["fd00:9::/96,0.0.0.0/0"]}, MACHINE),
    "PREFIX_MAPPING_DUPLICATE": ({MAPPING: ["fd00:9::/96,10.0.0.0/8", "fd00:8::/96,10.0.0.0/8"]}, MACHINE),
    "DNS64_PREFIX_NOT_TRANSLATED": ({"dns64.prefix_mapping": ["fd00:9::/96,0.0.0.0/0"]}, MACHINE),
    "NAT64_POOL_ROUTED": ({POOL: ["10.99.0.1,20000-40000"]}, MACHINE),
    "NAT64_LIMITS": ({"nat64.max_bindings": 1000}, MACHINE),
    "STATIC_BINDING_CLIENT": (static(client="2001:db8::5"), MACHINE),
    "STATIC_BINDING_ADDRESS": (static(address="10.9.9.9"), MACHINE),
    "STATIC_BINDING_DUPLICATE": ({STATIC: [BINDING, {**BINDING, "client_port": 23}]}, MACHINE),
    "STATIC_BINDING_IN_USE": (static(), machine(listeners=(Listener("tcp", ip_address("0.0.0.0"), 50022, "sshd"),))),
    "STATIC_BINDING_BUSY": (static(), machine(connections=(Listener("tcp", ip_address("10.0.0.2"), 50022),))),
    "STATIC_BINDING_FILTERED": (static() | {"nat64.filtering": "address_dependent"}, MACHINE),
    "STATIC_BINDING_MANAGE_OUT": (static() | {"access.manage_out": False}, MACHINE),
    "PREFIX_OVERLAP": ({CLIENT: "fd7c:1a2b:3c4d:1::/64"}, MACHINE),
    "INTRANET_PREFIX_DUPLICATE": ({"addresses.intranet_prefixes": ["fd00:9::/48", "fd00:9:0:1::/64"]}, MACHINE),
    "TOO_MANY_ROUTES": ({"addresses.intranet_prefixes": [f"fd00:{i:x}::/48" for i in range(40)]}, MACHINE),
    "MANAGE_OUT_IPV4": ({"access.manage_out": {"from": ["10.0.0.0/24"]}}, MACHINE),
    "MANAGE_OUT_EMPTY": ({"access.manage_out": {"from": []}}, MACHINE),
    "ACCESS_UNREACHABLE": ({"access.intranet": ["2001:db8:9::/48"]}, MACHINE),
    "ACCESS_NOTHING": ({"access.intranet": []}, MACHINE),
    "BACKUP_INCOMPLETE": ({"backup.state": "enabled", "backup.directory": "/mnt/safe"}, MACHINE),
    "ALERTS_DUPLICATE": ({"alerts.syslog": [{"address": "unix:/dev/log"}] * 2}, MACHINE),
    "ALERTS_SYSLOG_OPEN": ({"alerts.syslog": [{"address": "tcp://[2001:db8::5]:601"}]}, MACHINE),
    "DNS64_NO_UPSTREAM": ({"dns64.upstream_servers": []}, MACHINE),
    "DNS64_UPSTREAM_LOOP": ({"dns64.upstream_servers": ["fd7c:1a2b:3c4d:3333::1"]}, MACHINE),
    "DNS64_UPSTREAM_DUPLICATE": ({"dns64.upstream_servers": ["10.0.0.53", "10.0.0.53:53"]}, MACHINE),
    "DNS64_SYNTHESIS_CONFLICT": ({"dns64.always_synthesize": True}, MACHINE),
    "DNS64_WITHOUT_NAT64": ({"nat64.state": "disabled"}, MACHINE),
    "DNS64_FORWARDING_DUPLICATE": (
        {FORWARDING: [{"suffix": "x.org", "servers": ["10.0.0.1"]}, {"suffix": ".X.org.", "servers": ["10.0.0.2"]}]},
        MACHINE,
    ),
    "DNS64_FORWARDING_EMPTY": ({FORWARDING: [{"suffix": "x.org", "servers": []}]}, MACHINE),
    "DNS64_ACCEPT_INTERNET": ({"dns64.accept_interface": ["eth0"]}, MACHINE),
    "DNS64_ACCEPT_SINGLE": ({"dns64.accept_interface": ["eth1"], "server.internet_interface": "eth1"}, MACHINE),
    "NRPT_DUPLICATE": ({"nrpt": {"rules": [{"namespace": ".x.org"}], "exemptions": [".X.org."]}}, MACHINE),
    "NRPT_CONNECT_TO": ({"nrpt.rules": [{"namespace": "da.example.net"}]}, MACHINE),
    "NRPT_NO_SERVERS": ({"dns64.state": "disabled"}, MACHINE),
    "NRPT_IPV4_SERVER": ({"nrpt.rules": [{"namespace": ".x.org", "dns_servers": ["10.0.0.53"]}]}, MACHINE),
    "NRPT_EVERYTHING": ({"nrpt.rules": [{"namespace": "."}]}, MACHINE),
    "INTERFACE_MISSING": ({"server.internet_interface": "eth9"}, MACHINE),
    "INTERFACE_DOWN": ({}, with_interfaces(eth1=Interface("eth1", False, (ip_interface("10.0.0.2/24"),)))),
    "INTERFACE_NO_ADDRESS": ({}, with_interfaces(eth0=Interface("eth0", True, (ip_interface("fe80::1/64"),)))),
    "INTERNAL_IPV4_MISSING": ({}, with_interfaces(eth1=Interface("eth1", True, (ip_interface("fd00::1/64"),)))),
    "ADDRESS_NOT_LOCAL": ({"server.internal_ipv4": "10.9.9.9"}, MACHINE),
    "NAT64_POOL_OVERLAP": ({POOL: ["10.0.0.2,2000-4000", "10.0.0.2,3500-6000"]}, MACHINE),
    "NAT64_POOL_SMALL": ({POOL: ["10.0.0.2,5000-5100"]}, MACHINE),
    "NAT64_POOL_TAKES_ALL": ({POOL: ["10.0.0.2,*"]}, MACHINE),
    "NAT64_POOL_IN_USE": (
        {POOL: ["10.0.0.2,5000-9000"]},
        machine(listeners=(Listener("udp", ip_address("10.0.0.2"), 8080, "dnsmasq"),)),
    ),
    "NAT64_POOL_BUSY": ({}, machine(connections=(Listener("tcp", ip_address("10.0.0.2"), 40000),))),
    "LISTENER_PORT_IN_USE": ({}, machine(listeners=(Listener("tcp", ip_address("::"), 443, "nginx"),))),
    "CONNECT_TO_UNRESOLVED": ({}, machine(resolved={"da.example.net": ()})),
    "CONNECT_TO_ELSEWHERE": ({CONNECT_TO: "198.51.100.7"}, MACHINE),
    "KERNEL_LACKS": ({}, machine(kernel=Kernel("6.1", tun=False))),
    "TOO_MANY_WORKERS": ({"server.workers": 64}, MACHINE),
    "CERTIFICATE_NOT_NAMED": ({"certificates.mode": "imported"}, MACHINE),
    "CERTIFICATE_IGNORED": ({"certificates.server_key": "/a.key"}, MACHINE),
    "CERTIFICATE_RENEW_WINDOW": ({"certificates.client_lifetime_days": 20}, MACHINE),
    "AUTHENTICATION_NONE": ({"ip_https.authentication": "none"}, MACHINE),
    "CERTIFICATE_FILE_MISSING": (IMPORTED_SETTINGS, with_file(trouble="missing")),
    "CERTIFICATE_FILE_EMPTY": (IMPORTED_SETTINGS, with_file(trouble="empty")),
    "CERTIFICATE_FILE_NOT_READABLE": (IMPORTED_SETTINGS, with_file(trouble="not_readable", detail="a directory")),
    "CERTIFICATE_FILE_TRUNCATED": (IMPORTED_SETTINGS, with_file(trouble="truncated", detail="no end")),
    "CERTIFICATE_FILE_WRONG_KIND": (IMPORTED_SETTINGS, with_file(trouble="not_pem", detail="a key")),
    "CERTIFICATE_KEY_ENCRYPTED": (IMPORTED_SETTINGS, with_file(trouble="encrypted")),
    "CERTIFICATE_NOT_CA": (IMPORTED_SETTINGS, with_file(trouble="not_ca")),
    "CRL_NOT_OURS": (IMPORTED_SETTINGS, with_file(trouble="foreign")),
    "CERTIFICATE_KEY_MISMATCH": (IMPORTED_SETTINGS, with_file(key_matches=False)),
    "CERTIFICATE_NAME_MISMATCH": (IMPORTED_SETTINGS, with_file(names=("www.example.net",))),
    "CERTIFICATE_NO_SAN": (IMPORTED_SETTINGS, with_file(names=())),
    "CERTIFICATE_NO_SUBJECT": (IMPORTED_SETTINGS, with_file(has_subject=False)),
    "CERTIFICATE_USAGE": (IMPORTED_SETTINGS, with_file(server_auth=False)),
    "CERTIFICATE_EXPIRED": (IMPORTED_SETTINGS, with_file(not_after=NOW)),
    "CERTIFICATE_EXPIRES_SOON": (IMPORTED_SETTINGS, with_file(not_after=NOW + timedelta(days=7))),
    "CERTIFICATE_NOT_YET_VALID": (IMPORTED_SETTINGS, with_file(not_before=NOW + timedelta(hours=1))),
    "LB_CLIENT_PREFIX": (balanced() | {CLIENT: "fd7c:1a2b:3c4d:1000::/64"}, MACHINE),
    "MANAGEMENT_CERTIFICATE_HALF": ({"management.certificate_file": "/etc/portico/api.pem"}, MACHINE),
    "MANAGEMENT_PORT": ({"management.port": 2505}, MACHINE),
    "MANAGEMENT_OIDC_ISSUER": (
        {"management.oidc": {"issuer": "http://login.example.net", "client_id": "portico"}},
        MACHINE,
    ),
    "MANAGEMENT_OIDC_SCOPE": (
        {"management.oidc": {"issuer": "https://login.example.net", "client_id": "portico", "scopes": ["profile"]}},
        MACHINE,
    ),
    "MANAGEMENT_OIDC_UNUSED": (
        {"management.roles": [{"source": "oidc_group", "name": "admins", "role": "administrator"}]},
        MACHINE,
    ),
    "MANAGEMENT_INTERNET": ({"management.listen": ["203.0.113.11"]}, MACHINE),
    "LB_NO_SERVERS": (balanced(servers=[]), MACHINE),
    "STORE_ALONE": ({"store": {"kind": "etcd", "generation": "0123456789ab"}}, MACHINE),
    "STORE_GENERATION": (balanced() | {"store": {"kind": "etcd"}}, MACHINE),
    "STORE_EXISTING": ({"store": {"endpoints": ["https://etcd.corp.example.net:2379"]}}, MACHINE),
    "STORE_WITNESS": (
        balanced()
        | {"store": {"witness": {"name": "da2", "address": "10.0.0.9", "fingerprint": "0" * 64, "serial": "1f"}}},
        MACHINE,
    ),
    "LB_TOO_MANY_SERVERS": (nine_servers(), MACHINE),
    "LB_NOT_A_MEMBER": (balanced(), machine(own_name="da7")),
    "LB_NOT_UNIQUE": (balanced(da2__priority=1), MACHINE),
    "LB_PREFIX_INDEX": (balanced(client_addresses="per-server", da2__server_prefix_index=0), MACHINE),
    "LB_NONE_STARTED": (balanced(da1__state="stopped", da2__weight=0), MACHINE),
    "LB_DETECTION_TOO_FAST": (balanced(missed_heartbeats=3), MACHINE),
    "LB_RULE_RANGE": (rule(first_port=500, last_port=400), MACHINE),
    "LB_RULE_OVERLAP": (balanced(port_rules=[{}, {"protocol": "tcp", "first_port": 443, "last_port": 443}]), MACHINE),
    "LB_RULE_ADDRESS": (rule(virtual_address="203.0.113.99"), MACHINE),
    "LB_RULE_FRAGMENTS": (rule(affinity="none"), MACHINE),
    "LB_TAKEOVER_MODE": (balanced(mode="multicast", takeover=True), MACHINE),
    "LB_RULE_TIMEOUT": (rule(protocol="tcp", affinity="none", timeout_minutes=10), MACHINE),
    "LB_VIP_MISSING": (balanced(internet_virtual_addresses=[]), MACHINE),
    "LB_DIP_MISSING": (balanced(da2__internal_dedicated_addresses=["10.0.0.13/24"]), MACHINE),
    "LB_PREFIX_LENGTH": (balanced(da1__internet_dedicated_addresses=["203.0.113.12/25"]), MACHINE),
    "LB_DIP_WITHOUT_VIP": (balanced(internal_virtual_addresses=["10.0.0.2/24"]), MACHINE),
    "LB_ADDRESS_TWICE": (balanced(da2__internet_dedicated_addresses=["203.0.113.12/24"]), MACHINE),
    "LB_DIP_IS_VIP": (balanced(da1__internet_dedicated_addresses=["203.0.113.11/24"]), MACHINE),
    "LB_DNS64_ADDRESS": (
        balanced(internal_virtual_addresses=["10.0.0.2/24", "fd7c:1a2b:3c4d:3333::1/64"]),
        MACHINE,
    ),
    "LB_ADDRESS_OF_CLIENTS": (
        balanced(internal_virtual_addresses=["10.0.0.2/24", "fd7c:1a2b:3c4d:1000::1/64"]),
        MACHINE,
    ),
    "LB_SINGLE_INTERFACE": (balanced() | {"server.internet_interface": "eth1"}, MACHINE),
    "LB_ADDRESS_IN_USE": (balanced(), machine(in_use={ip_address("203.0.113.12"): "02:00:00:00:00:07"})),
    "LB_VIP_IN_USE": (balanced(), machine(in_use={ip_address("10.0.0.2"): "02:00:00:00:00:07"})),
    "LB_BOTH_ON_INTERFACE": (
        balanced(),
        with_interfaces(
            eth0=Interface("eth0", addresses=(ip_interface("203.0.113.11/24"), ip_interface("203.0.113.12/24")))
        ),
    ),
    "LB_INTERFACE_NETWORK": (
        balanced(),
        with_interfaces(eth0=Interface("eth0", addresses=(ip_interface("203.0.113.11/25"),))),
    ),
    "LB_NO_IPV6_VIP": (
        balanced(
            internal_virtual_addresses=["10.0.0.2/24"],
            da1__internal_dedicated_addresses=["10.0.0.12/24"],
            da2__internal_dedicated_addresses=["10.0.0.13/24"],
        ),
        MACHINE,
    ),
    "LB_VIP_TEMPORARY": (
        balanced(),
        with_interfaces(
            eth0=Interface(
                "eth0",
                addresses=(ip_interface("203.0.113.11/24"),),
                temporary=frozenset({ip_address("203.0.113.11")}),
            )
        ),
    ),
    "LB_TOPOLOGY": (balanced(da2__internet_interface="eth1"), MACHINE),
    "NOT_SUPPORTED": ({"isatap.state": "enabled"}, MACHINE),
    "VPN_PREFIX_LENGTH": (balanced() | {"vpn.ipv6_prefix": "fd7c:1a2b:3c4d:2000::/64"}, MACHINE),
    "VPN_DHCP_IN_CLUSTER": (balanced() | {"vpn": {"state": "enabled", "ip_address_assignment": "dhcp"}}, MACHINE),
    "VPN_POOL_MISSING": ({"vpn.state": "enabled"}, MACHINE),
    "VPN_POOL_OVERLAP": (
        balanced(
            da1__vpn_ip_address_ranges=["10.1.0.10,10.1.0.99"], da2__vpn_ip_address_ranges=["10.1.0.50,10.1.0.150"]
        )
        | {"vpn.state": "enabled"},
        MACHINE,
    ),
    "VPN_POOL_UNUSED": (balanced(da2__vpn_ip_address_ranges=["10.1.0.10,10.1.0.99"]), MACHINE),
    "VPN_POOL_OF_CLUSTER": (balanced() | {"vpn.ip_address_ranges": ["10.1.0.10,10.1.0.99"]}, MACHINE),
    "VPN_POOL_TAKEN": (
        balanced(da1__vpn_ip_address_ranges=["10.0.0.10,10.0.0.99"]) | {"vpn.state": "enabled"},
        MACHINE,
    ),
    "TEREDO_EXTERNAL_MANAGE_OUT": (balanced(mode="external") | {"teredo.state": "enabled"}, MACHINE),
    "TEREDO_ADDRESSES": ({"teredo.state": "enabled"}, MACHINE),
    "ISATAP_BALANCED": (balanced() | {"isatap.state": "enabled"}, MACHINE),
    "KERBEROS_PROXY_BALANCED": (balanced() | {"authentication.kerberos_proxy": "enabled"}, MACHINE),
    "FORCE_TUNNEL_TWO_FACTOR": (
        {"authentication.two_factor": "enabled", "remote_clients.force_tunnel": "enabled"},
        MACHINE,
    ),
    "LB_TLS_TERMINATION": (balanced(mode="external", tls_termination="enabled"), MACHINE),
    "CRL_OUTDATED": (IMPORTED_SETTINGS, with_file(next_update=NOW - timedelta(days=1))),
    "NLS_NAME_IS_SERVER": ({f"{NLS}.name": "DA1.corp.example.net"}, MACHINE),
    "NLS_THROUGH_TUNNEL": ({"nrpt.rules": [{"namespace": NLS_NAME}]}, MACHINE),
    "NLS_CERTIFICATE_NOT_NAMED": ({"certificates": IMPORTED}, MACHINE),
    "NLS_CERTIFICATE_IGNORED": ({f"{NLS}.certificate": "/n.pem"}, MACHINE),
    "NLS_CERTIFICATE_NAME": (IMPORTED_SETTINGS, with_nls_file(names=("www.example.net",))),
    "NLS_CERTIFICATE_IS_SERVERS": (IMPORTED_SETTINGS, with_nls_file(names=(NLS_NAME, "da.example.net"))),
    "NLS_CERTIFICATE_KEY_MISMATCH": (IMPORTED_SETTINGS, with_nls_file(key_matches=False)),
    "LOCATION_PORT_CONFLICT": ({"web_probe.port": 443}, MACHINE),
    "LOCATION_PORT_IN_USE": ({}, machine(listeners=(Listener("tcp", ip_address("10.0.0.2"), 80, "nginx"),))),
    "CORPORATE_DNS_ZONE": ({"corporate_dns.zone": "other.example.net"}, MACHINE),
    "CORPORATE_DNS_NO_KEY": ({"corporate_dns.update": "tsig"}, MACHINE),
    "CORPORATE_DNS_KEY_IGNORED": ({"corporate_dns.key_file": "/dns.key"}, MACHINE),
    "CORPORATE_DNS_KEY_FILE": (
        {"corporate_dns": {"update": "tsig", "key_file": "/dns.key"}},
        machine(secret_files=(SecretFile("corporate_dns.key_file", "/dns.key", "it is missing", "Make it"),)),
    ),
    "CORP_CONNECTIVITY_UNTRANSLATED": ({MAPPING: ["fd7c:1a2b:3c4d:7777::/96,10.0.0.0/8"]}, MACHINE),
}

TEXT_EXAMPLES = {
    "SETTINGS_NOT_TEXT": b"\xff",
    "SETTINGS_SYNTAX": b"server: {name: da1",
    "SETTINGS_DUPLICATE_KEY": b"drift: repair\ndrift: report",
    "SETTINGS_SCHEMA_VERSION": b"schema_version: 99",
    "SETTINGS_UNKNOWN_KEY": b"schema_version: 1\nip_https: {prot: 443}",
    "SETTINGS_MISSING": b"schema_version: 1\nserver: {name: da1}",
    "SETTINGS_INVALID": b"schema_version: 1\nip_https: {port: 70000}",
}


def test_the_plain_document_has_no_problem() -> None:
    assert verify(load_data(PLAIN), MACHINE) == []
    assert verify(load_data(PLAIN)) == []
    assert verify(load_data(changed(IMPORTED_SETTINGS)), with_file()) == []


def test_every_code_has_an_example() -> None:
    from tests.unit.settings.test_machines import MACHINES_EXAMPLES
    from tests.unit.settings.test_order import ORDER_EXAMPLES

    elsewhere = {*ORDER_EXAMPLES, *MACHINES_EXAMPLES, "SETTINGS_FILE"}
    assert {*EXAMPLES, *TEXT_EXAMPLES} | elsewhere == set(CATALOGUE)
    assert all(kind.example for kind in CATALOGUE.values())


@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_an_example_causes_its_problem(code: str) -> None:
    changes, facts = EXAMPLES[code]
    settings = load_data(changed(changes))
    found = [problem for problem in verify(settings, facts) if problem.code == code]
    assert found, [problem.code for problem in verify(settings, facts)]
    for problem in found:
        assert problem.severity == CATALOGUE[code].severity
        for text in (problem.what, problem.why, problem.resolution):
            assert text and "{" not in text and not text.endswith("."), text
    if CATALOGUE[code].severity == "error":
        with pytest.raises(SettingsRefused):
            require(settings, facts)
    assert load(dump(settings)) == settings


@pytest.mark.parametrize("code", sorted(TEXT_EXAMPLES))
def test_a_text_causes_its_problem(code: str) -> None:
    with pytest.raises(SettingsRefused) as caught:
        load(TEXT_EXAMPLES[code])
    assert code in {problem.code for problem in caught.value.problems}


def test_a_missing_file_causes_its_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused) as caught:
        load_file(tmp_path / "none.yaml")
    assert caught.value.problems[0].code == "SETTINGS_FILE"


def test_errors_come_before_warnings() -> None:
    settings = load_data(changed({"access.intranet": [], "dns64.upstream_servers": []}))
    assert [problem.severity for problem in verify(settings, MACHINE)] == ["error", "warning"]


def test_a_wildcard_covers_one_label() -> None:
    settings = load_data(changed(IMPORTED_SETTINGS))
    assert verify(settings, with_file(names=("*.example.net",))) == []
    for name in ("*.net", "*.corp.example.net", "*"):
        assert [p.code for p in verify(settings, with_file(names=(name,)))] == ["CERTIFICATE_NAME_MISMATCH"]


def test_an_address_as_connect_to_must_be_in_the_certificate_as_an_address() -> None:
    settings = load_data(changed({**IMPORTED_SETTINGS, CONNECT_TO: "203.0.113.11"}))
    assert verify(settings, with_file(names=("203.0.113.11",))) == []
    assert [p.code for p in verify(settings, with_file())] == ["CERTIFICATE_NAME_MISMATCH"]


def test_an_organisation_may_list_its_whole_48_and_have_its_dns64_address_in_it() -> None:
    settings = load_data(
        changed(
            {
                "addresses.intranet_prefixes": ["fd7c:1a2b:3c4d::/48", "2001:db8:1::/64"],
                "dns64.address": "2001:db8:1::2",
            }
        )
    )
    assert [p.code for p in verify(settings, MACHINE) if p.severity == "error"] == []


def test_a_listener_on_another_address_does_not_matter() -> None:
    facts = machine(listeners=(Listener("tcp", ip_address("127.0.0.1"), 443, "x"),))
    assert verify(load_data(PLAIN), facts) == []


def test_the_documentation_of_problems_is_current() -> None:
    path = Path(__file__).parents[3] / "docs" / "problems.md"
    hint = "python -c 'from portico.settings.verify import *; print(catalogue_markdown(), end=\"\")' > docs/problems.md"
    assert path.read_text() == catalogue_markdown(), f"write it again with: {hint}"


prefixes = st.sampled_from(
    ["fd00::/48", "fd00::/56", "fd00:0:0:1::/64", "64:ff9b::/96", "::/0", "fe80::/10", "ff00::/8"]
)


@given(prefixes, prefixes, prefixes, st.lists(prefixes, max_size=3), st.booleans())
def test_verify_never_raises(a: str, b: str, c: str, d: list[str], known: bool) -> None:
    changes = {ORGANISATION: a, CLIENT: b, "nat64.prefix": c, "addresses.intranet_prefixes": d, "access.intranet": d}
    for problem in verify(load_data(changed(changes)), MACHINE if known else None):
        assert str(problem)


@pytest.mark.parametrize(
    ("address", "port", "told"),
    [("10.0.0.2", 40000, True), ("::", 40000, True), ("10.0.0.2", 22, False), ("203.0.113.11", 40000, False)],
)
def test_sockets_of_the_machine_in_the_default_pool_are_told(address: str, port: int, told: bool) -> None:
    for field in ("connections", "listeners"):
        facts = machine(**{field: (Listener("tcp", ip_address(address), port),)})
        assert ("NAT64_POOL_BUSY" in {p.code for p in verify(load_data(PLAIN), facts)}) is told


def codes(changes: dict[str, Any], facts: Facts = MACHINE) -> set[str]:
    return {problem.code for problem in verify(load_data(changed(changes)), facts)}


@pytest.mark.parametrize(
    ("network", "refused"),
    [("0.0.0.0/0", True), ("10.1.0.0/16", True), ("160.0.0.0/3", True), ("8.0.0.0/8", False), ("193.0.0.0/8", False)],
)
def test_the_well_known_prefix_stands_for_global_addresses_only(network: str, refused: bool) -> None:
    changes = {MAPPING: ["fd7c:1a2b:3c4d:7777::/96,0.0.0.0/0", f"64:ff9b::/96,{network}"]}
    if network == "0.0.0.0/0":
        changes[MAPPING].pop(0)
    assert ("NAT64_PREFIX_WELL_KNOWN" in codes(changes)) is refused


def test_prefixes_may_share_networks_of_different_length_and_one_prefix_several_networks() -> None:
    both = ["fd00:9::/96,0.0.0.0/0", "fd00:8::/96,10.9.0.0/16", "fd00:8::/96,10.8.0.0/16"]
    assert codes({MAPPING: both, "dns64.prefix_mapping": both[:2]}) == set()
    assert codes({MAPPING: both, "dns64.prefix_mapping": ["fd00:8::/96,10.0.0.0/8"]}) == {"DNS64_PREFIX_NOT_TRANSLATED"}
    assert codes({MAPPING: ["fd7c:1a2b:3c4d:1::/96,0.0.0.0/0"]}) == {"PREFIX_OVERLAP"}
    assert codes({MAPPING: ["fd00:9::/64,0.0.0.0/0"]}) == {"NAT64_PREFIX_LENGTH"}


def test_pool_addresses_are_on_the_internal_interface_or_routed_here() -> None:
    both = {POOL: ["10.0.0.2,20000-30000", "10.0.0.3,20000-30000"]}
    assert codes(both) == {"ADDRESS_NOT_LOCAL"}, "nobody would answer for it on the link"
    eth1 = Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface("10.0.0.3/24")))
    assert codes(both, with_interfaces(eth1=eth1)) == set()
    lo = Interface("lo", addresses=(ip_interface("127.0.0.1/8"), ip_interface("10.99.0.1/32")))
    assert codes({POOL: ["10.99.0.1,20000-30000"]}, with_interfaces(lo=lo)) == {"NAT64_POOL_ROUTED"}
    assert codes({POOL: ["203.0.113.11,20000-30000"]}) == {"ADDRESS_NOT_LOCAL"}, "the Internet's side"


def test_a_listener_matters_on_the_pool_address_it_is_on() -> None:
    eth1 = Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface("10.0.0.3/24")))
    changes = {POOL: ["10.0.0.2,20000-30000", "10.0.0.3,40000-50000"]}
    for address, port, told in (("10.0.0.3", 25000, False), ("10.0.0.3", 45000, True), ("0.0.0.0", 25000, True)):
        listeners = (Listener("udp", ip_address(address), port, "x"),)
        facts = replace(with_interfaces(eth1=eth1), listeners=listeners)
        assert ("NAT64_POOL_IN_USE" in codes(changes, facts)) is told


def test_static_bindings_without_an_address_take_the_first_of_the_pool() -> None:
    assert codes(static(address=None)) == set()
    twice = [{**BINDING, "address": None}, {**BINDING, "client_port": 23}]
    assert codes({STATIC: twice}) == {"STATIC_BINDING_DUPLICATE"}
    other = [BINDING, {**BINDING, "protocol": "udp"}]
    assert codes({STATIC: other}) == set()
    assert codes({STATIC: [BINDING, {**BINDING, "port": 50023}]}) == {"STATIC_BINDING_DUPLICATE"}, "one client port"
    assert codes(static(client="fd7c:1a2b:3c4d:1000::1")) == {"STATIC_BINDING_CLIENT"}, "the server itself"
    single = static(port=443) | {"server.internet_interface": "eth1"}
    assert "STATIC_BINDING_IN_USE" in codes(single)


def test_thousands_of_static_bindings_are_judged_quickly() -> None:
    client = "fd7c:1a2b:3c4d:1000::"
    many = [{**BINDING, "client": f"{client}{n + 16:x}", "port": 1024 + n} for n in range(4096)]
    sockets = tuple(Listener("tcp", ip_address("10.0.0.2"), 10_000 + n % 20_000) for n in range(20_000))
    settings, facts = load_data(changed({STATIC: many})), machine(connections=sockets, listeners=sockets)
    started = time.process_time()
    assert {problem.code for problem in verify(settings, facts)} <= {"NAT64_POOL_BUSY"}
    compare(load_data(PLAIN), settings)
    assert time.process_time() - started < 2.0


def test_manage_out_of_ipv4_hosts_goes_through_static_bindings() -> None:
    sources = {"access.manage_out": {"from": ["10.0.0.9/32"]}}
    assert codes(sources) == {"MANAGE_OUT_IPV4"}
    assert codes(sources | static()) == set()
    assert codes({"access.manage_out": {"from": ["fd00:9::/64"]}} | static()) == {"STATIC_BINDING_MANAGE_OUT"}


def test_interfaces_that_dns64_answers_on_exist() -> None:
    assert codes({"dns64.accept_interface": ["eth1"]}) == set()
    assert codes({"dns64.accept_interface": ["eth9"]}) == {"INTERFACE_MISSING"}


def test_a_sound_cluster_has_no_problem_on_any_of_its_machines() -> None:
    assert codes(balanced()) == set()
    assert codes(balanced() | {"server.internal_ipv4": "10.0.0.2", POOL: ["10.0.0.2,20000-30000"]}) == set()
    joined = machine(
        own_name="da2",
        interfaces={
            "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.13/24"),)),
            "eth1": Interface(
                "eth1", addresses=(ip_interface("10.0.0.13/24"), ip_interface("fd7c:1a2b:3c4d:1::13/64"))
            ),
        },
    )
    assert codes(balanced(), joined) == set(), "its own addresses are its dedicated ones, the VIPs come to lo"
    assert codes(balanced() | {CLIENT: "fd7c:1a2b:3c4d:1000::/59"}) == set()
    assert codes(balanced(client_addresses="per-server")) == set()


def single_adapter(*addresses: str) -> dict[str, Any]:
    server = {"name": "da1", "priority": 1, "internal_dedicated_addresses": list(addresses)}
    section = {"internal_virtual_addresses": ["10.0.0.2/24"], "servers": [server]}
    return {"server.internet_interface": "eth1", "load_balancing": section}


def test_an_ipv4_only_single_adapter_needs_no_ipv6_address_and_takes_none() -> None:
    """The known issue of Windows: it asks for an IPv6 DIP because of the DNS64 address, and then refuses it."""
    eth1 = Interface("eth1", addresses=(ip_interface("10.0.0.2/24"),))
    facts = replace(with_interfaces(eth1=eth1), resolved={"da.example.net": (ip_address("10.0.0.2"),)})
    assert codes(single_adapter("10.0.0.12/24"), facts) == set()
    (problem,) = verify(load_data(changed(single_adapter("10.0.0.12/24", "fd7c:1a2b:3c4d:1::12/64"))), facts)
    assert problem.code == "LB_DIP_WITHOUT_VIP"
    assert "has no IPv6 virtual address" in problem.resolution
    wrong = single_adapter("10.0.0.12/24", "fd7c:1a2b:3c4d:3333::2/64")
    assert codes(wrong, facts) == {"LB_DIP_WITHOUT_VIP"}
    assert "LB_DNS64_ADDRESS" in codes(single_adapter("10.0.0.12/24", "fd7c:1a2b:3c4d:3333::1/128"), facts)


def test_a_single_adapter_may_repeat_its_addresses_on_the_internet_side() -> None:
    changes = single_adapter("10.0.0.12/24")
    changes["load_balancing"]["internet_virtual_addresses"] = ["10.0.0.2/24"]
    changes["load_balancing"]["servers"][0]["internet_dedicated_addresses"] = ["10.0.0.12/24"]
    assert codes(changes) == {"CONNECT_TO_ELSEWHERE", "LB_NO_IPV6_VIP"}, "warnings only"
    twice = balanced(da1__internal_dedicated_addresses=["203.0.113.12/24", "10.0.0.12/24", "fd7c:1a2b:3c4d:1::12/64"])
    assert "LB_ADDRESS_TWICE" in codes(twice), "two adapters"


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([], set()),
        ([{"protocol": "tcp", "affinity": "none"}, {"protocol": "udp"}], set()),
        ([{"mode": "disabled", "affinity": "none"}], set()),
        ([{"protocol": "tcp"}, {"protocol": "both", "first_port": 9}], {"LB_RULE_OVERLAP"}),
        ([{"virtual_address": "10.0.0.2"}, {"virtual_address": "203.0.113.11"}], set()),
        ([{"virtual_address": "10.0.0.2"}, {}], {"LB_RULE_OVERLAP"}),
        ([{"last_port": 10}, {"first_port": 11}], set()),
        ([{"timeout_minutes": 240, "affinity": "network"}], set()),
        ([{"timeout_minutes": 1, "mode": "single"}], {"LB_RULE_TIMEOUT"}),
        ([{"affinity": "none", "protocol": "udp"}], {"LB_RULE_FRAGMENTS"}),
    ],
)
def test_port_rules(rules: list[dict[str, Any]], found: set[str]) -> None:
    assert codes(balanced(port_rules=rules)) == found


def test_eight_servers_are_not_too_many() -> None:
    changes = nine_servers()
    del changes["load_balancing"]["servers"][0]
    changes["server.name"] = "da2"
    assert codes(changes) == set()
