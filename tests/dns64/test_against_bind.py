"""DNS64 against other people's servers: BIND behind it, BIND's and Unbound's DNS64 beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv6Address

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from .conftest import PREFIX, ZONE, Dns64, Server

Start = Callable[..., Dns64]

# Everything that needs no synthesis: answers must be BIND's own.
PLAIN = [
    ("", "SOA"),
    ("", "NS"),
    ("", "MX"),
    ("", "CAA"),
    ("app4", "A"),
    ("app4", "SSHFP"),
    ("app4", "TXT"),
    ("multi", "A"),
    ("app6", "AAAA"),
    ("app6", "A"),
    ("dual", "AAAA"),
    ("dual", "A"),
    ("dual", "ANY"),
    ("www", "A"),
    ("www", "CNAME"),
    ("www6", "AAAA"),
    ("chain", "A"),
    ("dangling", "A"),
    ("dangling", "AAAA"),
    ("tree", "DNAME"),
    ("host.tree", "A"),
    ("x.wild", "A"),
    ("text", "TXT"),
    ("text", "AAAA"),
    ("long", "TXT"),
    ("_ldap._tcp", "SRV"),
    ("_https", "HTTPS"),
    ("naptr", "NAPTR"),
    ("odd", "TYPE65400"),
    ("short", "A"),
    ("many", "A"),
    ("nowhere", "A"),
    ("nowhere", "AAAA"),
    ("nowhere.app4", "TXT"),
]
# AAAA questions on which an implementation of RFC 6147 has no choice.
SYNTHESIZED = [
    "app4",
    "multi",
    "app6",
    "dual",
    "www",
    "www6",
    "chain",
    "host.tree",
    "x.wild",
    "short",
    "nowhere",
    "text",
]


def full(name: str) -> str:
    return f"{name}.{ZONE}" if name else ZONE


def sections(message: dns.message.Message) -> list[list[tuple[str, int, str]]]:
    """Answer and authority without order and TTL."""
    return [
        sorted((str(rrset.name).lower(), int(rrset.rdtype), str(rdata)) for rrset in section for rdata in rrset)
        for section in (message.answer, message.authority)
    ]


def addresses(message: dns.message.Message) -> list[str]:
    return sorted(str(rdata) for rrset in message.answer if rrset.rdtype == dns.rdatatype.AAAA for rdata in rrset)


def ttls(message: dns.message.Message) -> set[int]:
    return {int(rrset.ttl) for rrset in message.answer}


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("only_a", [False, True], ids=["both", "only-a"])
def test_agrees_with_bind_where_nothing_is_synthesized(start: Start, bind: Server, tcp: bool, only_a: bool) -> None:
    dns64 = start(only_send_a_query=only_a)
    for name, kind in PLAIN:
        if only_a and kind == "AAAA":
            # OnlySendAQuery does not look for native addresses.
            continue
        expected = bind.ask(full(name), kind, tcp=tcp)
        # The first answer comes from the server, the second, where it may be kept, from the cache.
        for source in ("server", "cache"):
            got = dns64.ask(full(name), kind, tcp=tcp)
            assert got.rcode() == expected.rcode(), (name, kind, source)
            assert sections(got) == sections(expected), (name, kind, source)
            assert all(
                0 <= theirs - ours <= 2 for ours, theirs in zip(sorted(ttls(got)), sorted(ttls(expected)), strict=True)
            )
    stats = dns64.stats()
    assert stats["answered_cached"] > 0
    assert stats["upstream_tcp"] > 0
    assert stats["undecodable"] == stats["upstream_malformed"] == stats["upstream_wrong_case"] == stats["servfail"] == 0


@pytest.mark.parametrize("oracle", ["bind_dns64", "unbound"])
def test_synthesizes_as_others_do(start: Start, oracle: str, request: pytest.FixtureRequest) -> None:
    other: Server = request.getfixturevalue(oracle)
    dns64 = start(only_send_a_query=False)
    for name in SYNTHESIZED:
        expected, got = other.ask(full(name), "AAAA"), dns64.ask(full(name), "AAAA")
        assert got.rcode() == expected.rcode(), name
        assert sections(got)[0] == sections(expected)[0], name


def test_differs_from_unbound_where_the_rfc_does(start: Start, bind_dns64: Server) -> None:
    dns64 = start(only_send_a_query=False)
    # Mapped addresses do not count (RFC 6147 section 5.1.4); BIND agrees.
    assert (
        addresses(dns64.ask(full("mapped"), "AAAA"))
        == [f"{PREFIX}a00:6"]
        == addresses(bind_dns64.ask(full("mapped"), "AAAA"))
    )
    # The SOA's minimum bounds the TTL (5.1.7).
    assert ttls(dns64.ask(full("app4"), "AAAA")) == {60}
    assert ttls(dns64.ask(full("short"), "AAAA")) == {7}
    # A name that does not exist does not come to life (5.1.2).
    assert dns64.ask(full("nowhere"), "AAAA").rcode() == dns.rcode.NXDOMAIN


def test_only_a_is_asked_by_default(start: Start) -> None:
    dns64 = start()
    assert addresses(dns64.ask(full("dual"), "AAAA")) == [f"{PREFIX}a00:5"]
    assert addresses(dns64.ask(full("directaccess-corpConnectivityHost"), "AAAA")) == [f"{PREFIX}7f00:1"]
    assert addresses(dns64.ask(full("app6"), "AAAA")) == []
    assert ttls(dns64.ask(full("multi"), "AAAA")) == {600}
    assert len(addresses(dns64.ask(full("many"), "AAAA"))) == 90


def test_reverse_names_and_the_well_known_name(start: Start, bind_dns64: Server) -> None:
    dns64 = start()
    reverse = str(dns.reversename.from_address(str(IPv6Address(f"{PREFIX}a00:4"))))
    got = dns64.ask(reverse, "PTR")
    kinds = [dns.rdatatype.to_text(rrset.rdtype) for rrset in got.answer]
    assert (kinds, str(got.answer[1][0])) == (["CNAME", "PTR"], f"app4.{ZONE}.")
    assert sections(got)[0] == sections(bind_dns64.ask(reverse, "PTR"))[0]
    nobody = str(dns.reversename.from_address(f"{PREFIX}a00:99"))
    assert dns64.ask(nobody, "PTR").rcode() == dns.rcode.NXDOMAIN
    well_known = dns64.ask("ipv4only.arpa", "AAAA")
    assert addresses(well_known) == [f"{PREFIX}c000:aa", f"{PREFIX}c000:ab"]


def test_flags_and_edns(start: Start) -> None:
    dns64 = start(only_send_a_query=False)
    validating = dns64.ask(full("app4"), "AAAA", want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)
    assert addresses(validating) == []
    assert dns64.ask(full("app4"), "AAAA", want_dnssec=True).ednsflags & dns.flags.DO
    assert dns64.ask(full("app4"), "AAAA", use_edns=False).edns == -1
    assert dns64.ask(full("app4"), "A", use_edns=1).rcode() == dns.rcode.BADVERS
    got = dns64.ask(full("app4"), "AAAA")
    assert (got.edns, got.payload, got.flags & dns.flags.AD) == (0, 1232, 0)
    assert got.flags & dns.flags.RA


def test_a_new_configuration_and_a_flush_take_effect_at_once(start: Start, bind: Server) -> None:
    dns64 = start(only_send_a_query=False)
    assert addresses(dns64.ask(full("app4"), "AAAA")) == [f"{PREFIX}a00:4"]
    upstreams = [{"suffix": ZONE, "servers": [f"127.0.0.1:{bind.port}"]}]
    document = {"prefix": "fd00:64::/96", "upstreams": upstreams}
    assert dns64.command(f"configure {json.dumps(document)}") == "ok"
    assert addresses(dns64.ask(full("app4"), "AAAA")) == ["fd00:64::a00:4"]
    assert dns64.ask("example.org", "A").rcode() == dns.rcode.REFUSED
    assert int(dns64.command("flush")) >= 1
    assert dns64.stats()["cache_entries"] == 0
