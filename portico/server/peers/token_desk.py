"""Where one-time tokens are made and taken back: for machines that become servers, and for the witness.

Both kinds are the same token, kept in a file of their own, so that neither opens what the other does.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from portico import __version__
from portico.certificates.issue import parse_request
from portico.certificates.trust import pin
from portico.errors import Conflict
from portico.files import private_directory
from portico.server.credentials import now_utc
from portico.server.peers import messages
from portico.server.peers.tokens import JoinToken, JoinTokens

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers


@dataclass(frozen=True)
class Shown:
    """A token that was accepted, and the signing request (PEM) that came with it and was made with `key`."""

    token: str
    name: str
    wish: dict[str, Any]
    request: str
    key: CertificatePublicKeyTypes


class TokenDesk:
    """The tokens of one kind on one server. The caller sees to it that one thing is done at a time.

    Args:
        directory: of their file; made when the first token is.
    """

    def __init__(self, peers: Peers, directory: Path) -> None:
        self._peers = peers
        self._directory = directory
        self.tokens = JoinTokens(directory)

    async def create(self, name: str, wish: dict[str, Any], lifetime: timedelta) -> JoinToken:
        """A token that brings its machine to this server. Raises LB_DISABLED, and as `JoinTokens.create`."""
        _, _, (host, port) = self._peers.require_cluster()
        trust = pin(self._peers.trust)

        def make() -> JoinToken:
            private_directory(self._directory)
            return self.tokens.create(
                name=name, wish=wish, host=host, port=port, pin=trust, now=now_utc(), lifetime=lifetime
            )

        return await asyncio.to_thread(make)

    async def redeem(self, body: dict[str, Any]) -> Shown:
        """What a machine that asks shows: {token, secret, request}. It may ask again, with the same key.

        Raises:
            TokenRefused: see `JoinTokens.redeem`.
            InvalidInput: the request is none, or a field is missing.
        """
        request = messages.text(body, "request", limit=16 << 10)
        key = parse_request(request)
        public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        token, secret = messages.text(body, "token"), messages.text(body, "secret")
        digest = hashlib.sha256(public).hexdigest()
        name, wish = await asyncio.to_thread(self.tokens.redeem, token, secret, digest, now_utc())
        return Shown(token, name, wish, request, key)


def require_same_version(body: dict[str, Any], what: str) -> None:
    """Servers of neighbouring versions run side by side during an upgrade; nobody joins meanwhile.

    Args:
        what: cannot be done otherwise, in words.

    Raises:
        Conflict: code VERSION_DIFFERS.
    """
    version = messages.text(body, "version")
    if version != __version__:
        raise Conflict(
            what,
            why=f"it has Portico {version[:40]}, the cluster {__version__}",
            resolution="Install the same version on all servers, and on the witness",
            code="VERSION_DIFFERS",
        )
