"""What a support bundle must not hold, taken out of it wherever it stands: private keys, passwords, tokens.

Nothing secret is put into a bundle on purpose. This is for what gets there by accident, a password in a log line:
every secret of the state directory by its value, in the forms in which it may be written, and whatever looks like one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from portico.errors import PorticoError
from portico.files import read_file

REMOVED: Final = b"[removed]"

SHORTEST: Final = 4
"""Characters of a secret that is recognised by its value; one that is shorter would be found in every word."""

_MAXIMUM_FILES = 200
_MAXIMUM_FILE = 1 << 20

_KEY_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(.*?)-----END [A-Z0-9 ]*PRIVATE KEY-----", re.DOTALL)
_KEY_LINE = re.compile(rb"[A-Za-z0-9+/=]{4,}")
_USER_INFO = re.compile(r"(?:\w+://)?([^\s/@:]*):([^\s/@]*)@")

_SHAPES: Final[tuple[tuple[re.Pattern[bytes], bytes], ...]] = (
    (_KEY_BLOCK, REMOVED),
    # Cut off by the bound of an item: the rest is the key's.
    (re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*", re.DOTALL), REMOVED),
    (re.compile(rb"(://)[^/\s@\"']+@"), rb"\1" + REMOVED + b"@"),
    # JSON in base64url begins so: tokens of enrolment and of OpenID Connect.
    (re.compile(rb"\beyJ[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]*)*"), REMOVED),
    (re.compile(rb"(?i)\b((?:proxy-)?authorization\s*[:=]\s*\w+\s+)[^\s\"']+"), rb"\1" + REMOVED),
    (re.compile(rb"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), rb"\1" + REMOVED),
    (
        re.compile(
            rb"(?i)\b(password|passwd|passphrase|secret|token)(\"?\s*[=:]\s*\"?)(?!null|true|false)[^\s\"',;{}\[\]]+"
        ),
        rb"\1\2" + REMOVED,
    ),
)


class Redactor:
    """Takes secrets out.

    Attributes:
        removed: places where something was taken out.
    """

    def __init__(self, secrets: Iterable[bytes]) -> None:
        values = sorted({value for value in secrets if len(value) >= SHORTEST}, key=len, reverse=True)
        self._values = re.compile(b"|".join(map(re.escape, values))) if values else None
        self.removed = 0

    def clean(self, data: bytes) -> bytes:
        """The data without secrets."""
        if self._values is not None:
            data, count = self._values.subn(REMOVED, data)
            self.removed += count
        for shape, instead in _SHAPES:
            data, count = shape.subn(instead, data)
            self.removed += count
        return data


def secrets_of(directory: Path, environment: Mapping[str, str] = os.environ) -> set[bytes]:
    """Every secret in the files of a state directory, and the proxy's in the environment, as they may be written.

    A file that cannot be read has no part in a bundle either.
    """
    found: set[bytes] = set()
    for path in _files(directory):
        try:
            data = read_file(path, limit=_MAXIMUM_FILE)
        except PorticoError:
            continue
        found |= _of_keys(data)
        if ".secret" in path.name:
            found |= _forms(data)
        elif ".json" in path.name:
            found |= _of_json(data)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        found |= _of_proxy(environment.get(name, ""))
    return found


def _files(directory: Path) -> Iterator[Path]:
    count = 0
    for root, _, names in os.walk(directory):
        for name in sorted(names):
            count += 1
            if count > _MAXIMUM_FILES:
                return
            yield Path(root) / name


def _of_keys(data: bytes) -> set[bytes]:
    """Every private key: its lines, wherever they are broken off from each other, and what they encode."""
    found: set[bytes] = set()
    for block in _KEY_BLOCK.findall(data):
        lines = _KEY_LINE.findall(block.replace(b"\\n", b"\n"))
        found |= set(lines)
        with contextlib.suppress(binascii.Error):
            found |= _forms(base64.b64decode(b"".join(lines)))
    return found


def _of_json(data: bytes) -> set[bytes]:
    try:
        document = json.loads(data)
    except ValueError:
        return set()
    found: set[bytes] = set()
    for name, text in _texts(document):
        if "proxy" in name:
            found |= _of_proxy(text)
        elif any(part in name for part in ("password", "secret", "token")):
            found |= _forms(text.encode())
    return found


def _texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, name)
    elif isinstance(value, str):
        yield name, value


def _of_proxy(url: str) -> set[bytes]:
    found: set[bytes] = set()
    for user, password in _USER_INFO.findall(url):
        plain = unquote(password)
        found |= _forms(password.encode()) | _forms(plain.encode()) | _forms(quote(plain, safe="").encode())
        found.add(base64.b64encode(f"{unquote(user)}:{plain}".encode()))
    return found


def _forms(secret: bytes) -> set[bytes]:
    """As it is, in hexadecimal, in both alphabets of base64, and as JSON writes it."""
    found = {secret, secret.rstrip(b"\n"), binascii.hexlify(secret), binascii.hexlify(secret).upper()}
    for encoded in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        found |= {encoded, encoded.rstrip(b"=")}
    text = secret.decode("utf-8", "replace")
    return found | {json.dumps(text, ensure_ascii=narrow)[1:-1].encode() for narrow in (True, False)}
