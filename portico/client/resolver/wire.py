"""The part of the DNS wire format a forwarder needs (RFC 1035, RFC 6891, RFC 8914). Pure.

Questions and answers travel through the resolver as they are; only the identifier is exchanged. What is read is the
header, the one question and the EDNS record; everything is checked before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("!HHHHHH")
MAX_MESSAGE = 65_535
MINIMUM_UDP = 512
"""Bytes every requester takes over UDP (RFC 1035 section 2.3.4)."""

_QR = 0x8000
_OPCODE = 0x7800
_TC = 0x0200
_RD = 0x0100
_RA = 0x0080
_CD = 0x0010
_TYPE_OPT = 41
_OPTION_EDE = 15


class ResponseCode(IntEnum):
    """RCODEs the resolver looks at or sends (RFC 1035 section 4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class ExtendedError(IntEnum):
    """INFO-CODEs of RFC 8914 the resolver sends."""

    OTHER = 0
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


class Malformed(ValueError):
    """The bytes are not the DNS message they should be."""


@dataclass(frozen=True)
class Query:
    """One question as it came in.

    Attributes:
        identifier: the requester's.
        name: lower case, labels joined by dots, no final dot; bytes outside printable ASCII as \\DDD. Empty: the root.
        question: the question section's bytes, in the requester's spelling.
        udp_limit: bytes of an answer the requester takes over UDP.
        edns: whether the requester speaks EDNS, and so understands an extended error.
        data: the whole message.
    """

    identifier: int
    flags: int
    name: str
    kind: int
    question: bytes
    udp_limit: int
    edns: bool
    data: bytes


def parse_query(data: bytes) -> Query:
    """Reads a query.

    Raises:
        Malformed: shorter than a header, a response, not exactly one question, another opcode, or cut off.
    """
    if not HEADER.size <= len(data) <= MAX_MESSAGE:
        raise Malformed(f"{len(data)} bytes are no DNS message")
    identifier, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & _QR:
        raise Malformed("it is a response")
    if flags & _OPCODE:
        raise Malformed("only standard queries are answered")
    if questions != 1 or answers or authorities:
        raise Malformed("it does not consist of one question")
    name, position = _name(data, HEADER.size)
    if position + 4 > len(data):
        raise Malformed("the question is cut off")
    kind = int.from_bytes(data[position : position + 2], "big")
    position += 4
    limit = _edns_limit(data, position, additionals)
    return Query(
        identifier=identifier,
        flags=flags,
        name=name,
        kind=kind,
        question=data[HEADER.size : position],
        udp_limit=max(MINIMUM_UDP, limit or 0),
        edns=limit is not None,
        data=data,
    )


def identifier_of(data: bytes) -> int | None:
    """The identifier of a message, None when it is shorter than a header."""
    return int.from_bytes(data[:2], "big") if len(data) >= HEADER.size else None


def with_identifier(data: bytes, identifier: int) -> bytes:
    """The same message under another identifier."""
    return identifier.to_bytes(2, "big") + data[2:]


def answers_query(data: bytes, identifier: int, query: Query) -> bool:
    """Whether a message is a response to the query that was sent under `identifier` (RFC 5452 section 4.2).

    The question has to come back; names compare without regard to ASCII case. A server that could not read the query
    may leave the question out.
    """
    if not HEADER.size <= len(data) <= MAX_MESSAGE:
        return False
    found, flags, questions, *_ = HEADER.unpack_from(data)
    if found != identifier or not flags & _QR or flags & _OPCODE != query.flags & _OPCODE:
        return False
    if questions == 0:
        return ResponseCode.FORMERR <= response_code(data) <= ResponseCode.REFUSED
    end = HEADER.size + len(query.question)
    return questions == 1 and data[HEADER.size : end].lower() == query.question.lower()


def response_code(data: bytes) -> int:
    """The RCODE of a message of at least a header."""
    return data[3] & 0x0F


def is_truncated(data: bytes) -> bool:
    """Whether TC is set in a message of at least a header."""
    return bool(data[2] & 0x02)


def restore(data: bytes, query: Query, *, udp: bool) -> bytes:
    """A verified response as the requester gets it: its identifier, its spelling, truncated when it would not fit."""
    if HEADER.unpack_from(data)[2] != 1:
        return failure(query, response_code(data))
    body = data[HEADER.size + len(query.question) :]
    response = with_identifier(data[: HEADER.size], query.identifier) + query.question + body
    if udp and len(response) > query.udp_limit:
        flags = HEADER.unpack_from(data)[1] | _TC
        return HEADER.pack(query.identifier, flags, 1, 0, 0, 0) + query.question
    return response


def failure(query: Query, code: int, extended: ExtendedError | None = None, text: str = "") -> bytes:
    """An error response of our own, with an extended error (RFC 8914) when the requester speaks EDNS."""
    flags = _QR | _RA | (query.flags & (_RD | _CD)) | (code & 0x0F)
    option = b""
    if query.edns:
        if extended is not None:
            value = extended.to_bytes(2, "big") + text.encode()[:200]
            option = struct.pack("!HH", _OPTION_EDE, len(value)) + value
        # Root name, OPT, our UDP size, no extended RCODE, version 0, no flags.
        option = b"\0" + struct.pack("!HHIH", _TYPE_OPT, 1232, 0, len(option)) + option
    return HEADER.pack(query.identifier, flags, 1, 0, 0, 1 if option else 0) + query.question + option


def header_failure(data: bytes, code: int) -> bytes | None:
    """An error response without a question, for a query that could not be read; None when it deserves no answer."""
    if len(data) < HEADER.size:
        return None
    identifier, flags, *_ = HEADER.unpack_from(data)
    if flags & _QR:  # answering a response is how two servers talk for ever
        return None
    if flags & _OPCODE:
        code = ResponseCode.NOTIMP
    return HEADER.pack(identifier, _QR | (flags & (_OPCODE | _RD)) | (code & 0x0F), 0, 0, 0, 0)


def _name(data: bytes, position: int) -> tuple[str, int]:
    """An uncompressed name and the position behind it. A question is the first name: it has nothing to point to."""
    labels: list[str] = []
    start = position
    while True:
        if position >= len(data):
            raise Malformed("the name is cut off")
        length = data[position]
        position += 1
        if length == 0:
            break
        if length > 63:
            raise Malformed("a label of the question is compressed or too long")
        label = data[position : position + length]
        if len(label) < length:
            raise Malformed("a label is cut off")
        labels.append(_text(label))
        position += length
        if position - start > 254:
            raise Malformed("the name is longer than 255 bytes")
    return ".".join(labels), position


def _text(label: bytes) -> str:
    if label.isalnum() and label.isascii():
        return label.decode("ascii").lower()
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b".\\" else f"\\{byte:03d}" for byte in label.lower()
    )


def _edns_limit(data: bytes, position: int, additionals: int) -> int | None:
    """The requester's UDP size from its OPT record, None without one.

    Raises:
        Malformed: a record is cut off, or there are two OPT records (RFC 6891 section 6.1.1).
    """
    limit: int | None = None
    for _ in range(additionals):
        position = _skip_name(data, position)
        if position + 10 > len(data):
            raise Malformed("a record is cut off")
        kind, size, _, length = struct.unpack_from("!HHIH", data, position)
        position += 10 + length
        if position > len(data):
            raise Malformed("a record's data is cut off")
        if kind == _TYPE_OPT:
            if limit is not None:
                raise Malformed("it has two OPT records")
            limit = size
    return limit


def _skip_name(data: bytes, position: int) -> int:
    while position < len(data):
        length = data[position]
        if length == 0:
            return position + 1
        if length & 0xC0 == 0xC0:
            return position + 2
        if length & 0xC0:
            raise Malformed("a label has a reserved type")
        position += 1 + length
    raise Malformed("a name is cut off")
