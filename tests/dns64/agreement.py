"""What makes two answers to one query the same, although one came through DNS64."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

Record = tuple[dns.name.Name, int, int, bytes]

# AA is the authority's and RA the forwarder's; the others tell the client about the answer.
COMPARED = dns.flags.QR | dns.flags.TC | dns.flags.RD | dns.flags.AD | dns.flags.CD
# Seconds an answer may lie in a cache, or on its way, during a test.
AGE = 30


class Asker:
    """Asks one server over and over: one socket by UDP, one connection by TCP."""

    def __init__(self, port: int, *, tcp: bool, source: str = "127.0.0.1") -> None:
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        self.tcp = tcp
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.settimeout(30)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        if tcp:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, query: bytes) -> bytes:
        self.send(query)
        while (answer := self.receive())[:2] != query[:2]:
            pass
        return answer

    def send(self, query: bytes) -> None:
        self.socket.sendall((struct.pack("!H", len(query)) if self.tcp else b"") + query)

    def receive(self) -> bytes:
        return self._exactly(struct.unpack("!H", self._exactly(2))[0]) if self.tcp else self.socket.recv(65_535)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            got = self.socket.recv(length - len(data))
            assert got, "the connection ended in the middle of an answer"
            data += got
        return data

    def close(self) -> None:
        self.socket.close()


def records(section: Iterable[dns.rrset.RRset]) -> dict[Record, int]:
    """The records of a section, each with its TTL.

    Owners and the targets of aliases in lower case: what is derived from a DNAME repeats labels of the question, and
    the one that DNS64 asks is spelled at random. All other data byte for byte.
    """
    return {
        (rrset.name.canonicalize(), int(rrset.rdclass), int(rrset.rdtype), _data(rdata)): int(rrset.ttl)
        for rrset in section
        for rdata in rrset
    }


def _data(rdata: dns.rdata.Rdata) -> bytes:
    data = rdata.to_wire() or b""
    return data.lower() if rdata.rdtype == dns.rdatatype.CNAME else data


def difference(
    ours: dns.message.Message, theirs: dns.message.Message, *, whole: dns.message.Message | None = None
) -> str | None:
    """In what our answer differs from the other server's, with TTLs that may have counted down; None in nothing.

    `whole` is the other server's answer without a limit of size, where that is another one: what is not needed may be
    left out when room is short (RFC 2181 section 9), which is the additional section and the names of the zone's
    servers beside an answer.
    """
    if ours.rcode() != theirs.rcode():
        return f"rcode {dns.rcode.to_text(ours.rcode())}, not {dns.rcode.to_text(theirs.rcode())}"
    # What a truncated answer holds is of no use (RFC 2181 section 9), nor is what is said of it.
    truncated = ours.flags & theirs.flags & dns.flags.TC
    if (ours.flags ^ theirs.flags) & (COMPARED & ~dns.flags.AD if truncated else COMPARED):
        return f"flags {dns.flags.to_text(ours.flags)}, not {dns.flags.to_text(theirs.flags)}"
    if (ours.edns, ours.ednsflags) != (theirs.edns, theirs.ednsflags):
        return f"EDNS {(ours.edns, ours.ednsflags)}, not {(theirs.edns, theirs.ednsflags)}"
    if ours.question != theirs.question or ours.question[0].name.labels != theirs.question[0].name.labels:
        return "another question"
    if truncated:
        return None
    for name in ("answer", "authority", "additional"):
        got, wanted = records(getattr(ours, name)), records(getattr(theirs, name))
        if whole is not None and name != "answer":
            possible = records(getattr(whole, name))
            spared = name == "additional" or (
                ours.answer and {kind for _, _, kind, _ in possible} == {dns.rdatatype.NS}
            )
            needed = set() if spared else wanted.keys()
            wanted = {record: ttl for record, ttl in possible.items() if record in got or record in needed}
        if got.keys() != wanted.keys():
            return f"{name}: {_text(got.keys() - wanted.keys())} instead of {_text(wanted.keys() - got.keys())}"
        for record, ttl in wanted.items():
            if not -AGE <= got[record] - ttl <= AGE:
                return f"{name}: TTL {got[record]} instead of {ttl} of {_text([record])}"
    return None


def _text(some: Iterable[Record]) -> str:
    kinds = dns.rdatatype.RdataType.make
    return "; ".join(f"{name} {kinds(kind).name} {data.hex()[:80]}" for name, _, kind, data in some) or "-"
