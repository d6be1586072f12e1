"""The envelope of everything that members tell each other: NLB header, our preamble, a body, a MAC. Pure.

```
 0  signature 0xC0DECA05 u32 | version u32 | host id u32 | cluster IPv4 address | host IPv4 address   NLB common header
20  kind u8 | key number u8 | length u16 | cluster tag u32 | boot time u64 | sequence u32             ours
40  body, by kind
-16 HMAC-SHA256 over all before, first 16 bytes
```

Little endian, but for the two addresses. The header is what dissectors know from Windows NLB (EtherType 0x886F); the
signature is our own, so no Windows host takes it for a membership heartbeat. The same bytes travel over UDP. Each path
has its own key: a frame recorded on one path is worthless on another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from portico.cluster.config import MAX_HOSTS, Key

ETHERTYPE = 0x886F
SIGNATURE = 0xC0DECA05
VERSION = 0x0100
"""Dissectors show it as high.low: 1.0."""

HEADER = struct.Struct("<III4s4s")
PREAMBLE = struct.Struct("<BBHIQI")
MAC_LENGTH = 16
OVERHEAD = HEADER.size + PREAMBLE.size + MAC_LENGTH

MAX_FRAME = 1452
"""Bytes that fit into one packet on every path: an Ethernet frame's 1500 less IPv6 and UDP."""


class Kind(IntEnum):
    """What a body holds."""

    HEARTBEAT = 1
    HOLDINGS = 2


class Reason(StrEnum):
    """Why a frame was refused. Names of counters: stable."""

    NOT_OURS = "not_ours"
    """Another signature: Windows NLB, or something else."""
    VERSION = "version"
    """A version of the format that this one does not read."""
    MALFORMED = "malformed"
    """Cut off, too long, or a field with an impossible value."""
    FOREIGN = "foreign"
    """Of another cluster."""
    UNKNOWN_KEY = "unknown_key"
    """Authenticated with a key number that is not, or no longer, ours."""
    FORGED = "forged"
    """The MAC is wrong: another key, another path, a changed bit."""
    REPLAYED = "replayed"
    """Not newer than what was heard of its sender."""
    DUPLICATE = "duplicate"
    """A second server with one host id."""
    CONFLICT = "conflict"
    """The sender's settings differ."""
    STRANGER = "stranger"
    """The host id is not among the members."""


class ProtocolError(Exception):
    """Bytes that are no frame of this cluster and path; the only error that reading foreign bytes raises."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class Envelope:
    """What every frame says, whatever its kind.

    Attributes:
        host: the sender's host id, 1 to 32.
        cluster_address, host_address: for dissectors; not interpreted.
        boot: when the sender started, milliseconds since the epoch.
        sequence: counts the sender's frames of one path since then.
        body: the kind's own part.
    """

    kind: Kind
    host: int
    boot: int
    sequence: int
    body: bytes
    cluster_address: IPv4Address
    host_address: IPv4Address


class Sealer:
    """Seals and opens the frames of one path.

    Args:
        cluster_id: of the settings.
        path: the path's name.
        keys: the first seals; all of them open.
    """

    def __init__(self, cluster_id: str, path: str, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        self._tag = int.from_bytes(hashlib.sha256(cluster_id.encode()).digest()[:4], "little")
        self._number = keys[0].number
        self._keys = {key.number: _derived(key, cluster_id, path) for key in keys}

    def seal(self, envelope: Envelope) -> bytes:
        """The frame's bytes; AssertionError when the body is too long, which is our own fault."""
        length = OVERHEAD + len(envelope.body)
        assert length <= MAX_FRAME, f"a frame of {length} bytes"
        start = HEADER.pack(
            SIGNATURE, VERSION, envelope.host, envelope.cluster_address.packed, envelope.host_address.packed
        ) + PREAMBLE.pack(
            envelope.kind, self._number, length, self._tag, envelope.boot, envelope.sequence & 0xFFFF_FFFF
        )
        signed = start + envelope.body
        return signed + self._mac(self._number, signed)

    def open(self, data: bytes) -> Envelope:
        """Reads and authenticates a frame.

        Raises:
            ProtocolError: it is not one of this cluster and path.
        """
        if len(data) < HEADER.size or int.from_bytes(data[:4], "little") != SIGNATURE:
            raise ProtocolError(Reason.NOT_OURS, "the signature is another one")
        _, version, host, cluster_address, host_address = HEADER.unpack_from(data)
        if version != VERSION:
            raise ProtocolError(Reason.VERSION, f"version {version:#x} of the format")
        if not OVERHEAD <= len(data) <= MAX_FRAME:
            raise ProtocolError(Reason.MALFORMED, f"a frame of {len(data)} bytes")
        kind, number, length, tag, boot, sequence = PREAMBLE.unpack_from(data, HEADER.size)
        if length != len(data):
            raise ProtocolError(Reason.MALFORMED, f"{len(data)} bytes where {length} are announced")
        if tag != self._tag:
            raise ProtocolError(Reason.FOREIGN, "it is of another cluster")
        if number not in self._keys:
            raise ProtocolError(Reason.UNKNOWN_KEY, f"key {number} is not in use")
        signed = data[:-MAC_LENGTH]
        if not hmac.compare_digest(self._mac(number, signed), data[-MAC_LENGTH:]):
            raise ProtocolError(Reason.FORGED, "the MAC is wrong")
        if kind not in tuple(Kind) or not 1 <= host <= MAX_HOSTS:
            raise ProtocolError(Reason.MALFORMED, f"kind {kind} from host {host}")
        body = signed[HEADER.size + PREAMBLE.size :]
        addresses = IPv4Address(cluster_address), IPv4Address(host_address)
        return Envelope(Kind(kind), host, boot, sequence, body, *addresses)

    def _mac(self, number: int, signed: bytes) -> bytes:
        return hmac.digest(self._keys[number], signed, "sha256")[:MAC_LENGTH]


def _derived(key: Key, cluster_id: str, path: str) -> bytes:
    """A path's key (RFC 5869): the cluster is the salt, the path the context."""
    info = b"portico cluster frames 1\0" + path.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=cluster_id.encode(), info=info).derive(key.secret)


class Reader:
    """Takes fields off a body; every read past the end raises ProtocolError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._position + size
        if end > len(self._data):
            raise ProtocolError(Reason.MALFORMED, "the body is cut off")
        found = self._data[self._position : end]
        self._position = end
        return found

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """The integers of a layout."""
        return layout.unpack(self.take(layout.size))

    def count(self, most: int) -> int:
        """A length of one byte."""
        found = self.take(1)[0]
        if found > most:
            raise ProtocolError(Reason.MALFORMED, f"a list of {found} where {most} is the most")
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self._position != len(self._data):
            raise ProtocolError(Reason.MALFORMED, "bytes follow the body")
