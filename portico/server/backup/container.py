"""The encrypted file of a backup: a header of 80 bytes, then sealed chunks. No length in it is ever believed.

    14  PORTICO-BACKUP
     1  format, 1
     1  kind: 1 passphrase, 2 recipient
    32  salt of scrypt (RFC 7914), or the ephemeral X25519 public key (RFC 7748)
    32  zeros, or the recipient's X25519 public key
    ..  chunks of 65536 bytes and a tag of 16 (the last one is shorter or as long), ChaCha20-Poly1305 (RFC 8439)

The nonce of a chunk is its number (11 bytes, big-endian) and 1 for the last one, else 0: chunks that are left out,
repeated, exchanged or cut off at the end do not open (the STREAM construction, Hoang et al. 2015). The header is the
associated data of each chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from portico.errors import InvalidInput

MAGIC = b"PORTICO-BACKUP"
FORMAT = 1
HEADER = 80
CHUNK = 64 << 10
TAG = 16
MINIMUM_PASSPHRASE = 8
_PASSPHRASE, _RECIPIENT = 1, 2
_COST = 1 << 17
"""N of scrypt, with r = 8 and p = 1: 128 MiB. Part of the format, so that a file cannot ask for more."""


@dataclass(frozen=True)
class Passphrase:
    """Opens and seals. `text` is UTF-8, at least 8 bytes."""

    text: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.text) < MINIMUM_PASSPHRASE:
            raise InvalidInput(
                "The passphrase of a backup is too short",
                why=f"it has fewer than {MINIMUM_PASSPHRASE} bytes",
                resolution="Choose a longer one",
                code="BACKUP_PASSPHRASE",
            )


def seal(plain: Iterable[bytes], to: Passphrase | X25519PublicKey) -> Iterator[bytes]:
    """The file of these bytes, in pieces."""
    if isinstance(to, Passphrase):
        salt = os.urandom(32)
        header = MAGIC + bytes((FORMAT, _PASSPHRASE)) + salt + bytes(32)
        key = _stretched(to, salt)
    else:
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw() + to.public_bytes_raw()
        header = MAGIC + bytes((FORMAT, _RECIPIENT)) + public
        key = _agreed(ephemeral.exchange(to), public)
    yield header
    cipher, number, held = ChaCha20Poly1305(key), 0, bytearray()
    for piece in plain:
        held += piece
        while len(held) > CHUNK:
            yield cipher.encrypt(_nonce(number, last=False), bytes(held[:CHUNK]), header)
            del held[:CHUNK]
            number += 1
    yield cipher.encrypt(_nonce(number, last=True), bytes(held), header)


def unseal(file: BinaryIO, by: Passphrase | X25519PrivateKey) -> Iterator[bytes]:
    """The bytes of a file, in pieces of at most 64 KiB. They are complete only when the iterator ends.

    Raises:
        InvalidInput: BACKUP_FORMAT (not a backup, or of a newer format), BACKUP_KEY (the other kind of key, or the
            recipient of somebody else), BACKUP_DAMAGED (changed, cut off, or another passphrase).
    """
    header = file.read(HEADER)
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise InvalidInput(
            "This is no backup of Portico", why="its first bytes are others", code="BACKUP_FORMAT",
            resolution="Check that it is the right file, whole",
        )  # fmt: skip
    number, kind = header[14], header[15]
    if number != FORMAT or kind not in (_PASSPHRASE, _RECIPIENT):
        raise InvalidInput(
            "This backup cannot be read", why=f"it has format {number}.{kind}; this version knows format {FORMAT}",
            resolution="Use the version of Portico that wrote it, or a newer one", code="BACKUP_FORMAT",
        )  # fmt: skip
    cipher = ChaCha20Poly1305(_key(header, by))
    number, chunk = 0, file.read(CHUNK + TAG)
    while True:
        following = file.read(CHUNK + TAG) if len(chunk) == CHUNK + TAG else b""
        try:
            yield cipher.decrypt(_nonce(number, last=not following), chunk, header)
        except InvalidTag:
            first = number == 0
            raise InvalidInput(
                "The backup does not open" if first else "The backup is damaged",
                why="the passphrase or key is another one, or the file was changed" if first
                else f"it was changed or cut off at byte {HEADER + number * (CHUNK + TAG)} or later",
                resolution="Check the passphrase or key" if first else "Use another copy of it",
                code="BACKUP_DAMAGED",
            ) from None  # fmt: skip
        if not following:
            return
        chunk, number = following, number + 1


def _key(header: bytes, by: Passphrase | X25519PrivateKey) -> bytes:
    if header[15] == _PASSPHRASE and isinstance(by, Passphrase):
        return _stretched(by, header[16:48])
    if header[15] == _RECIPIENT and isinstance(by, X25519PrivateKey):
        if by.public_key().public_bytes_raw() == header[48:80]:
            try:
                shared = by.exchange(X25519PublicKey.from_public_bytes(header[16:48]))
            except ValueError:  # RFC 7748 section 6.1: a point of small order
                raise InvalidInput("The backup is damaged", why="its key is none", code="BACKUP_DAMAGED") from None
            return _agreed(shared, header[16:80])
        why = "it was made for another recipient"
    else:
        why = f"it opens by a {'passphrase' if header[15] == _PASSPHRASE else 'private key'}"
    raise InvalidInput("The backup does not open", why=why, resolution="Give the key for it", code="BACKUP_KEY")


def _stretched(passphrase: Passphrase, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.text)


def _agreed(shared: bytes, public: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=public, info=b"portico backup 1").derive(shared)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((last,))
