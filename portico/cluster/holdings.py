"""Bodies of the messages by which servers tell which clients they hold. Pure; the envelope is in `wire`.

Four of them: *changes* as they happen; a *summary* with a digest of each of 64 bins, from time to time; a *request* for
bins whose digests differ; and a *bin*, in parts, in answer. Every message fits into 1400 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from portico.cluster.config import MAX_HOSTS
from portico.cluster.wire import OVERHEAD, ProtocolError, Reader, Reason

BINS = 64
MAX_MESSAGE = 1400
_ROOM = MAX_MESSAGE - OVERHEAD
MAX_PARTS = 255

_CHANGES = struct.Struct("<BQB")
_SUMMARY = struct.Struct("<QI64Q")
_REQUEST = struct.Struct("<BQ")
_BIN = struct.Struct("<BQBBBB")
_PORT = struct.Struct("<H")
_OWNER = struct.Struct("<Q")

_KIND_CHANGES, _KIND_SUMMARY, _KIND_REQUEST, _KIND_BIN = 1, 2, 3, 4
_REMOVED, _PLAIN, _IPV4, _IPV6 = 0, 1, 2, 3


@dataclass(frozen=True)
class Outer:
    """The connection a client came in by: what has to be reset when its server dies.

    Attributes:
        client, client_port: the client's side, as the server sees it.
        vip, vip_port: the cluster's side; of the same family.
    """

    client: IPv4Address | IPv6Address
    client_port: int
    vip: IPv4Address | IPv6Address
    vip_port: int


@dataclass(frozen=True)
class Holding:
    """One address of a client, how it is connected and whose it is.

    Attributes:
        outer: None where there is no connection to reset (6to4, ESP).
        owner: `owner_tag` of the identity that the tunnel proved; 0 without one.
    """

    client: IPv6Address
    outer: Outer | None = None
    owner: int = 0

    @cached_property
    def encoded(self) -> bytes:
        """As it is in messages."""
        whose = self.client.packed + _OWNER.pack(self.owner)
        if self.outer is None:
            return bytes([_PLAIN]) + whose
        outer = self.outer
        assert outer.client.version == outer.vip.version, "both ends of a connection are of one family"
        ports = _PORT.pack(outer.client_port) + _PORT.pack(outer.vip_port)
        family = _IPV4 if outer.client.version == 4 else _IPV6
        return bytes([family]) + whose + outer.client.packed + outer.vip.packed + ports

    @cached_property
    def digest(self) -> int:
        """64 bits; the digest of a bin is the exclusive or of its holdings'."""
        return int.from_bytes(hashlib.blake2b(self.encoded, digest_size=8).digest(), "little")


def owner_tag(issuer_sha256: str, subject: str) -> int:
    """64 bits for an identity: the same on every server, and after its certificate was renewed. Never 0."""
    text = f"{issuer_sha256.lower()}\0{subject}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


def bin_of(client: IPv6Address) -> int:
    """Which of the bins a client is in."""
    return hashlib.blake2b(client.packed, digest_size=1).digest()[0] % BINS


@dataclass(frozen=True)
class Changes:
    """What a server took and lost.

    Attributes:
        position: counts the sender's changes; after the last of these.
        changes: in order: a holding that was taken, or an address that was lost.
    """

    position: int
    changes: tuple[Holding | IPv6Address, ...]

    def emit(self) -> bytes:
        """The body."""
        parts = [_CHANGES.pack(_KIND_CHANGES, self.position, len(self.changes))]
        return b"".join([*parts, *map(_encoded, self.changes)])


@dataclass(frozen=True)
class Summary:
    """Everything that a server holds, in short."""

    position: int
    count: int
    digests: tuple[int, ...]

    def emit(self) -> bytes:
        """The body."""
        return bytes([_KIND_SUMMARY]) + _SUMMARY.pack(self.position, self.count, *self.digests)


@dataclass(frozen=True)
class Request:
    """A wish for some bins of a host; `bins` is a bit set."""

    host: int
    bins: int

    def emit(self) -> bytes:
        """The body."""
        return bytes([_KIND_REQUEST]) + _REQUEST.pack(self.host, self.bins)


@dataclass(frozen=True)
class Bin:
    """A part (of `parts`, from 0) of what a server holds in one bin at a position."""

    position: int
    number: int
    part: int
    parts: int
    holdings: tuple[Holding, ...]

    def emit(self) -> bytes:
        """The body."""
        head = _BIN.pack(_KIND_BIN, self.position, self.number, self.part, self.parts, len(self.holdings))
        return head + b"".join(holding.encoded for holding in self.holdings)


Message = Changes | Summary | Request | Bin


def packed_changes(changes: Sequence[Holding | IPv6Address], position: int) -> Iterator[Changes]:
    """Changes as messages that fit; `position` is that after the last change."""
    before = position - len(changes)
    for group in _groups(changes, _ROOM - _CHANGES.size):
        before += len(group)
        yield Changes(before, tuple(group))


def packed_bin(holdings: Iterable[Holding], number: int, position: int) -> Iterator[Bin]:
    """A bin as messages that fit; one even if it is empty."""
    groups = list(_groups(list(holdings), _ROOM - _BIN.size)) or [[]]
    groups = groups[:MAX_PARTS]
    for part, group in enumerate(groups):
        yield Bin(position, number, part, len(groups), tuple(item for item in group if isinstance(item, Holding)))


def parse(body: bytes) -> Message:
    """Reads a body.

    Raises:
        ProtocolError: it is cut off, goes on after its end, or a field has an impossible value.
    """
    if len(body) > _ROOM:
        raise ProtocolError(Reason.MALFORMED, f"a message of {len(body)} bytes")
    reader = Reader(body)
    message: Message
    match reader.count(_KIND_BIN):
        case 1:
            position, count = reader.fields(struct.Struct("<QB"))
            message = Changes(position, tuple(_change(reader) for _ in range(count)))
        case 2:
            position, count, *digests = reader.fields(_SUMMARY)
            message = Summary(position, count, tuple(digests))
        case 3:
            host, bins = reader.fields(_REQUEST)
            _require(1 <= host <= MAX_HOSTS, f"a request to host {host}")
            message = Request(host, bins)
        case 4:
            position, number, part, parts, count = reader.fields(struct.Struct("<QBBBB"))
            _require(number < BINS and part < parts, f"part {part} of {parts} of bin {number}")
            message = Bin(position, number, part, parts, tuple(_holding(reader) for _ in range(count)))
        case kind:
            raise ProtocolError(Reason.MALFORMED, f"kind {kind} of holdings")
    reader.end()
    return message


def _groups(
    items: Sequence[Holding] | Sequence[Holding | IPv6Address], room: int
) -> Iterator[list[Holding | IPv6Address]]:
    group: list[Holding | IPv6Address] = []
    size = 0
    for item in items:
        length = len(_encoded(item))
        if group and (size + length > room or len(group) == 0xFF):
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group


def _encoded(item: Holding | IPv6Address) -> bytes:
    return item.encoded if isinstance(item, Holding) else bytes([_REMOVED]) + item.packed


def _change(reader: Reader) -> Holding | IPv6Address:
    family = reader.count(_IPV6)
    client = IPv6Address(reader.take(16))
    if family == _REMOVED:
        return client
    (owner,) = reader.fields(_OWNER)
    if family == _PLAIN:
        return Holding(client, None, owner)
    ends: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]
    if family == _IPV4:
        ends = IPv4Address(reader.take(4)), IPv4Address(reader.take(4))
    else:
        ends = IPv6Address(reader.take(16)), IPv6Address(reader.take(16))
    (client_port,), (vip_port,) = reader.fields(_PORT), reader.fields(_PORT)
    return Holding(client, Outer(ends[0], client_port, ends[1], vip_port), owner)


def _holding(reader: Reader) -> Holding:
    found = _change(reader)
    if not isinstance(found, Holding):
        raise ProtocolError(Reason.MALFORMED, "a bin with a removal")
    return found


def _require(valid: bool, what: str) -> None:
    if not valid:
        raise ProtocolError(Reason.MALFORMED, what)
