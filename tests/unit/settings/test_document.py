from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from portico.errors import PorticoError
from portico.settings.document import dump, load, load_data, load_file
from portico.settings.migrations import migrate
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused

MINIMAL = """\
schema_version: 1
deployment: {domain: Corp.Example.Net., connect_to: da.example.net, organisation_prefix: "fd7c:1a2b:3c4d::/48"}
server:
  name: da1
  internet_interface: eth0
  internal_interface: eth1
"""


def refusal(text: str | bytes) -> dict[str, Problem]:
    with pytest.raises(SettingsRefused) as caught:
        load(text, source="settings.yaml")
    assert caught.value.problems
    assert all(problem.source == "settings.yaml" for problem in caught.value.problems)
    return {problem.code: problem for problem in caught.value.problems}


def test_a_minimal_document_gets_every_default() -> None:
    settings = load(MINIMAL)
    assert settings.deployment.domain == "corp.example.net"
    assert settings.ip_https.port == 443
    assert settings.ip_https.authentication == "certificates"
    assert settings.access.intranet == ["any"]
    assert settings.drift == "repair"


def test_what_is_dumped_is_loaded_again() -> None:
    settings = load(MINIMAL + "access: {manage_out: {from: ['10.0.0.0 /255.255.255.0']}, intranet: [10.0.0.0/8]}\n")
    assert load(dump(settings)) == settings
    assert load_data(settings.as_data()) == settings


def test_the_blank_that_the_windows_console_writes_is_accepted() -> None:
    settings = load(MINIMAL + "access: {intranet: ['10.244.4.0 /255.255.255.0']}\n")
    assert [str(network) for network in settings.access.intranet] == ["10.244.4.0/24"]


def test_an_unquoted_tls_version_is_accepted() -> None:
    assert load(MINIMAL + "ip_https: {minimum_tls: 1.3}\n").ip_https.minimum_tls == "1.3"


@pytest.mark.parametrize(
    ("ciphers", "said"),
    [
        ("[]", "at least 1"),
        ("[aes-128-gcm, aes-128-gcm]", "more than once"),
        ("[rc4]", "'aes-128-gcm', 'aes-256-gcm' or 'chacha20-poly1305'"),
    ],
)
def test_a_list_of_ciphers_that_makes_no_sense_is_refused(ciphers: str, said: str) -> None:
    (problem,) = refusal(MINIMAL + f"ip_https: {{ciphers: {ciphers}}}\n").values()
    assert "ip_https.ciphers" in str(problem) and said in str(problem)


def test_a_word_that_yaml_1_1_takes_for_a_boolean_stays_text() -> None:
    settings = load(MINIMAL.replace("name: da1", "name: no"))
    assert settings.server.name == "no"
    assert load(dump(settings)) == settings


def test_a_misspelt_key_is_refused_with_its_line_and_a_suggestion() -> None:
    problem = refusal(MINIMAL + "ip_https:\n  max_cleints: 5\n")["SETTINGS_UNKNOWN_KEY"]
    assert (problem.path, problem.line) == ("ip_https.max_cleints", 8)
    assert problem.resolution == "Did you mean 'max_clients'?"


def test_a_value_out_of_range_is_refused_with_its_line() -> None:
    problem = refusal(MINIMAL + "ip_https:\n  port: 70000\n")["SETTINGS_INVALID"]
    assert (problem.path, problem.line) == ("ip_https.port", 8)
    assert "65535" in problem.why


def test_a_quoted_number_is_refused_with_what_to_write() -> None:
    problem = refusal(MINIMAL + "ip_https: {port: '443'}\n")["SETTINGS_INVALID"]
    assert problem.resolution == "Write a whole number without quotes"


def test_a_prefix_with_host_bits_is_refused_and_the_right_one_named() -> None:
    problem = refusal(MINIMAL + "ip_https: {client_prefix: '2001:db8:1:1010::/59'}\n")["SETTINGS_INVALID"]
    assert "2001:db8:1:1000::/59" in problem.why


def test_a_missing_setting_names_its_section() -> None:
    problem = refusal(MINIMAL.replace("  internal_interface: eth1\n", ""))["SETTINGS_MISSING"]
    assert problem.path == "server.internal_interface"
    assert problem.line == 3


def test_a_union_is_reported_once_at_its_deepest_path() -> None:
    problem = refusal(MINIMAL + "access: {manage_out: {from: [nonsense]}}\n")
    assert {(p.code, p.path) for p in problem.values()} == {("SETTINGS_INVALID", "access.manage_out.from[0]")}


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "SETTINGS_SYNTAX", None),
        ("- a", "SETTINGS_SYNTAX", 1),
        ("a: [1", "SETTINGS_SYNTAX", 1),
        ("a: 1\nb: 2\na: 3", "SETTINGS_DUPLICATE_KEY", 3),
        ("a: &x 1\nb: *x", "SETTINGS_SYNTAX", 2),
        ("a: !!python/object:os.system 1", "SETTINGS_SYNTAX", 1),
        ("[a]: 1", "SETTINGS_SYNTAX", 1),
        ("{a: 1}\n---\n{b: 1}", "SETTINGS_SYNTAX", 2),
        ("[" * 100_000, "SETTINGS_SYNTAX", None),
        (b"a: 1\n\xff", "SETTINGS_NOT_TEXT", 2),
        ("a: \x00", "SETTINGS_NOT_TEXT", None),
        ("a: " + "x" * (1 << 20), "SETTINGS_NOT_TEXT", None),
        ("schema_version: 99", "SETTINGS_SCHEMA_VERSION", 1),
        ("server: {}", "SETTINGS_SCHEMA_VERSION", 1),
        ("schema_version: true", "SETTINGS_SCHEMA_VERSION", 1),
    ],
)
def test_what_is_no_document_is_refused(text: str | bytes, code: str, line: int | None) -> None:
    assert refusal(text)[code].line == line


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 10, MINIMAL.encode()[:50]])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsRefused, match=r"settings\.yaml"):
        load_file(path)


def test_a_directory_or_a_fifo_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(SettingsRefused, match="regular file"):
            load_file(path)


def test_migrations_run_one_version_at_a_time_and_leave_the_input_alone() -> None:
    old: dict[str, Any] = {"schema_version": 1, "names": ["a"]}
    steps = {
        1: lambda data: {**data, "name": data["names"].pop()},
        2: lambda data: {key: value for key, value in data.items() if key != "names"},
    }
    new, taken = migrate(old, to=3, steps=steps)
    assert new == {"schema_version": 3, "name": "a"}
    assert taken == [(1, 2), (2, 3)]
    assert old["names"] == ["a"]
    with pytest.raises(ValueError, match="no migration from schema version 1"):
        migrate(old, to=3, steps={2: steps[2]})


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_arbitrary_bytes_and_text_are_refused_with_our_error_only(content: bytes | str) -> None:
    with pytest.raises(PorticoError):
        load(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=20,
)
sections = sorted(set(Settings.model_fields) - {"schema_version"})


@given(st.dictionaries(st.sampled_from(sections), json_values), st.booleans())
def test_arbitrary_data_in_the_place_of_sections_is_refused_with_our_error_only(
    data: dict[str, Any], text: bool
) -> None:
    document = {"schema_version": 1, **data}
    with pytest.raises(PorticoError):
        load(yaml.safe_dump(document)) if text else load_data(document)


@st.composite
def settings_data(draw: st.DrawFn) -> dict[str, Any]:
    label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
    name = st.lists(label, min_size=2, max_size=4).map(".".join)
    public = name.filter(lambda text: not text.rpartition(".")[2].isdigit())
    ipv4 = st.ip_addresses(v=4).map(str)
    ipv6 = st.ip_addresses(v=6).map(str)
    asked4 = st.ip_addresses(network="10.0.0.0/8").map(str)
    asked6 = st.ip_addresses(network="fd00::/8").map(lambda address: f"[{address}]:5353")
    interface = st.from_regex(r"[a-zA-Z0-9_.-]{1,15}", fullmatch=True).filter(lambda text: text not in (".", ".."))
    prefix6 = st.integers(0, 2**64 - 1).map(
        lambda high: f"{':'.join(f'{high >> s & 65535:x}' for s in (48, 32, 16, 0))}::/64"
    )
    namespace = st.one_of(name, name.map(lambda text: f".{text}"))

    def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.none() | values

    return {
        "schema_version": 1,
        "deployment": {
            "domain": draw(name),
            "connect_to": draw(st.one_of(public, ipv4, ipv6)),
            "organisation_prefix": f"fd{draw(st.integers(0, 255)):02x}:{draw(st.integers(0, 65535)):x}::/48",
        },
        "server": {
            "name": draw(label),
            "internet_interface": draw(interface),
            "internal_interface": draw(interface),
            "internal_ipv4": draw(optional(ipv4)),
        },
        "ip_https": {"port": draw(st.integers(1, 65535)), "client_prefix": draw(optional(prefix6))},
        "addresses": {"intranet_prefixes": draw(optional(st.lists(prefix6, max_size=3)))},
        "nat64": {"ipv4_address_port_pool": draw(st.lists(ipv4.map(lambda a: f"{a},1024-65535"), max_size=2))},
        "dns64": {"upstream_servers": draw(st.lists(st.one_of(asked4, asked6), max_size=3))},
        "nrpt": {
            "rules": draw(
                st.lists(
                    st.fixed_dictionaries(
                        {"namespace": namespace, "dns_servers": optional(st.lists(st.one_of(ipv4, ipv6), max_size=2))}
                    ),
                    max_size=3,
                )
            ),
            "exemptions": draw(st.lists(namespace, max_size=3)),
        },
        "access": {
            "intranet": draw(st.lists(st.one_of(st.just("any"), prefix6), max_size=2)),
            "manage_out": draw(
                st.one_of(st.booleans(), st.fixed_dictionaries({"from": st.lists(prefix6, max_size=2)}))
            ),
        },
        "certificates": {
            "client_ca": draw(st.lists(st.from_regex(r"/[a-z/ :#'\"]{1,20}[a-z]", fullmatch=True), max_size=2))
        },
        "drift": draw(st.sampled_from(["repair", "report"])),
    }


@given(settings_data())
@trials(deadline=None)
def test_arbitrary_documents_round_trip(data: dict[str, Any]) -> None:
    settings = load_data(data)
    text = dump(settings)
    assert load(text) == settings
    assert dump(load(text)) == text
