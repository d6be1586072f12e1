"""An OpenID Connect provider as this server asks it: its metadata and its keys, cached, bounded, over TLS.

OpenID Connect Discovery 1.0 section 4, RFC 7517.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from portico.administration.oidc import Expected, Identity, UnknownKey, verify
from portico.errors import PorticoError, Unavailable

log = logging.getLogger("portico.access")

FRESH: Final = 600.0
"""Seconds for which keys are used without asking again."""
STALE: Final = 24 * 3600.0
"""Seconds for which they are used when the provider does not answer."""
BETWEEN: Final = 10.0
"""Seconds between two questions, however many tokens name keys that nobody knows."""
MAXIMUM_ANSWER: Final = 256 << 10
MAXIMUM_KEYS: Final = 64
SECONDS: Final = 5.0


@dataclass(frozen=True)
class Metadata:
    """What the provider says about itself, as far as a login needs it; None for what it does not offer."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None
    token_endpoint: str | None
    device_authorization_endpoint: str | None


class Provider:
    """One provider. Answers go to `Expected.verify`; nothing is trusted but what its keys signed.

    Args:
        trust: of the provider's own TLS certificate.
        transport: stands for the network in tests.
    """

    def __init__(
        self,
        issuer: str,
        trust: ssl.SSLContext,
        *,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.issuer = issuer
        self.problem: PorticoError | None = None
        """Why it could not be asked last time."""
        self._clock = clock
        self._http = httpx.AsyncClient(
            verify=trust, timeout=SECONDS, follow_redirects=False, trust_env=False, transport=transport
        )
        self._metadata: Metadata | None = None
        self._keys = KeySet([])
        self._fetched = self._asked = float("-inf")
        self._one = asyncio.Lock()

    async def close(self) -> None:
        await self._http.aclose()

    async def metadata(self) -> Metadata:
        """Raises Unavailable: code OIDC_UNAVAILABLE."""
        await self._refresh(FRESH)
        if self._metadata is None:
            raise self.problem or _unavailable(self.issuer, "nothing was learnt of it yet")
        return self._metadata

    async def identity(self, token: str, expected: Expected, now: float) -> Identity:
        """Who a token is about. Raises NotPermitted (see `portico.administration.oidc.verify`), Unavailable."""
        await self._refresh(FRESH)
        if not self._usable():
            raise self.problem or _unavailable(self.issuer, "its keys are not known")
        try:
            return verify(token, self._keys, expected, now)
        except UnknownKey:
            before = self._fetched
            await self._refresh(0.0)
            if self._fetched == before:
                raise
            return verify(token, self._keys, expected, now)

    def _usable(self) -> bool:
        return self._clock() - self._fetched < STALE

    async def _refresh(self, age: float) -> None:
        """Asks the provider when what is known is older than `age` seconds; keeps what is known when it fails."""
        async with self._one:
            now = self._clock()
            if now - self._fetched < age or now - self._asked < BETWEEN:
                return
            self._asked = now
            try:
                metadata = _metadata(
                    self.issuer, await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                )
                keys = _keys(await self._get(metadata.jwks_uri))
            except (httpx.HTTPError, ssl.SSLError, OSError, ValueError, RecursionError, JoseError) as error:
                self.problem = _unavailable(self.issuer, str(error)[:200] or type(error).__name__)
                log.warning("%s", self.problem)
                return
            self._metadata, self._keys, self._fetched, self.problem = metadata, keys, now, None

    async def _get(self, url: str) -> Any:
        async with self._http.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{url} answers with status {answer.status_code}")
            data = b""
            async for chunk in answer.aiter_bytes():
                data += chunk
                if len(data) > MAXIMUM_ANSWER:
                    raise ValueError(f"{url} answers with more than {MAXIMUM_ANSWER} bytes")
        return json.loads(data)


def secure_url(url: str) -> bool:
    """Whether a URL is https, or http to this machine itself (RFC 8252 section 7.3). Pure."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.username or parts.password or parts.fragment or not host:
        return False
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and ip_address(host).is_loopback
    except ValueError:
        return False


def _metadata(issuer: str, data: Any) -> Metadata:
    if not isinstance(data, dict) or data.get("issuer") != issuer:
        raise ValueError("the provider calls itself otherwise than the settings")
    found: dict[str, str | None] = {}
    for name in ("jwks_uri", "authorization_endpoint", "token_endpoint", "device_authorization_endpoint"):
        value = data.get(name)
        if value is not None and not (isinstance(value, str) and len(value) <= 2000 and secure_url(value)):
            raise ValueError(f"its {name} is no https URL")
        found[name] = value
    if found["jwks_uri"] is None:
        raise ValueError("it has no jwks_uri")
    return Metadata(
        issuer,
        found["jwks_uri"],
        found["authorization_endpoint"],
        found["token_endpoint"],
        found["device_authorization_endpoint"],
    )


def _keys(data: Any) -> KeySet:
    items = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(items, list) or len(items) > MAXIMUM_KEYS:
        raise ValueError("it answers with no set of keys")
    usable = []
    for item in items:
        if isinstance(item, dict) and item.get("kty") in ("RSA", "EC", "OKP") and item.get("use", "sig") == "sig":
            try:
                usable += KeySet.import_key_set({"keys": [item]}).keys
            except (JoseError, ValueError, TypeError, KeyError):
                continue  # of a kind that is not known here: its tokens are refused
    return KeySet(usable)


def _unavailable(issuer: str, why: str) -> PorticoError:
    return Unavailable(
        f"The OpenID Connect provider {issuer} cannot be asked",
        why=why,
        resolution="Look at management.oidc and at the provider; tokens and certificates are accepted meanwhile",
        code="OIDC_UNAVAILABLE",
    )
