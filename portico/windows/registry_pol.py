"""Registry.pol, the file that carries registry values in a Group Policy object ([MS-GPREG] 2.2.1). Pure.

A header ("PReg", version 1), then `[key;value;type;size;data]` per value: brackets and semicolons are UTF-16LE
characters, names end with a zero character, type and size are little-endian 32-bit numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

SIGNATURE: Final = b"PReg\x01\x00\x00\x00"
MAXIMUM_SIZE: Final = 16 << 20
MAXIMUM_VALUES: Final = 100_000
# Names of keys have at most 255 characters a part and 16,383 in all, as Windows has them.
_MAXIMUM_NAME: Final = 16_384


class Kind(IntEnum):
    """Types of values, with Windows's numbers."""

    NONE = 0
    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    LINK = 6
    MULTI_SZ = 7
    QWORD = 11


Data = str | int | tuple[str, ...] | bytes


@dataclass(frozen=True)
class RegistryValue:
    """One value below HKEY_LOCAL_MACHINE.

    Attributes:
        data: text for SZ and EXPAND_SZ, a number for DWORD and QWORD, a tuple of texts for MULTI_SZ, bytes otherwise.
    """

    key: str
    name: str
    kind: Kind
    data: Data

    def encoded(self) -> bytes:
        """The data as the registry holds it.

        Raises:
            ValueError: the data is not of the kind.
        """
        match self.kind, self.data:
            case ((Kind.SZ | Kind.EXPAND_SZ | Kind.LINK), str(text)):
                return _text(text)
            case Kind.MULTI_SZ, tuple(texts):
                if any(not text for text in texts):
                    raise ValueError(f"{self.key}\\{self.name}: an empty text would end the list")
                return b"".join(map(_text, texts)) + b"\0\0"
            case Kind.DWORD, int(number) if 0 <= number < 1 << 32:
                return struct.pack("<I", number)
            case Kind.QWORD, int(number) if 0 <= number < 1 << 64:
                return struct.pack("<Q", number)
            case _, bytes(raw):
                return raw
        raise ValueError(f"{self.key}\\{self.name}: {self.data!r} is no {self.kind.name}")


def pack(values: Iterable[RegistryValue]) -> bytes:
    """The file.

    Raises:
        ValueError: a value's data is not of its kind, or a name has a character that ends names.
    """
    parts = [SIGNATURE]
    for value in values:
        data = value.encoded()
        fields = (
            _name(value.key),
            _name(value.name),
            struct.pack("<I", value.kind),
            struct.pack("<I", len(data)),
            data,
        )
        parts.append("[".encode("utf-16-le") + ";".encode("utf-16-le").join(fields) + "]".encode("utf-16-le"))
    return b"".join(parts)


def parse(data: bytes) -> list[RegistryValue]:
    """Reads a file; the data of a value that is not what its type says comes as bytes.

    Raises:
        ValueError: it is not such a file, is cut off, or too large; with the position.
    """
    if len(data) > MAXIMUM_SIZE:
        raise ValueError(f"it is larger than {MAXIMUM_SIZE} bytes")
    if data[:4] != SIGNATURE[:4]:
        raise ValueError("it does not begin with 'PReg'")
    if data[: len(SIGNATURE)] != SIGNATURE:
        raise ValueError("it is not version 1 of the format")
    values: list[RegistryValue] = []
    at = len(SIGNATURE)
    while at < len(data):
        if len(values) == MAXIMUM_VALUES:
            raise ValueError(f"it has more than {MAXIMUM_VALUES} values")
        at = _expect(data, at, "[")
        key, at = _read_name(data, at)
        at = _expect(data, at, ";")
        name, at = _read_name(data, at)
        at = _expect(data, at, ";")
        number, at = _read_number(data, at)
        at = _expect(data, at, ";")
        size, at = _read_number(data, at)
        at = _expect(data, at, ";")
        if size > len(data) - at:
            raise ValueError(f"byte {at}: a value of {size} bytes is cut off")
        raw, at = data[at : at + size], at + size
        at = _expect(data, at, "]")
        values.append(_value(key, name, number, raw))
    return values


def _value(key: str, name: str, number: int, raw: bytes) -> RegistryValue:
    try:
        kind = Kind(number)
    except ValueError:
        return RegistryValue(key, name, Kind.BINARY, raw)
    return RegistryValue(key, name, kind, decoded(kind, raw))


def decoded(kind: Kind, raw: bytes) -> Data:
    """The data of a value from the bytes of the registry; the bytes themselves when they are no such data."""
    if kind is Kind.DWORD and len(raw) == 4:
        return int(struct.unpack("<I", raw)[0])
    if kind is Kind.QWORD and len(raw) == 8:
        return int(struct.unpack("<Q", raw)[0])
    if kind in (Kind.SZ, Kind.EXPAND_SZ, Kind.MULTI_SZ) and len(raw) % 2 == 0:
        try:
            text = raw.decode("utf-16-le")
        except UnicodeDecodeError:
            return raw
        if kind is Kind.MULTI_SZ:
            return tuple(part for part in text.split("\0") if part)
        return text.split("\0", 1)[0]
    return raw


def _text(text: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero character")
    return text.encode("utf-16-le") + b"\0\0"


def _name(name: str) -> bytes:
    if not name or len(name) > _MAXIMUM_NAME:
        raise ValueError(f"a name has 1 to {_MAXIMUM_NAME} characters")
    return _text(name)


def _expect(data: bytes, at: int, character: str) -> int:
    if data[at : at + 2] != character.encode("utf-16-le"):
        raise ValueError(f"byte {at}: '{character}' was expected")
    return at + 2


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    end = at
    limit = min(len(data) - 1, at + 2 * _MAXIMUM_NAME)
    while end < limit and data[end : end + 2] != b"\0\0":
        end += 2
    if end >= limit:
        raise ValueError(f"byte {at}: a name does not end")
    try:
        return data[at:end].decode("utf-16-le"), end + 2
    except UnicodeDecodeError:
        raise ValueError(f"byte {at}: a name is not UTF-16") from None


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(data):
        raise ValueError(f"byte {at}: it is cut off")
    return int(struct.unpack_from("<I", data, at)[0]), at + 4
