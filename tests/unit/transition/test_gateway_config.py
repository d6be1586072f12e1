from __future__ import annotations

import json
from typing import Any

import pytest

from portico.errors import InvalidInput
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.transition.gateway_config import GatewaySecrets, build_gateway_config

SECRETS = GatewaySecrets(
    certificate_chain="CHAIN",
    private_key="KEY",
    client_ca="CA",
    ticket_keys=[bytes(32), b"\x01" * 32],
    revoked=[{"issuer_sha256": "ab", "serial": "1f"}],
)


def test_the_configuration_has_exactly_the_agreed_form(settings: Settings, facts: Facts) -> None:
    config = build_gateway_config(settings, effective(settings, facts), SECRETS)
    assert json.loads(json.dumps(config)) == {
        "workers": 2,
        "iphttps": {
            "authentication": "certificates",
            "link_local": "fe80::1",
            "addresses": ["fd7c:1a2b:3c4d:1000::1", "fd7c:1a2b:3c4d:1000::2", "fd7c:1a2b:3c4d:3333::1"],
            "prefix": "fd7c:1a2b:3c4d:1000::/64",
            "routes": ["fd7c:1a2b:3c4d::/48"],
            "route_lifetime": 1800,
            "router_lifetime": 0,
            "advertise_interval": 600,
            "max_sessions": 10000,
            "max_addresses_per_session": 8,
            "max_handshakes": 512,
            "handshake_timeout": 15.0,
            "request_timeout": 10.0,
            "idle_probe": 30.0,
            "segments": True,
            "queue_bytes": 1048576,
        },
        "http": {
            "paths": [
                "/portico/v1/trust",
                "/portico/v1/enrol",
                "/portico/v1/renew",
                "/portico/v1/client-settings",
                "/portico/v1/crl",
                "/portico/v1/user",
                "/portico/v1/user/challenge",
                "/portico/v1/user/provider",
                "/portico/v1/user/login",
                "/portico/v1/user/logout",
            ],
            "max_body": 32768,
            "max_pending": 64,
            "timeout": 15.0,
        },
        "tls": {
            "certificate_chain": "CHAIN",
            "private_key": "KEY",
            "client_ca": "CA",
            "ticket_keys": ["00" * 32, "01" * 32],
            "minimum_version": "1.2",
            "ciphers": ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"],
        },
        "revoked": [{"issuer_sha256": "ab", "serial": "1f"}],
        "nat64": {
            "prefix_mappings": [{"prefix": "fd7c:1a2b:3c4d:7777::/96", "network": "0.0.0.0/0"}],
            "pool": [{"address": "10.0.0.2", "ports": [32768, 60999]}],
            "mtu": 1500,
            "ipv6_mtu": 1280,
            "address": "fd7c:1a2b:3c4d:1000::1",
            "tcp_established": 7200,
            "tcp_transitory": 240,
            "udp": 300,
            "icmp": 60,
            "max_bindings": 262144,
            "max_bindings_per_client": 4096,
            "max_sessions": 524288,
            "max_sessions_per_client": 16384,
            "filtering": "endpoint_independent",
            "traffic_class": "copy",
            "errors_per_second": 100,
            "static_bindings": [],
            "log_bindings": False,
            "open_hosts": None,
        },
        "dns64": {
            "prefix_mappings": [{"prefix": "fd7c:1a2b:3c4d:7777::/96", "network": "0.0.0.0/0"}],
            "only_send_a_query": True,
            "always_synthesize": False,
            "latency_ms": 0,
            "exclusions": [],
            "upstreams": [{"suffix": "", "servers": ["10.0.0.53"]}],
            "timeout": 5.0,
            "cache_entries": 65536,
            "cache_bytes": 67_108_864,
            "max_queries": 4096,
            "max_queries_per_client": 256,
            "prefetch": True,
            "serve_stale_seconds": 86400,
            "queries_per_second_per_client": 100,
            "query_burst_per_client": 200,
            "accept_from": ["fd7c:1a2b:3c4d:1000::/64", "fd7c:1a2b:3c4d:3333::1/128"],
        },
    }


def test_what_the_administrator_set_is_passed_on(data: dict[str, Any], facts: Facts) -> None:
    binding = {"protocol": "tcp", "client": "fd7c:1a2b:3c4d:1000::5", "client_port": 22, "port": 50022}
    mappings = ["fd7c:1a2b:3c4d:7777::/96,0.0.0.0/0", "fd7c:1a2b:3c4d:7778::/96,10.9.0.0/16"]
    data["nat64"] = {
        "prefix_mapping": mappings,
        "ipv4_address_port_pool": ["10.0.0.2,20000-29999", "10.0.0.3,*"],
        "static_bindings": [binding, {**binding, "protocol": "udp", "address": "10.0.0.3"}],
        "filtering": "address_dependent",
        "traffic_class": "zero",
        "max_sessions": 7,
        "log_bindings": True,
    }
    data["dns64"] |= {
        "prefix_mapping": mappings[1:],
        "accept_interface": ["eth1"],
        "conditional_forwarding": [{"suffix": ".branch.example.org", "servers": ["10.9.0.53", "fd00::53"]}],
        "prefetch": False,
        "serve_stale_seconds": 0,
        "queries_per_second_per_client": 5,
    }
    settings = load_data(data)
    config = build_gateway_config(settings, effective(settings, facts), SECRETS)
    nat64, dns64 = config["nat64"], config["dns64"]
    second = {"prefix": "fd7c:1a2b:3c4d:7778::/96", "network": "10.9.0.0/16"}
    assert nat64["prefix_mappings"] == [{"prefix": "fd7c:1a2b:3c4d:7777::/96", "network": "0.0.0.0/0"}, second]
    assert [entry["ports"] for entry in nat64["pool"]] == [[20000, 29999], [1024, 65535]]
    assert nat64["static_bindings"] == [
        {**binding, "address": "10.0.0.2"},
        {**binding, "protocol": "udp", "address": "10.0.0.3"},
    ]
    given = ("address_dependent", "zero", 7, True)
    assert (nat64["filtering"], nat64["traffic_class"], nat64["max_sessions"], nat64["log_bindings"]) == given
    assert dns64["prefix_mappings"] == [second]
    assert dns64["upstreams"][1] == {"suffix": "branch.example.org", "servers": ["10.9.0.53", "fd00::53"]}
    assert (dns64["prefetch"], dns64["serve_stale_seconds"], dns64["query_burst_per_client"]) == (False, 0, 10)
    assert dns64["accept_from"] == [], "the packet filter decides by interface"


def test_what_is_disabled_is_null(data: dict[str, Any], facts: Facts) -> None:
    settings = load_data({**data, "nat64": {"state": "disabled"}, "dns64": {"state": "disabled"}})
    config = build_gateway_config(settings, effective(settings, facts), SECRETS)
    assert config["nat64"] is None
    assert config["dns64"] is None
    assert config["iphttps"]["addresses"] == ["fd7c:1a2b:3c4d:1000::1", "fd7c:1a2b:3c4d:1000::2"]


def test_without_nat64_nothing_is_synthesised(data: dict[str, Any], facts: Facts) -> None:
    settings = load_data({**data, "nat64": {"state": "disabled"}})
    dns64 = build_gateway_config(settings, effective(settings, facts), SECRETS)["dns64"]
    assert dns64["exclusions"] == [""]
    assert dns64["only_send_a_query"] is False


def test_nat64_without_an_address_is_an_error_that_names_the_interface(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="eth1"):
        build_gateway_config(settings, effective(settings), SECRETS)


def test_client_authentication_without_a_ca_is_an_error(settings: Settings, facts: Facts) -> None:
    without = GatewaySecrets("CHAIN", "KEY", "", [])
    with pytest.raises(InvalidInput, match="no CA"):
        build_gateway_config(settings, effective(settings, facts), without)


def test_secrets_stay_out_of_representations() -> None:
    assert "KEY" not in repr(SECRETS)
    assert "x01" not in repr(SECRETS)
