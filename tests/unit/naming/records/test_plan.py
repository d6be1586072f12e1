"""Which records are wanted, and what differs: pure."""

from __future__ import annotations

import copy
import re
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.naming.records.plan import FaultKind, RecordChange, ServerView, changes, everything, faults, key
from portico.naming.records.render import Format, render
from portico.naming.records.wanted import KINDS, Purpose, WantedName, wanted_names
from portico.settings.addresses import DnsServer
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts, Interface
from portico.settings.localise import localise

CORP, PROBE, NLS = (f"directaccess-{name}.corp.example.net" for name in ("corpConnectivityHost", "WebProbeHost", "nls"))
DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "dns64": {"upstream_servers": ["10.0.0.53"]},
}
FACTS = Facts(
    interfaces={
        "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"),)),
        "eth1": Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface("fd7c:1a2b:3c4d:1::2/64"))),
    }
)
BALANCING: dict[str, Any] = {
    "internet_virtual_addresses": ["203.0.113.11/24"],
    "internal_virtual_addresses": ["10.0.0.2/24", "fd7c:1a2b:3c4d:1::2/64"],
    "servers": [
        {
            "name": f"da{number}",
            "priority": number,
            "internet_dedicated_addresses": [f"203.0.113.2{number}/24"],
            "internal_dedicated_addresses": [f"10.0.0.2{number}/24", f"fd7c:1a2b:3c4d:1::2{number}/64"],
        }
        for number in (1, 2)
    ],
}
PRIMARY, SECONDARY = DnsServer.parse("10.0.0.53"), DnsServer.parse("10.0.0.54")


def wanted(facts: Facts = FACTS, name: str = "da1", **sections: Any) -> dict[str, list[str]]:
    data = copy.deepcopy(DATA)
    for section, values in sections.items():
        data[section] = {**data.get(section, {}), **values}
    settings = localise(load_data(data), name)
    return {
        item.name: [str(address) for address in item.addresses]
        for item in wanted_names(settings, effective(settings, facts))
    }


def view(sets: dict[tuple[str, Any], set[str]], server: DnsServer = PRIMARY, **more: Any) -> ServerView:
    return ServerView(server, sets={key(*name): frozenset(found) for name, found in sets.items()}, **more)


def right(names: list[WantedName]) -> dict[tuple[str, Any], set[str]]:
    return {(name.name, kind): set(name.of(kind)) for name in names for kind in KINDS}


def names() -> list[WantedName]:
    settings = load_data(DATA)
    return list(wanted_names(settings, effective(settings, FACTS)))


def test_an_ipv4_only_intranet_has_127_0_0_1_and_what_nat64_makes_of_it() -> None:
    assert wanted() == {
        CORP: ["127.0.0.1", "fd7c:1a2b:3c4d:7777::7f00:1"],
        PROBE: ["10.0.0.2"],
        NLS: ["10.0.0.2", "fd7c:1a2b:3c4d:1::2"],
    }


@pytest.mark.parametrize(
    "section",
    [
        {"corporate_dns": {"native_ipv6": True}},
        {"dns64": {"only_send_a_query": False}},
        {"nat64": {"state": "disabled"}},
    ],
)
def test_native_ipv6_has_only_the_ipv6_loopback(section: dict[str, Any]) -> None:
    assert wanted(**section)[CORP] == ["::1"]


def test_the_prefix_is_that_of_the_mapping_which_covers_127_0_0_1() -> None:
    found = wanted(nat64={"prefix_mapping": ["fd00:9::/96,0.0.0.0/0", "fd00:8::/96,10.0.0.0/8"]})
    assert found[CORP] == ["127.0.0.1", "fd00:9::7f00:1"]


def test_with_load_balancing_the_vip_is_published_by_every_server() -> None:
    first = wanted(load_balancing=BALANCING)
    assert first[PROBE] == ["10.0.0.2"]
    assert first[NLS] == ["10.0.0.2", "fd7c:1a2b:3c4d:1::2"]
    assert wanted(name="da2", load_balancing=BALANCING) == first


def test_other_entry_points_keep_their_web_probe() -> None:
    assert wanted(corporate_dns={"other_entry_points": ["10.8.0.2"]})[PROBE] == ["10.0.0.2", "10.8.0.2"]


def test_the_web_probe_is_ipv6_only_where_there_is_no_ipv4() -> None:
    assert FACTS.interfaces is not None
    six = Interface("eth1", addresses=(ip_interface("fd7c:1a2b:3c4d:1::2/64"),))
    found = wanted(Facts(interfaces={**FACTS.interfaces, "eth1": six}), nat64={"state": "disabled"})
    assert found[PROBE] == ["fd7c:1a2b:3c4d:1::2"]


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ({"network_location_server": {"url": "https://www.corp.example.net/"}}, NLS),
        ({"network_location_server": {"state": "disabled"}}, NLS),
        ({"network_location_server": {"name": "nls.example.org"}}, NLS),
        ({"web_probe": {"state": "disabled"}}, PROBE),
    ],
)
def test_what_is_elsewhere_is_not_ours_to_write(section: dict[str, Any], missing: str) -> None:
    found = wanted(**section)
    assert missing not in found and len(found) == 2
    assert wanted(corporate_dns={"state": "disabled"}) == {}


def test_records_that_are_right_are_no_fault() -> None:
    all_right = view(right(names()))
    assert faults(names(), [all_right], {PRIMARY}) == []
    assert changes(names(), all_right) == []


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_missing_record_names_itself_its_server_and_the_symptom(purpose: Purpose) -> None:
    sets = right(names())
    gone = next(name for name in names() if name.purpose is purpose)
    sets[gone.name, "A"] = set()
    (fault,) = faults(names(), [view(sets, host="dc1.corp.example.net")], {PRIMARY})
    assert fault.kind is FaultKind.MISSING
    text = str(fault.as_error())
    for part in (gone.name, " A ", "dc1.corp.example.net (10.0.0.53)", gone.symptom):
        assert part in text
    assert fault.as_error().code == "DNS_RECORD_MISSING"
    assert changes(names(), view(sets)) == [RecordChange(gone.name, "A", value, "add") for value in gone.of("A")]


def test_the_symptoms_are_those_that_administrators_search_for() -> None:
    by_purpose = {name.purpose: name.symptom for name in names()}
    assert "'Connecting' for ever" in by_purpose[Purpose.WEB_PROBE]
    assert "next transition technology" in by_purpose[Purpose.CORP_CONNECTIVITY]


def test_a_wrong_address_is_replaced_and_a_record_too_many_goes() -> None:
    sets = right(names())
    sets[PROBE, "A"] = {"10.0.0.99"}
    sets[PROBE, "AAAA"] = {"fd00::99"}
    kinds = {(fault.record, fault.kind) for fault in faults(names(), [view(sets)])}
    assert kinds == {("A", FaultKind.WRONG), ("AAAA", FaultKind.WRONG)}
    assert list(map(str, changes(names(), view(sets)))) == [
        f"delete {PROBE} A 10.0.0.99",
        f"delete {PROBE} AAAA fd00::99",
        f"add {PROBE} A 10.0.0.2",
    ]


def test_a_secondary_that_lags_behind_is_stale_and_is_named() -> None:
    old = right(names())
    old[PROBE, "A"] = {"10.0.0.99"}
    views = [view(right(names()), serial=7), view(old, SECONDARY, serial=5, host="ns2.corp.example.net")]
    (fault,) = faults(names(), views, {PRIMARY})
    assert fault.kind is FaultKind.STALE
    text = str(fault.as_error())
    assert "ns2.corp.example.net (10.0.0.54)" in text and "its serial is 5, the primary's 7" in text
    assert "'Connecting' for ever" in text


def test_an_alias_is_wrong_and_is_not_deleted() -> None:
    sets = right(names())
    sets[NLS, "A"], sets[NLS, "AAAA"] = set(), set()
    aliased = view(sets, aliases={NLS: "www.corp.example.net"})
    found = faults(names(), [aliased])
    assert {fault.kind for fault in found} == {FaultKind.WRONG}
    assert "alias of www.corp.example.net" in str(found[0].as_error())
    assert changes(names(), aliased) == []


def test_a_silent_server_is_a_fault_and_nothing_is_changed_blindly() -> None:
    silent = ServerView(PRIMARY, trouble="no answer within 6 s")
    (fault,) = faults(names(), [silent], {PRIMARY})
    assert fault.kind is FaultKind.UNANSWERED and fault.as_error().code == "DNS_SERVER_UNANSWERED"
    assert changes(names(), silent) == []


address_sets = st.dictionaries(
    st.tuples(st.sampled_from([CORP, PROBE, NLS]), st.just("A")),
    st.sets(st.sampled_from(["127.0.0.1", "10.0.0.2", "10.0.0.99"])),
) | st.dictionaries(
    st.tuples(st.sampled_from([CORP, PROBE, NLS]), st.just("AAAA")),
    st.sets(st.sampled_from(["::1", "fd7c:1a2b:3c4d:1::2", "fd7c:1a2b:3c4d:7777::7f00:1"])),
)


@given(address_sets)
def test_the_changes_make_any_server_right(before: dict[tuple[str, Any], set[str]]) -> None:
    after = {name: set(found) for name, found in before.items()}
    for change in changes(names(), view(before)):
        values = after.setdefault((change.name, change.record), set())
        (values.add if change.action == "add" else values.remove)(change.value)
    assert faults(names(), [view(after)]) == []


def test_a_refresh_writes_everything_again() -> None:
    assert [str(change) for change in everything(names())] == [
        f"add {CORP} A 127.0.0.1",
        f"add {CORP} AAAA fd7c:1a2b:3c4d:7777::7f00:1",
        f"add {PROBE} A 10.0.0.2",
        f"add {NLS} A 10.0.0.2",
        f"add {NLS} AAAA fd7c:1a2b:3c4d:1::2",
    ]


FORMS: tuple[tuple[Format, str], ...] = (
    ("zone", r"directaccess-WebProbeHost +600 IN A +10\.0\.0\.2"),
    ("nsupdate", r"update add directaccess-WebProbeHost\.corp\.example\.net\. 600 A 10\.0\.0\.2"),
    ("samba-tool", r"samba-tool dns add 10\.0\.0\.53 corp\.example\.net directaccess-WebProbeHost A 10\.0\.0\.2 "),
    (
        "powershell",
        r"Add-DnsServerResourceRecord -ComputerName '10\.0\.0\.53' -ZoneName 'corp\.example\.net' "
        r"-Name 'directaccess-WebProbeHost' -A -IPv4Address 10\.0\.0\.2 -TimeToLive",
    ),
)


@pytest.mark.parametrize(("form", "line"), FORMS)
def test_records_are_printed_for_those_who_enter_them_by_hand(form: Format, line: str) -> None:
    text = render(form, names(), zone="corp.example.net", ttl=600, server="10.0.0.53")
    assert re.search(line, text)
    assert len(re.findall(r"127\.0\.0\.1$|127\.0\.0\.1 ", text, flags=re.MULTILINE)) == 1
    assert text.count("7f00:1") == 1
