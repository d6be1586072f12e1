"""DNS64 agrees with BIND about every name that needs no synthesis, and follows RFC 6147 about the others.

Each question goes to BIND and to DNS64 in front of it, twice, since the second answer comes from the cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from .agreement import Asker, Record, difference, records
from .conftest import PREFIX, Dns64, Server, free_port, needed, run
from .varied_zone import BODY, questions, sign

Start = Callable[..., Dns64]

PLAIN, SIGNED, HASHED, BROKEN = (f"{kind}.example.net" for kind in ("plain", "signed", "hashed", "broken"))
RD, AD, CD = dns.flags.RD, dns.flags.AD, dns.flags.CD


@dataclass(frozen=True)
class Flags:
    """How a question is asked."""

    flags: int = RD
    payload: int | None = 1232
    dnssec: bool = False
    tcp: bool = False

    def __str__(self) -> str:
        edns = "no EDNS" if self.payload is None else f"EDNS {self.payload}{' DO' if self.dnssec else ''}"
        return f"{'tcp' if self.tcp else 'udp'}, {edns}, {dns.flags.to_text(self.flags) or 'no flags'}"

    @property
    def validating(self) -> bool:
        return self.dnssec and bool(self.flags & CD)


@dataclass(frozen=True)
class Zones:
    """The varied zone under four names: unsigned, with NSEC, with NSEC3, and with a key that nobody trusts."""

    files: dict[str, Path]
    anchors: list[str]
    """Trust anchors of the signed ones, as named.conf writes them."""


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Zones:
    needed("dnssec-signzone", "bind9")
    directory = tmp_path_factory.mktemp("zones")
    plain = directory / "plain.zone"
    plain.write_text(BODY)
    signed, anchor = sign(SIGNED, directory)
    hashed, hashed_anchor = sign(HASHED, directory, hashed=True)
    broken, broken_anchor = sign(BROKEN, directory)
    wrong = re.sub("[0-9A-F]{64}", "0" * 64, broken_anchor)
    assert wrong != broken_anchor
    files = {PLAIN: plain, SIGNED: signed, HASHED: hashed, BROKEN: broken}
    return Zones(files, [anchor, hashed_anchor, wrong])


@pytest.fixture(scope="module")
def authority(zones: Zones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """BIND, authoritative for the zones."""
    directory = tmp_path_factory.mktemp("authority")
    server = Server(free_port())
    declared = "\n".join(f'zone "{zone}" {{ type primary; file "{path}"; }};' for zone, path in zones.files.items())
    (directory / "named.conf").write_text(f"""
options {{
    directory "{directory}"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
    listen-on port {server.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    check-names primary ignore; check-integrity no; zero-no-soa-ttl no;
}};
controls {{ }};
{declared}
""")
    yield from started(directory, server)


@pytest.fixture(scope="module")
def validator(zones: Zones, authority: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """BIND as the organisation's resolver: it validates."""
    directory = tmp_path_factory.mktemp("validator")
    server = Server(free_port())
    (directory / "named.conf").write_text(f"""
options {{
    directory "{directory}"; pid-file none; session-keyfile none; recursion yes; dnssec-validation yes;
    listen-on port {server.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; empty-zones-enable no;
    forward only; forwarders {{ 127.0.0.1 port {authority.port}; }};
    synth-from-dnssec no; minimal-responses yes; prefetch 0;
}};
controls {{ }};
trust-anchors {{ {" ".join(zones.anchors)} }};
""")
    yield from started(directory, server)


def started(directory: Path, server: Server) -> Iterator[Server]:
    command = [needed("named", "bind9"), "-g", "-c", str(directory / "named.conf")]
    yield from run(command, directory / "log", server, probe=f"four.{PLAIN}")


def query(number: int, name: str, kind: str, how: Flags) -> bytes:
    message = dns.message.make_query(name, kind, flags=how.flags)
    message.id = number
    if how.payload is not None:
        message.use_edns(0, dns.flags.DO if how.dnssec else 0, how.payload)
    return message.to_wire()


def is_excluded(record: Record) -> bool:
    """An address in ::ffff:0:0/96, which is no native one (RFC 6147 section 5.1.4)."""
    return record[2] == dns.rdatatype.AAAA and record[3].startswith(b"\0" * 10 + b"\xff\xff")


def covers(record: Record, kind: int) -> bool:
    """A signature over records of one type (RFC 4034 section 3.1)."""
    return record[2] == dns.rdatatype.RRSIG and record[3][:2] == kind.to_bytes(2, "big")


def made_of(aaaa: dns.message.Message, a: dns.message.Message) -> list[str] | None:
    """The addresses to be synthesized when another server answers like this; None where nothing is to be."""
    if aaaa.rcode() != dns.rcode.NOERROR:
        return None
    if any(record[2] == dns.rdatatype.AAAA and not is_excluded(record) for record in records(aaaa.answer)):
        return None
    found = [record[3] for record in records(a.answer) if record[2] == dns.rdatatype.A]
    return sorted(f"{PREFIX}{data[0] << 8 | data[1]:x}:{data[2] << 8 | data[3]:x}" for data in found) or None


def synthesis_fault(ours: dns.message.Message, a: dns.message.Message, expected: list[str]) -> str | None:
    """What is wrong with an answer made of A records."""
    rrsets = [rrset for rrset in ours.answer if rrset.rdtype == dns.rdatatype.AAAA]
    addresses = sorted(str(rdata) for rrset in rrsets for rdata in rrset)
    if (ours.rcode(), addresses) != (dns.rcode.NOERROR, expected):
        return f"{dns.rcode.to_text(ours.rcode())} {addresses} instead of {expected}"
    if ours.flags & AD:
        return "AD on records made here, which nobody validated (section 5.5, RFC 4035 section 3.2.3)"
    others = {record for record in records(ours.answer) if record[2] != dns.rdatatype.AAAA}
    # The chain stays (section 5.1.5); a signature over the A records is none over those made of them.
    chain = {record for record in records(a.answer) if record[2] != dns.rdatatype.A and not covers(record, 1)}
    return None if others == chain else f"beside the addresses {others} instead of {chain}"


def without_excluded(message: dns.message.Message) -> dns.message.Message:
    """The answer as section 5.1.4 leaves it: without the excluded addresses, and the signature over them all."""
    found = records(message.answer)
    if any(map(is_excluded, found)):
        kept = [
            dns.rrset.from_rdata(rrset.name, rrset.ttl, rdata)
            for rrset in message.answer
            for rdata in rrset
            if not any(
                is_excluded(record) or covers(record, dns.rdatatype.AAAA)
                for record in records([dns.rrset.from_rdata(rrset.name, rrset.ttl, rdata)])
            )
        ]
        message.answer = kept
        message.flags &= ~AD
    return message


def disagreements(dns64: Dns64, bind: Server, asked: Iterable[tuple[str, str]], how: Flags) -> Iterator[str]:
    """Asks both servers everything; what differs although it should not, and what does not follow the RFC."""
    mine, other, whole = Asker(dns64.port, tcp=how.tcp), Asker(bind.port, tcp=how.tcp), Asker(bind.port, tcp=True)
    parsed = dns.message.from_wire
    try:
        for number, (name, kind) in enumerate(asked, 1):
            wire = query(number, name, kind, how)
            expected = parsed(other.ask(wire))
            complete = parsed(whole.ask(wire)) if expected.flags & dns.flags.TC or how.payload != 1232 else expected
            made = None
            if kind == "AAAA" and not how.validating:
                a = parsed(whole.ask(query(number, name, "A", how)))
                made = made_of(complete, a)
                expected = without_excluded(expected)
            answer = b""
            for source in ("server", "cache"):
                before, answer = answer, mine.ask(wire)
                if answer == before:
                    continue
                got = parsed(answer)
                if expected.flags & dns.flags.TC and not got.flags & dns.flags.TC:
                    # The other server counts what can be spared as part of its answer.
                    assert how.tcp or len(answer) <= (how.payload or 512)
                    expected = complete
                if made is None:
                    fault = difference(got, expected, whole=None if how.payload == 1232 else complete)
                elif got.flags & dns.flags.TC:
                    # Larger than the answer with A, so it may be the only one that does not fit.
                    fault = "truncated" if how.tcp else None
                else:
                    fault = synthesis_fault(got, a, made)
                if fault is not None:
                    yield f"{name} {kind} ({how}, from the {source}): {fault}"
    finally:
        for asker in (mine, other, whole):
            asker.close()


def check(dns64: Dns64, bind: Server, asked: list[tuple[str, str]], how: Flags) -> None:
    found = list(disagreements(dns64, bind, asked, how))
    assert not found, f"{len(found)} answers to {len(asked)} questions:\n" + "\n".join(found[:30])
    stats = dns64.stats()
    assert stats["answered_cached"] > len(asked) / 2, "most second answers come from the cache"
    assert stats["undecodable"] == stats["upstream_malformed"] == stats["upstream_wrong_case"] == 0


def before(start: Start, bind: Server) -> Dns64:
    return start(only_send_a_query=False, upstreams=[{"suffix": "", "servers": [f"127.0.0.1:{bind.port}"]}])


@pytest.mark.parametrize(
    ("zone", "how"),
    [
        (PLAIN, Flags()),
        (PLAIN, Flags(payload=None, flags=0)),
        (SIGNED, Flags(tcp=True, dnssec=True)),
        (HASHED, Flags(dnssec=True)),
    ],
    ids=str,
)
def test_agrees_with_the_authority(start: Start, authority: Server, zone: str, how: Flags) -> None:
    # ANY by UDP is answered "ask by TCP" (RFC 8482): tests/lab/test_attacks.py.
    asked = [(name, kind) for name, kind in questions(zone) if kind != "ANY" or how.tcp]
    check(before(start, authority), authority, asked, how)


@pytest.mark.parametrize(
    ("zone", "how"),
    [
        (SIGNED, Flags(flags=RD | AD, payload=None)),
        (SIGNED, Flags(dnssec=True)),
        (SIGNED, Flags(flags=RD | CD, dnssec=True, tcp=True)),
        (BROKEN, Flags(dnssec=True)),
        (BROKEN, Flags(flags=RD | CD, dnssec=True)),
    ],
    ids=str,
)
def test_agrees_with_a_validating_resolver(start: Start, validator: Server, zone: str, how: Flags) -> None:
    # What a resolver says to ANY and RRSIG, and about aliases in a circle, depends on what it happens to have cached.
    asked = [(name, kind) for name, kind in questions(zone) if kind not in ("ANY", "RRSIG") and "loop" not in name]
    # Where nothing can be validated all names are alike: some of them will do.
    check(before(start, validator), validator, asked[::4] if zone == BROKEN else asked, how)
