"""Keys for DNS updates, from files that only their owner reads."""

from __future__ import annotations

import binascii
import os
import re
import stat
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from portico.errors import InvalidInput, NotPermitted, PorticoError
from portico.files import read_file
from portico.settings.facts import SecretFile
from portico.settings.model import Settings

_KEY = re.compile(
    r'key\s+"?(?P<name>[A-Za-z0-9._-]+)"?\s*\{\s*'
    r'algorithm\s+"?(?P<algorithm>[A-Za-z0-9-]+)"?\s*;\s*'
    r'secret\s+"?(?P<secret>[A-Za-z0-9+/=]+)"?\s*;\s*\}\s*;',
    flags=re.ASCII,
)
_COMMENT = re.compile(r'(?P<quoted>"[^"]*")|//[^\n]*|#[^\n]*|/\*.*?\*/', flags=re.DOTALL)
"""Or what is in quotes: base64 may have two slashes in a row."""
_ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
"""RFC 8945 section 6, without those that it says must not be used (MD5) or should not (SHA-1)."""

MINIMUM_SECRET = 16
MAXIMUM_FILE = 64 * 1024
MAXIMUM_KEYTAB = 1 << 20


@dataclass(frozen=True)
class TsigKey:
    """A shared key (RFC 8945). The secret stays out of its representation."""

    name: str
    algorithm: str
    secret: bytes = field(repr=False)


def only_owners(path: Path) -> None:
    """Refuses a file that others than its owner may read, or whose owner is somebody else.

    Raises:
        NotPermitted: code SECRET_FILE_EXPOSED. A file that is not there is not judged.
    """
    try:
        found = path.stat()
    except OSError:
        return
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid not in (0, os.geteuid()):
        raise NotPermitted(
            f"cannot use the secret in {path}",
            why=f"others than root may read or replace it (mode {stat.S_IMODE(found.st_mode):04o}, "
            f"owner {found.st_uid})",
            resolution=f"chown root {path} && chmod 600 {path}; make a new key if others may have read it",
            code="SECRET_FILE_EXPOSED",
        )


def read_tsig_key(path: Path) -> TsigKey:
    """The key in a file as tsig-keygen prints it and named.conf includes it.

    Raises:
        PorticoError: of `read_file`; NotPermitted, code SECRET_FILE_EXPOSED; InvalidInput, code TSIG_KEY_INVALID.
    """
    only_owners(path)
    data = read_file(path, limit=MAXIMUM_FILE)
    try:
        text = _COMMENT.sub(lambda found: found["quoted"] or "", data.decode("ascii"))
    except UnicodeDecodeError:
        raise _invalid(path, "it is not text") from None
    found = _KEY.findall(text)
    match = _KEY.search(text)
    if match is None or len(found) != 1:
        raise _invalid(path, f"it holds {len(found)} keys of the form key NAME {{ algorithm ...; secret ...; }};")
    algorithm = match["algorithm"].lower()
    if algorithm not in _ALGORITHMS:
        raise _invalid(path, f"the algorithm {algorithm} is not accepted; use one of {', '.join(_ALGORITHMS)}")
    try:
        secret = b64decode(match["secret"], validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(path, "its secret is not base64") from None
    if len(secret) < MINIMUM_SECRET:
        raise _invalid(path, f"its secret has {len(secret)} bytes; {MINIMUM_SECRET} at least")
    return TsigKey(match["name"].lower().removesuffix("."), algorithm, secret)


def check_keytab(path: Path) -> None:
    """Refuses what is no keytab (it begins with 5 and its version) or is not root's alone. Raises PorticoError."""
    only_owners(path)
    data = read_file(path, limit=MAXIMUM_KEYTAB)
    if data[:2] not in (b"\x05\x01", b"\x05\x02"):
        raise InvalidInput(
            f"cannot use the keytab {path}",
            why="it is not in the format of a keytab",
            resolution=f"Look at it with: klist -k {path}",
            code="KEYTAB_INVALID",
        )


def secret_files(settings: Settings) -> Iterator[SecretFile]:
    """Looks at the files that the settings name, for `verify`; never raises for what a file holds."""
    section = settings.corporate_dns
    if section.state == "disabled":
        return
    if section.update == "tsig" and section.key_file is not None:
        yield _look("corporate_dns.key_file", section.key_file, tsig=True)
    if section.update == "gss-tsig" and section.keytab is not None:
        yield _look("corporate_dns.keytab", section.keytab, tsig=False)


def _look(setting: str, file: str, *, tsig: bool) -> SecretFile:
    try:
        if tsig:
            read_tsig_key(Path(file))
        else:
            check_keytab(Path(file))
    except PorticoError as error:
        return SecretFile(setting, file, error.why or error.what, error.resolution or f"Correct {setting}")
    return SecretFile(setting, file)


def _invalid(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"cannot use the key in {path}",
        why=why,
        resolution=f"Make a new one on the DNS server: tsig-keygen portico > {path.name}",
        code="TSIG_KEY_INVALID",
    )
