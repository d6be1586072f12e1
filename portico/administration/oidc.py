"""Tokens of an OpenID Connect provider: what a signed token says, and whether it is for this cluster. Pure.

OpenID Connect Core 1.0 section 3.1.3.7 (ID tokens), RFC 9068 section 4 (access tokens that are JWTs), RFC 8725.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from portico.administration.records import refused
from portico.administration.roles import Role
from portico.errors import NotPermitted

ALGORITHMS: Final = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
]
"""Signatures by a key that the provider alone has: no `none`, and no HMAC, whose key a client shares."""
MAXIMUM_TOKEN: Final = 16 << 10
MAXIMUM_GROUPS: Final = 500
MAXIMUM_AGE: Final = 24 * 3600
"""Seconds; a token that lives longer than this is not for people."""


@dataclass(frozen=True)
class Expected:
    """What the settings say about a provider's tokens.

    Attributes:
        audiences: one of them must be in the token's `aud`.
        groups, users: to the role that they have; the highest one of a token holds.
        skew: seconds that clocks may differ.
    """

    issuer: str
    audiences: tuple[str, ...]
    groups_claim: str
    name_claim: str
    groups: Mapping[str, Role]
    users: Mapping[str, Role]
    skew: int = 60
    anybody: bool = False
    """Whether somebody without a role is known too, as users of remote computers are; the role means nothing then."""


@dataclass(frozen=True)
class Identity:
    """Who a token is about. Times in seconds since the epoch."""

    subject: str
    name: str
    groups: tuple[str, ...]
    role: Role
    issued: float
    expires: float


class UnknownKey(NotPermitted):
    """The token is signed with a key that is not in the set: the provider may have made a new one."""

    code = "CREDENTIAL_REFUSED"


def is_jwt(text: str) -> bool:
    """Whether a credential looks like a signed JWT (RFC 7515 compact form)."""
    return len(text) <= MAXIMUM_TOKEN and text.count(".") == 2 and text.startswith("ey")


def verify(token: str, keys: KeySet, expected: Expected, now: float) -> Identity:
    """The identity of a token whose signature, issuer, audience and times are right, and whose role is known.

    Raises:
        UnknownKey: no key fits; look for newer ones once.
        NotPermitted: code CREDENTIAL_REFUSED, or NO_ROLE for somebody whom no group and no mapping gives a role.
    """
    if len(token) > MAXIMUM_TOKEN:
        raise refused()
    decoded = _decoded(token, keys)
    claims = decoded.claims
    subject, audience = claims.get("sub"), claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    issued, expires, begins = (claims.get(key) for key in ("iat", "exp", "nbf"))
    if (
        claims.get("iss") != expected.issuer
        or not isinstance(subject, str)
        or not 0 < len(subject) <= 255
        or not isinstance(audiences, list)
        or not set(expected.audiences) & {item for item in audiences if isinstance(item, str)}
        or not _time(issued)
        or not _time(expires)
        or (begins is not None and not _time(begins))
        or decoded.header.get("typ", "JWT").lower() in ("logout+jwt", "secevent+jwt", "dpop+jwt")
        or "cnf" in claims  # bound to a key that nobody shows here
    ):
        raise refused()
    assert isinstance(issued, (int, float)) and isinstance(expires, (int, float))
    if (
        expires + expected.skew <= now
        or issued - expected.skew > now
        or expires - issued > MAXIMUM_AGE
        or (begins is not None and begins - expected.skew > now)
    ):
        raise refused()
    name = claims.get(expected.name_claim)
    if not isinstance(name, str) or not name or len(name) > 100 or not name.isprintable():
        name = subject if subject.isprintable() else "?"
    groups = _groups(claims.get(expected.groups_claim))
    roles = [expected.groups[group] for group in groups if group in expected.groups]
    roles += [expected.users[subject]] if subject in expected.users else []
    if not roles and not expected.anybody:
        raise NotPermitted(
            f"{name} may not administer this cluster",
            why="no group of this user, and not the user itself, has a role in management.roles",
            resolution="Ask an administrator for a role: management.roles, source oidc_group or oidc_user",
            code="NO_ROLE",
        )
    return Identity(subject, name, groups, max(roles, default=Role.VIEWER), float(issued), float(expires))


def _decoded(token: str, keys: KeySet) -> jwt.Token:
    """The token if one of the keys signed it: the one it names, any of them when it names none."""
    try:
        header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
        named = isinstance(header, dict) and "kid" in header
    except (ValueError, RecursionError):
        raise refused() from None
    tried = [keys] if named else [KeySet([key]) for key in keys.keys]
    missing = not tried
    for one in tried:
        try:
            return jwt.decode(token, one, algorithms=list(ALGORITHMS))
        except InvalidKeyIdError:
            missing = True
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            continue
    raise _unknown_key() if missing else refused()


def _groups(claim: Any) -> tuple[str, ...]:
    items = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return tuple(item for item in items[:MAXIMUM_GROUPS] if isinstance(item, str))


def _time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _unknown_key() -> UnknownKey:
    error = refused()
    return UnknownKey(error.what, why=error.why, resolution=error.resolution)
