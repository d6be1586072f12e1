"""What a backup is encrypted to, and by what it is read: keys and passphrases in files."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from portico.errors import InvalidInput, NotPermitted
from portico.files import read_file
from portico.server.backup.container import Passphrase


def passphrase(path: Path, *, secret: bool = False) -> Passphrase:
    """The first line of a file.

    Args:
        secret: whether others may not be able to read the file.

    Raises:
        PorticoError: it cannot be read; NotPermitted: code BACKUP_PASSPHRASE_OPEN.
    """
    data = read_file(path, limit=4096)
    if secret and path.stat().st_mode & 0o077:
        raise NotPermitted(
            f"The passphrase in {path} is not used",
            why="others than its owner may read the file",
            resolution=f"chmod 600 {path}",
            code="BACKUP_PASSPHRASE_OPEN",
        )
    return Passphrase(data.split(b"\n")[0])


def public_key(path: Path) -> X25519PublicKey:
    """Raises PorticoError."""
    with contextlib.suppress(ValueError, TypeError):
        key = load_pem_public_key(read_file(path))
        if isinstance(key, X25519PublicKey):
            return key
    raise _no_key(path, "public")


def private_key(path: Path) -> X25519PrivateKey:
    """Raises PorticoError."""
    with contextlib.suppress(ValueError, TypeError):
        key = load_pem_private_key(read_file(path), password=None)
        if isinstance(key, X25519PrivateKey):
            return key
    raise _no_key(path, "private")


def _no_key(path: Path, kind: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is no X25519 {kind} key",
        resolution="Make one: openssl genpkey -algorithm x25519 -out backup.key; "
        "openssl pkey -in backup.key -pubout -out backup.pub",
    )
