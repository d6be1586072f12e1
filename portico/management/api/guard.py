"""What stands before the API: who asks, whether he may, how often, and what is written down of it.

ASGI middleware around the whole application, on every listener: a route cannot be reached past it, and a request whose
connection it does not know is refused.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.administration.access import Access, Caller
from portico.administration.limits import BackOff, RateLimit, place
from portico.administration.roles import Principal, Role, current
from portico.errors import InvalidInput, LimitReached, NotPermitted, PorticoError
from portico.http_status import status_of
from portico.management.api.forwarding import SERVER_HEADER, Forwarding
from portico.management.api.recording import Recorder
from portico.management.api.roles import READING, Requirements

log = logging.getLogger("portico.access")

CALLER: Final = "portico.caller"
"""Where a listener puts the `Caller` in the scope of a request."""
SESSION_COOKIE: Final = "portico_session"
STRANGERS = (20.0, 60.0)
"""Requests in a second, and at once, of one address."""
EACH = (100.0, 300.0)
"""The same of one principal."""


class Guard:
    """Lets through what may go through.

    Args:
        clock: seconds, for limits.
    """

    def __init__(
        self,
        app: FastAPI,
        access: Access,
        forwarding: Forwarding,
        *,
        clock: Callable[[], float] = time.monotonic,
        strangers: tuple[float, float] = STRANGERS,
        each: tuple[float, float] = EACH,
    ) -> None:
        self._app: ASGIApp = app
        self._access = access
        self._forwarding = forwarding
        self._requirements = Requirements(app)
        self._clock = clock
        self.addresses = RateLimit(*strangers)
        self.principals = RateLimit(*each)
        self.failures = BackOff()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # nothing else is served: a websocket is closed, there is no lifespan
        try:
            principal, needed = await self._admit(scope)
        except PorticoError as error:
            await refuse(send, error)
            return
        if needed is not None and (principal is None or principal.role < needed):
            await self._forbid(scope, send, principal, needed)
            return
        await self._serve(scope, receive, send, principal)

    async def answer(self, principal: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request that another server of the cluster passes on, for somebody whom it recognised."""
        needed = self._requirements.role(scope["method"], scope["path"])
        if needed is not None and principal.role < needed:
            await self._forbid(scope, send, principal, needed)
            return
        await self._local(scope, receive, send, principal)

    async def _admit(self, scope: Scope) -> tuple[Principal | None, Role | None]:
        caller = scope.get(CALLER)
        if not isinstance(caller, Caller):
            raise NotPermitted("Nobody may use this", why="nothing is known about the connection", code="NO_CALLER")
        needed = self._requirements.role(scope["method"], scope["path"])
        remote = caller.user != 0  # root of this machine could end the process as well
        where = place(caller.address) if caller.user is None else f"uid {caller.user}"
        now = self._clock()
        if remote:
            _wait(self.addresses.take(where, now), "too many requests come from this address", "RATE_LIMIT")
        if needed is None and not _has_credentials(scope):
            return None, None
        if remote:
            _wait(self.failures.wait(where, now), "too many logins failed from this address", "LOGIN_BACK_OFF")
        try:
            principal = await self._access.principal(caller, _credential(scope))
        except NotPermitted as error:
            if error.code == "CREDENTIAL_REFUSED" and remote:
                self.failures.failed(where, now)
            if needed is None:
                return None, None
            log.warning("address=%s refused=%s path=%r", caller.address, error.code, scope["path"][:100])
            raise
        if remote:
            self.failures.succeeded(where)
            key = f"{principal.kind} {principal.id or principal.name}"
            _wait(self.principals.take(key, now), f"{principal.name} asks too often", "RATE_LIMIT")
        return principal, needed

    async def _serve(self, scope: Scope, receive: Receive, send: Send, principal: Principal | None) -> None:
        other = self._forwarding.server(scope) if principal is not None else None
        if other is not None and principal is not None:
            try:
                await self._forwarding.forward(other, principal, scope, receive, send)
            except PorticoError as error:
                await refuse(send, error)
            return
        await self._local(scope, receive, send, principal)

    async def _local(self, scope: Scope, receive: Receive, send: Send, principal: Principal | None) -> None:
        token = current.set(principal)
        try:
            if principal is None or scope["method"] in READING:
                await self._app(scope, receive, send)
                return
            recorder = Recorder(self._access.audit, principal, scope)
            try:
                await recorder.ready()
            except PorticoError as error:
                await refuse(send, error)
                return
            try:
                await self._app(scope, recorder.receive(receive), recorder.send(send))
            finally:
                await recorder.write()
        finally:
            current.reset(token)

    async def _forbid(self, scope: Scope, send: Send, principal: Principal | None, needed: Role) -> None:
        name = principal.name if principal is not None else "Nobody"
        has = principal.role.text if principal is not None else "none"
        log.warning("principal=%r role=%s refused path=%r", name, has, scope["path"][:100])
        error = NotPermitted(
            f"{name} may not do this",
            why=f"it needs the role {needed.text}, and this login has {has}",
            resolution="Log in as somebody who may, or ask an administrator: management.roles",
            code="ROLE_NEEDED",
        )
        if principal is not None and scope["method"] not in READING:
            recorder = Recorder(self._access.audit, principal, scope)
            recorder.refused(403, error.code)
            await recorder.write()
        await refuse(send, error)


async def refuse(send: Send, error: PorticoError) -> None:
    """Answers with an error in the API's form."""
    status = 401 if error.code in ("NO_CREDENTIALS", "CREDENTIAL_REFUSED") else status_of(error)
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="Portico"'))
    if isinstance(error, _Wait):
        headers.append((b"retry-after", str(math.ceil(error.seconds)).encode()))
    body = json.dumps({"error": error.as_dict()}).encode()
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


class _Wait(LimitReached):
    def __init__(self, seconds: float, why: str, code: str) -> None:
        self.seconds = seconds
        wait = math.ceil(seconds)
        super().__init__("Not now", why=why, resolution=f"Try again in {wait} seconds", code=code)


def _wait(seconds: float, why: str, code: str) -> None:
    if seconds > 0:
        raise _Wait(seconds, why, code)


def _has_credentials(scope: Scope) -> bool:
    return any(name in (b"authorization", b"cookie") for name, _ in scope["headers"])


def _credential(scope: Scope) -> str | None:
    """The bearer token (RFC 6750 section 2.1), or the console's session cookie of a request from its own pages.

    Raises:
        InvalidInput: code CREDENTIALS_MALFORMED. NotPermitted: code CROSS_SITE.
    """
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if found:
        kind, _, text = found[0].decode("latin-1").partition(" ")
        if len(found) > 1 or kind.lower() != "bearer" or not text.strip() or not text.isascii():
            raise InvalidInput(
                "The credentials cannot be read",
                why="the header is not 'Authorization: Bearer TOKEN'",
                resolution="Send one such header",
                code="CREDENTIALS_MALFORMED",
            )
        return str(text).strip()
    session = _session(scope)
    if session is not None and scope["method"] not in READING and not _same_origin(scope):
        raise NotPermitted(
            "The request does not come from this server's own pages",
            why="a browser sent the session's cookie for another site",
            resolution="Use the console, or a token",
            code="CROSS_SITE",
        )
    return session


def _session(scope: Scope) -> str | None:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load("; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"))
    except CookieError:
        return None
    found = cookies.get(SESSION_COOKIE)
    return found.value if found is not None else None


def _same_origin(scope: Scope) -> bool:
    headers: dict[bytes, Any] = dict(scope["headers"])
    origin, host = headers.get(b"origin", b""), headers.get(b"host", b"")
    return bool(host) and origin == b"https://" + host


__all__ = ["CALLER", "SERVER_HEADER", "SESSION_COOKIE", "Guard", "refuse"]
