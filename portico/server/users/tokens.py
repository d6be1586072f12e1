"""Users who log in with a token of an OpenID Connect provider: whose it is, and that it was made for this login."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Final

from portico.administration.access import expected, provider_trust
from portico.administration.provider import Provider
from portico.errors import NotPermitted
from portico.server.users.once import Once
from portico.settings.management import Management, Oidc

FRESH: Final = 300.0
"""Seconds since the provider made the token; the command line hands it over at once."""


class TokenLogins:
    """Asks the provider of the settings in force."""

    def __init__(self) -> None:
        self._provider: tuple[Oidc, Provider] | None = None
        self._used = Once()

    async def user(self, token: str, oidc: Oidc, management: Management, now: float) -> str:
        """The user of a token that was not used here before.

        Raises:
            NotPermitted: code CREDENTIAL_REFUSED, or TOKEN_NOT_FRESH.
            Unavailable: code OIDC_UNAVAILABLE.
        """
        if self._provider is None or self._provider[0] != oidc:
            context = await asyncio.to_thread(provider_trust, oidc.ca_file)
            await self.close()
            self._provider = (oidc, Provider(oidc.issuer, context))
        wanted = replace(expected(management, oidc), anybody=True)
        identity = await self._provider[1].identity(token, wanted, now)
        until = identity.issued + FRESH + oidc.clock_skew_seconds
        if now > until or not self._used.take(hashlib.sha256(token.encode()).hexdigest(), until, now):
            raise NotPermitted(
                "The login at the provider cannot be used again",
                why=f"its token was used, or the provider made it more than {FRESH:.0f} seconds ago",
                resolution="Log in again: portico client login",
                code="TOKEN_NOT_FRESH",
            )
        return identity.name

    async def close(self) -> None:
        """Ends the connections to the provider."""
        if self._provider is not None:
            await self._provider[1].close()
            self._provider = None
