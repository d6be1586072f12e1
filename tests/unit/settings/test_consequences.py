"""What a change would do now, counted."""

from __future__ import annotations

from typing import Any

import pytest

from portico.settings.consequences import FORESEEING, Foreseeing, Live, Situation, foresee
from portico.settings.diff import compare
from portico.settings.document import load_data
from tests.unit.settings.test_verify import BALANCING, CLIENT, CONNECT_TO, POOL, balanced, changed

LIVE = Live(clients={"da1": 7, "da2": 5}, bindings={"da1": 30, "da2": 1}, enrolled=40)
ALONE = Live(clients={"da1": 12}, bindings={"da1": 31}, enrolled=1)
ONE = balanced(servers=BALANCING["servers"][:1])
TWO = balanced()


def foreseen(before: dict[str, Any], after: dict[str, Any], live: Live) -> list[str]:
    former, wanted = load_data(changed(before)), load_data(changed(after))
    return [item.text for item in foresee(former, wanted, compare(former, wanted), live)]


TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], Live, list[str]]] = {
    "nothing": ({}, {}, ALONE, []),
    "a setting that hits nobody": ({}, {"drift": "report"}, ALONE, []),
    "another port": (
        {},
        {"ip_https.port": 8443},
        ALONE,
        ["12 clients will redial (of da1)", "1 enrolled client must enrol again: it dials what was before"],
    ),
    "another name": (
        TWO,
        TWO | {CONNECT_TO: "vpn.example.net"},
        LIVE,
        [
            "12 clients will redial (da1: 7, da2: 5)",
            "40 enrolled clients must enrol again: they dial what was before",
        ],
    ),
    "a name while nobody is there": ({}, {CONNECT_TO: "vpn.example.net"}, Live(), []),
    "imported certificates": (
        {},
        {"certificates": {"mode": "imported"}},
        ALONE,
        ["12 clients will redial (of da1)", "1 client must enrol again: its certificate is of the built-in CA"],
    ),
    "the built-in CA again": (
        {"certificates": {"mode": "imported"}},
        {},
        ALONE,
        ["12 clients will redial (of da1)", "12 clients must enrol again: their certificates are of another CA"],
    ),
    "load balancing": (
        {},
        ONE,
        ALONE,
        [
            "the VIPs 203.0.113.11, 10.0.0.2, fd7c:1a2b:3c4d:1::2 move from da1 alone to all servers",
            "31 NAT64 bindings are lost (of da1); the connections through them break",
        ],
    ),
    "a second server": (ONE, TWO, ALONE, []),
    "no load balancing any more": (
        TWO,
        {},
        LIVE,
        [
            "5 clients will redial (of da2)",
            "the VIPs 203.0.113.11, 10.0.0.2, fd7c:1a2b:3c4d:1::2 move to da1 alone",
            "31 NAT64 bindings are lost (da1: 30, da2: 1); the connections through them break",
        ],
    ),
    "a server leaves": (
        TWO,
        ONE,
        LIVE,
        ["5 clients will redial (of da2)", "1 NAT64 binding is lost (of da2); the connections through it break"],
    ),
    "the default host stops": (
        TWO,
        balanced(da1__state="stopped"),
        LIVE,
        [
            "7 clients will redial (of da1)",
            "the VIPs 203.0.113.11, 10.0.0.2, fd7c:1a2b:3c4d:1::2 move from da1 to da2 for what no port rule covers",
            "30 NAT64 bindings are lost (of da1); the connections through them break",
        ],
    ),
    "a virtual address goes": (
        TWO,
        balanced(internet_virtual_addresses=["203.0.113.99/24"]),
        LIVE,
        ["12 clients will redial (da1: 7, da2: 5)", "nobody answers for 203.0.113.11 any more"],
    ),
    "addresses of each server": (
        TWO,
        balanced(client_addresses="per-server"),
        LIVE,
        ["5 clients will redial (of da2)"],
    ),
    "another dedicated address": (
        TWO,
        balanced(da2__internal_dedicated_addresses=["10.0.0.33/24", "fd7c:1a2b:3c4d:1::13/64"]),
        LIVE,
        ["1 NAT64 binding is lost (of da2); the connections through it break"],
    ),
    "another pool": (
        TWO,
        TWO | {POOL: ["10.0.0.2,20000-30000"]},
        LIVE,
        ["31 NAT64 bindings are lost (da1: 30, da2: 1); the connections through them break"],
    ),
    "no NAT64": (
        {},
        {"nat64.state": "disabled"},
        ALONE,
        ["31 NAT64 bindings are lost (of da1); the connections through them break"],
    ),
    "another client prefix": (
        {},
        {CLIENT: "2001:db8:1:1000::/64"},
        ALONE,
        [
            "12 clients will redial (of da1)",
            "12 clients get new addresses: 2001:db8:1:1000::/64 instead of fd7c:1a2b:3c4d:1000::/64; connections "
            "inside the tunnels break",
        ],
    ),
    "the /59 around the prefix": ({}, {CLIENT: "fd7c:1a2b:3c4d:1000::/59"}, Live(), []),
    "a server that does not answer": (
        TWO,
        TWO | {"drift": "report"},
        Live(clients={"da1": 7}, silent=("da2",)),
        ["da2 does not answer: it follows when it is back, and its clients are not counted"],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_change_is_told_with_whom_it_hits(name: str) -> None:
    before, after, live, texts = TABLE[name]
    assert foreseen(before, after, live) == texts


def test_the_first_document_hits_nobody() -> None:
    wanted = load_data(changed({}))
    assert foresee(None, wanted, compare(None, wanted), ALONE) == []


@pytest.mark.parametrize("rule", FORESEEING, ids=lambda rule: rule.__name__)
def test_every_function_is_in_the_table(rule: Foreseeing) -> None:
    def told(name: str) -> bool:
        before, after, live, _ = TABLE[name]
        former, wanted = load_data(changed(before)), load_data(changed(after))
        return bool(list(rule(Situation(former, wanted, compare(former, wanted), live))))

    assert any(map(told, TABLE))
    assert not told("nothing")


def test_closed_tunnels_are_marked() -> None:
    former, wanted = load_data(changed({})), load_data(changed({"ip_https.port": 8443}))
    first, second = foresee(former, wanted, compare(former, wanted), ALONE)
    assert first.disconnects
    assert not second.disconnects
