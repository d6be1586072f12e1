"""One-time tokens with which a machine joins the cluster: made and redeemed on one server, which keeps their hashes.

A token is base64url (no padding) of a JSON object {v, host, port, pin, id, secret, name}. It works for one key: the
machine that used it may repeat its request until the token ends, for an answer that was lost on the way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from portico.certificates import token_text
from portico.certificates.tokens import WRONG_SECRETS, TokenRefused
from portico.errors import InvalidInput, LimitReached, NotFound, PorticoError
from portico.files import read_file, write_file

LIFETIME = timedelta(hours=1)
MAXIMUM_LIFETIME = timedelta(days=1)
MAXIMUM_OPEN = 32
TOKENS_NAME = "join_tokens.json"

Random = Callable[[int], bytes]


@dataclass(frozen=True)
class JoinToken:
    """What a token says. The secret stays out of its representation.

    Attributes:
        host, port: the peers' listener of the server that made it.
        pin: SHA-256 of the cluster's CA, see `portico.certificates.trust.pin`.
        name: the new server's name.
    """

    host: str
    port: int
    pin: str
    id: str
    secret: str = field(repr=False)
    name: str

    @property
    def text(self) -> str:
        """The token as it is handed over."""
        return token_text.write({"kind": "join", **asdict(self)})

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Reads a token as it was handed over. Raises InvalidInput (JOIN_TOKEN_MALFORMED)."""
        try:
            fields = token_text.read(text)
            if fields.get("kind") != "join":
                raise token_text.Malformed("it is no token for joining")
            values = token_text.texts(fields, ("host", "pin", "id", "secret", "name"))
        except token_text.Malformed as error:
            raise _malformed(str(error)) from None
        port = fields.get("port")
        if type(port) is not int or not 0 < port < 65536:
            raise _malformed("'port' is missing")
        return cls(port=port, **values)


@dataclass
class _Record:
    id: str
    name: str
    secret_sha256: str
    expires: str
    wish: dict[str, Any]
    failures: int = 0
    key_sha256: str | None = None
    """Of the key that used it."""
    added: int | None = None
    """The revision that took the server in, until the server says that it has everything."""

    @property
    def end(self) -> datetime:
        return datetime.fromisoformat(self.expires)


@dataclass(frozen=True)
class TokenSeen:
    """A token without its secret.

    Attributes:
        state: open, used, expired or burned.
        waiting: its server was taken in, and has not said yet that it has everything.
    """

    state: str
    expires: str
    waiting: bool


class JoinTokens:
    """The tokens of one server, in a private file. Blocking."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / TOKENS_NAME

    def create(
        self,
        *,
        name: str,
        wish: dict[str, Any],
        host: str,
        port: int,
        pin: str,
        now: datetime,
        lifetime: timedelta = LIFETIME,
        random: Random = secrets.token_bytes,
    ) -> JoinToken:
        """Makes a token in place of an earlier one for the same name.

        Args:
            wish: what the administrator decided about the server: addresses, priority, weight.

        Raises:
            InvalidInput: code TOKEN_LIFETIME. LimitReached: code TOKENS_FULL. Unavailable: it cannot be stored.
        """
        if not timedelta(0) < lifetime <= MAXIMUM_LIFETIME:
            raise InvalidInput(
                "the token cannot live that long",
                why="its lifetime must be positive and at most a day",
                resolution="Choose another one, for example --ttl 1h",
                code="TOKEN_LIFETIME",
            )
        records = [item for item in self._read() if item.end > now and item.name != name]
        if len(records) >= MAXIMUM_OPEN:
            raise LimitReached(
                "no more tokens can be made",
                why=f"there are {len(records)}",
                resolution="Wait until the oldest ends",
                code="TOKENS_FULL",
            )
        secret = base64.urlsafe_b64encode(random(32)).rstrip(b"=").decode()
        token = JoinToken(host=host, port=port, pin=pin, id=random(8).hex(), secret=secret, name=name)
        records.append(_Record(token.id, name, _hash(secret), (now + lifetime).isoformat(), wish))
        self._write(records)
        return token

    def redeem(self, token_id: str, secret: str, key_sha256: str, now: datetime) -> tuple[str, dict[str, Any]]:
        """The name and the wish of a token, which belongs to that key from now on.

        Raises:
            TokenRefused: unknown, used by another key, expired, wrong secret; three wrong ones burn it.
        """
        records = self._read()
        record = next((item for item in records if item.id == token_id), None)
        right = hmac.compare_digest(_hash(secret), record.secret_sha256 if record is not None else "0" * 64)
        if record is None:
            raise _refused("unknown")
        if now >= record.end:
            raise _refused("expired")
        if record.failures >= WRONG_SECRETS:
            raise _refused("burned")
        if not right:
            record.failures += 1
            self._write(records)
            raise _refused("wrong secret")
        if record.key_sha256 is not None and record.key_sha256 != key_sha256:
            raise _refused("used")
        if record.key_sha256 is None:
            record.key_sha256 = key_sha256
            self._write(records)
        return record.name, record.wish

    def note_added(self, token_id: str, revision: int) -> None:
        """The server of this token is in the document since that revision, and has not confirmed yet."""
        self._update(token_id, revision)

    def confirm(self, name: str) -> bool:
        """The server has everything; whether anybody waited for that."""
        records = self._read()
        waiting = [item for item in records if item.name == name and item.added is not None]
        for item in waiting:
            item.added = None
        if waiting:
            self._write(records)
        return bool(waiting)

    def settle(self, heard: Collection[str], now: datetime) -> list[str]:
        """Servers that were taken in and were not heard of before their token ended; they are told once.

        Args:
            heard: servers that answer: whatever became of their confirmation, they have everything.
        """
        records = self._read()
        waiting = [item for item in records if item.added is not None]
        for item in waiting:
            if item.name in heard:
                item.added = None
        lost = [item for item in waiting if item.added is not None and now >= item.end]
        if lost or any(item.added is None for item in waiting):
            self._write([item for item in records if item not in lost])
        return [item.name for item in lost]

    def burn(self, name: str) -> None:
        """Makes the tokens for a name useless."""
        records = self._read()
        left = [item for item in records if item.name != name]
        if len(left) != len(records):
            self._write(left)

    def as_list(self, now: datetime) -> list[dict[str, str]]:
        """Every token without its secret: {id, name, expires, state}."""
        return [
            {"id": item.id, "name": item.name, "expires": item.expires, "state": _state(item, now)}
            for item in self._read()
        ]

    def by_name(self, now: datetime) -> dict[str, TokenSeen]:
        """What is known of each server's token; one that ended while its machine was joining is expired."""
        return {
            item.name: TokenSeen(
                "expired" if now >= item.end and item.added is None else _state(item, now),
                item.expires,
                item.added is not None,
            )
            for item in self._read()
        }

    def _update(self, token_id: str, revision: int) -> None:
        records = self._read()
        for item in records:
            if item.id == token_id:
                item.added = revision
        self._write(records)

    def _read(self) -> list[_Record]:
        try:
            return [_Record(**item) for item in json.loads(read_file(self._path))]
        except NotFound:
            return []
        except (ValueError, TypeError, RecursionError):
            raise InvalidInput(
                f"{self._path} cannot be used",
                why="it is damaged",
                resolution=f"Remove it and make new tokens: rm {self._path}",
                code="FILE_DAMAGED",
            ) from None

    def _write(self, records: list[_Record]) -> None:
        write_file(self._path, json.dumps([asdict(item) for item in records]).encode())


def _state(item: _Record, now: datetime) -> str:
    if item.key_sha256 is not None:
        return "used"
    if item.failures >= WRONG_SECRETS:
        return "burned"
    return "expired" if now >= item.end else "open"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _refused(reason: str) -> TokenRefused:
    refusal = TokenRefused(reason)
    refusal.what = "the token is not accepted"
    refusal.resolution = "Make a new one on a server of the cluster: portico lb add NAME"
    return refusal


def _malformed(why: str) -> PorticoError:
    return InvalidInput(
        "this is not a token for joining a cluster",
        why=why,
        resolution="Copy the whole token that 'portico lb add' printed",
        code="JOIN_TOKEN_MALFORMED",
    )
