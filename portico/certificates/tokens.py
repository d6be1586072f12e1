"""One-time enrolment tokens.

A token is base64url (no padding) of a JSON object {v, url, pin, id, secret, name}. The server keeps only the SHA-256 of
the secret (32 random bytes, so a slow hash would add nothing). It works once, expires, and three wrong secrets burn it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from portico.certificates import token_text
from portico.certificates.store import CertificateStore, TokenRecord, stamp, token_record
from portico.certificates.trust import pin
from portico.errors import Conflict, InvalidInput, LimitReached, NotPermitted

DEFAULT_LIFETIME = timedelta(hours=1)
MAXIMUM_LIFETIME = timedelta(days=30)
MAXIMUM_OPEN = 10_000
WRONG_SECRETS: Final = 3
_FIELDS: Final = ("url", "pin", "id", "secret", "name")

Random = Callable[[int], bytes]


class TokenRefused(NotPermitted):
    """A token that does not enrol. What the other side is told never says which of the reasons it was.

    Attributes:
        reason: for the log: unknown, used, burned, expired, wrong secret.
    """

    code = "TOKEN_REFUSED"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            "the enrolment token is not accepted",
            why="it is unknown, used, expired or wrong",
            resolution="Ask the administrator for a new one: portico ca token create --name NAME",
        )


@dataclass(frozen=True)
class TokenOutcome:
    """The client's name, or None and why not."""

    name: str | None
    refusal: str


@dataclass(frozen=True)
class Token:
    """What a token says. The secret stays out of its representation.

    Attributes:
        url: `https://host:port` of the server.
        pin: SHA-256 of the server's trust, see `portico.certificates.trust.pin`.
    """

    url: str
    pin: str
    id: str
    secret: str = field(repr=False)
    name: str

    @property
    def text(self) -> str:
        """The token as it is handed over."""
        return token_text.write({name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def parse(cls, text: str) -> Token:
        """Reads a token as it was handed over; blanks and line breaks of copying do not matter.

        Raises:
            InvalidInput: code TOKEN_MALFORMED.
        """
        try:
            values = token_text.texts(token_text.read(text), _FIELDS)
        except token_text.Malformed as error:
            raise _malformed(str(error)) from None
        if not re.fullmatch(r"https://[^/@?#\s]+", values["url"]):
            raise _malformed("its URL is not of the form https://host:port")
        return cls(**values)


def create_token(
    store: CertificateStore,
    *,
    name: str,
    url: str,
    trust: str,
    now: datetime,
    lifetime: timedelta = DEFAULT_LIFETIME,
    author: str = "root",
    random: Random = secrets.token_bytes,
) -> Token:
    """Makes a token; its text is shown once and cannot be recovered.

    Args:
        name: the client's name, which its certificate will carry (see `issue.client_name`; checked by the caller).
        trust: PEM of the CA that signs the server's certificate.

    Raises:
        InvalidInput: code TOKEN_LIFETIME.
        LimitReached: code TOKENS_FULL.
    """
    if not timedelta(0) < lifetime <= MAXIMUM_LIFETIME:
        raise InvalidInput(
            "the token cannot live that long",
            why=f"its lifetime must be positive and at most {MAXIMUM_LIFETIME.days} days",
            resolution="Choose another one, for example --ttl 1h",
            code="TOKEN_LIFETIME",
        )
    token = Token(
        url=url,
        pin=pin(trust),
        id=random(8).hex(),
        secret=base64.urlsafe_b64encode(random(32)).rstrip(b"=").decode(),
        name=name,
    )
    with store.transaction() as connection:
        # Tokens that can no longer do anything are kept for a month, to answer questions about them.
        connection.execute("DELETE FROM token WHERE expires < ?", (stamp(now - MAXIMUM_LIFETIME),))
        count = connection.execute("SELECT count(*) FROM token").fetchone()[0]
        if count >= MAXIMUM_OPEN:
            raise LimitReached(
                "no more tokens can be made",
                why=f"there are {count}",
                resolution="Wait until the oldest ones, a month past their end, are dropped",
                code="TOKENS_FULL",
            )
        if connection.execute("SELECT 1 FROM token WHERE id = ?", (token.id,)).fetchone():
            raise Conflict("the token cannot be made", why="its random id exists", resolution="Try again")
        connection.execute(
            "INSERT INTO token (id, name, secret_sha256, created, expires, author) VALUES (?, ?, ?, ?, ?, ?)",
            (token.id, name, _hash(token.secret), stamp(now), stamp(now + lifetime), author),
        )
    return token


def redeem(connection: sqlite3.Connection, token_id: str, secret: str, now: datetime) -> TokenOutcome:
    """Uses a token up, or counts a wrong secret, inside the caller's transaction.

    The caller commits in both cases and raises `TokenRefused(outcome.refusal)` only afterwards, or wrong secrets would
    not be counted.
    """
    row = connection.execute(
        "SELECT id, name, created, expires, author, failures, used, burned, secret_sha256 FROM token WHERE id = ?",
        (token_id,),
    ).fetchone()
    # The hash is compared even for an unknown id, so that the time taken says nothing.
    right = hmac.compare_digest(_hash(secret), row[8] if row else "0" * 64)
    if row is None:
        return TokenOutcome(None, "unknown")
    record = token_record(row[:8])
    state = record.state(now)
    if state != "open":
        return TokenOutcome(None, state)
    if right:
        connection.execute("UPDATE token SET used = ? WHERE id = ?", (stamp(now), token_id))
        return TokenOutcome(record.name, "")
    last = record.failures + 1 >= WRONG_SECRETS
    burned = stamp(now) if last else None
    connection.execute("UPDATE token SET failures = failures + 1, burned = ? WHERE id = ?", (burned, token_id))
    return TokenOutcome(None, "wrong secret, burned" if last else "wrong secret")


def burn_token(store: CertificateStore, token_id: str, now: datetime) -> TokenRecord:
    """Makes an open token useless. Raises NotFound (TOKEN_NOT_FOUND)."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE token SET burned = ? WHERE id = ? AND used IS NULL AND burned IS NULL", (stamp(now), token_id)
        )
    return store.token(token_id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(
        "this is not an enrolment token",
        why=why,
        resolution="Copy the whole token that 'portico ca token create' printed",
        code="TOKEN_MALFORMED",
    )
