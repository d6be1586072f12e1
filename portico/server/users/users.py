"""Users of remote computers at one server: they log in, the intranet opens for their computer, and it closes again.

Requests come from the computer's agent over the IP-HTTPS listener, whose TLS has verified the computer's certificate.
What was granted is a file here and the same on every server; what is open follows from it and from the tunnels that
are up, in the packet filter (IPv6) and in the gateway (NAT64).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from portico.administration.access import provider_authority
from portico.administration.limits import BackOff, RateLimit, place
from portico.errors import Conflict, InvalidInput, LimitReached, NotFound, NotPermitted, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.server.credentials import now_utc
from portico.server.gateway import Request
from portico.server.reconcile.level_rules import Member
from portico.server.users.grants import Grant, Grants
from portico.server.users.opened import Tunnels, machine_of
from portico.server.users.proof import Challenges, Trust, signed_text, verify
from portico.server.users.tokens import TokenLogins
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.users")

NAME: Final = "users.json"
MAXIMUM_FILE: Final = 32 << 20
LOGINS_PER_SECOND: Final = 0.2
LOGIN_BURST: Final = 10
LOOK: Final = 60.0
"""Seconds between looks at the gateway's own list of tunnels."""
AGAIN: Final = 1.0
"""Seconds until something that failed is tried again."""
TOGETHER: Final = 0.05
"""Seconds in which changes are gathered."""
PROVIDER_SECONDS: Final = 12.0
SPREAD_SECONDS: Final = 2.0
"""So long a login waits until the other servers know of it; the gateway waits 15 s for everything."""


class Users:
    """The users of one server's agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._path = agent.state / NAME
        self._lock = threading.Lock()
        self._challenges = Challenges()
        self._logins = RateLimit(LOGINS_PER_SECOND, LOGIN_BURST)
        self._failures = BackOff()
        self._tunnels = Tunnels()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tokens = TokenLogins()
        self._given: tuple[bool, tuple[Member, ...]] | None = None
        self._looked = float("-inf")
        self.problem: PorticoError | None = None
        """Why what is open is not what it should be."""
        self._grants = Grants(self._load())
        agent.platform.kernel.users = self.members

    @property
    def routes(self) -> Mapping[tuple[str, str], Callable[[Request, Settings], dict[str, Any]]]:
        """What a computer may ask. Blocking; errors are PorticoErrors."""
        return {
            ("GET", "/portico/v1/user"): self._status,
            ("GET", "/portico/v1/user/challenge"): self._challenge,
            ("GET", "/portico/v1/user/provider"): self._provider,
            ("POST", "/portico/v1/user/login"): self._login,
            ("POST", "/portico/v1/user/logout"): self._logout,
        }

    # What a computer asks

    def _status(self, request: Request, settings: Settings) -> dict[str, Any]:
        access = settings.access
        found: dict[str, Any] = {"authentication": access.user_authentication, "level": "User", "grant": None}
        if access.user_authentication == "none":
            return found
        with self._lock:
            grant = self._grants.active(time.time()).get(_machine(request))
        found["level"] = "User" if grant is not None else "Machine"
        found["grant"] = _shown(grant) if grant is not None else None
        return found

    def _provider(self, _: Request, settings: Settings) -> dict[str, Any]:
        """Where a user of this computer gets a token."""
        _wanted(settings, "oidc")
        oidc = settings.user_oidc
        if oidc is None:
            raise _no_provider()
        return {
            "issuer": oidc.issuer,
            "client_id": oidc.client_id,
            "scopes": oidc.scopes,
            "authority": provider_authority(oidc.ca_file),
        }

    def _challenge(self, request: Request, settings: Settings) -> dict[str, Any]:
        identity = _identity(request)
        _wanted(settings, "certificate")
        challenge = self._challenges.make(self._keys()[0], "\n".join(_machine(request)), time.time())
        return {"challenge": challenge, "issuer_sha256": identity["issuer_sha256"], "serial": identity["serial"]}

    def _login(self, request: Request, settings: Settings) -> dict[str, Any]:
        identity, machine = _identity(request), _machine(request)
        now, chosen = time.time(), settings.access.user_authentication
        self._limit(request, machine, now)
        try:
            fields = _fields(request.body)
            _wanted(settings, "oidc" if "token" in fields else "certificate")
            if chosen == "oidc":
                user = self._by_token(fields["token"], settings)
            else:
                user = self._by_certificate(fields, identity, machine, settings)
        except NotPermitted as error:
            self._failures.failed(machine[1], now)
            self._audit("user login", "?", request, machine[1], error.code)
            raise
        self._failures.succeeded(machine[1])
        grant = Grant(
            id=secrets.token_hex(8),
            user=user,
            method="oidc" if chosen == "oidc" else "certificate",
            machine=machine[1],
            issuer_sha256=machine[0],
            serial=str(identity["serial"]),
            address=place(request.peer.rpartition(":")[0].strip("[]") or request.peer),
            began=now,
            until=now + settings.access.user_lifetime_hours * 3600.0,
        )
        with self._lock:
            self._grants.add(grant, now)
            self._save()
        self._audit("user login", user, request, machine[1], "done", _shown(grant))
        log.info("user=%r machine=%r method=%s logged in", user, machine[1], grant.method)
        self._poke()
        self._spread()
        return {"level": "User", "authentication": chosen, "grant": _shown(grant)}

    def _logout(self, request: Request, settings: Settings) -> dict[str, Any]:
        machine = _machine(request)
        with self._lock:
            ended = self._grants.end_all(lambda grant: grant.key == machine, time.time(), "logout")
            if ended:
                self._save()
        for grant in ended:
            self._audit("user logout", grant.user, request, machine[1], "done")
        self._poke()
        self._spread()
        return self._status(request, settings)

    def _by_certificate(
        self, fields: dict[str, str], identity: dict[str, Any], machine: tuple[str, str], settings: Settings
    ) -> str:
        if not {"challenge", "certificate_chain", "signature"} <= fields.keys():
            raise _malformed("a challenge, a certificate chain and a signature were expected")
        now = now_utc()
        self._challenges.use(fields["challenge"], self._keys(), "\n".join(machine), now.timestamp())
        access = settings.access
        trust = Trust.read(access.user_ca, access.user_crl, self._agent.credentials.client_authorities(settings))
        text = signed_text(fields["challenge"], str(identity["issuer_sha256"]), str(identity["serial"]))
        return verify(fields["certificate_chain"], fields["signature"], text, trust, now)

    def _by_token(self, token: str, settings: Settings) -> str:
        oidc, loop = settings.user_oidc, self._loop
        if oidc is None or loop is None:
            raise _no_provider()
        asked = asyncio.run_coroutine_threadsafe(self._tokens.user(token, oidc, settings.management, time.time()), loop)
        try:
            return asked.result(PROVIDER_SECONDS)
        except TimeoutError:
            asked.cancel()
            raise Unavailable(
                "The provider does not answer in time", why=oidc.issuer, resolution="Try again", code="OIDC_UNAVAILABLE"
            ) from None

    def _limit(self, request: Request, machine: tuple[str, str], now: float) -> None:
        wait = max(self._failures.wait(machine[1], now), self._logins.take(machine[1], now))
        if wait > 0:
            raise LimitReached(
                "Too many logins",
                why=f"{machine[1]} has tried too often",
                resolution=f"Try again in {wait:.0f} s",
                code="TOO_MANY_LOGINS",
            )

    def _keys(self) -> list[bytes]:
        keys = [ticket.key for ticket in self._agent.credentials.tickets]
        if not keys:
            raise Unavailable("No user can log in now", why="the server has no keys yet", resolution="Try again")
        return keys

    # What an administrator asks

    def page(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Grants that are remembered, newest first, and the cursor of the next page. Raises InvalidInput."""
        now = time.time()
        with self._lock:
            found, more = self._grants.page(after, limit)
            return [{**_shown(grant), "state": grant.state(now)} for grant in found], more

    async def revoke(self, *, identifier: str | None, user: str | None, machine: str | None, by: str) -> list[Grant]:
        """Ends grants, on every server before it returns. Raises NotFound (NO_SUCH_GRANT), Unavailable."""

        def end() -> list[Grant]:
            with self._lock:
                now = time.time()
                if identifier is not None:
                    ended = [self._grants.end(identifier, now, by)]
                else:
                    ended = self._grants.end_all(
                        lambda g: (
                            (user is not None and g.user == user) or (machine is not None and g.machine == machine)
                        ),
                        now,
                        by,
                    )
                self._save()
            return ended

        ended = await asyncio.to_thread(end)
        if not ended:
            raise NotFound(
                "Nobody was logged in so",
                why=f"no open grant is of {user or machine}",
                resolution="List them with: portico users list",
                code="NO_SUCH_GRANT",
            )
        log.warning("revoked users=%r by=%s", sorted({grant.user for grant in ended}), by)
        self._poke()
        await self._agent.peers.changed()
        return ended

    # For the other servers

    def digest(self) -> str:
        """The same on two servers that know the same."""
        with self._lock:
            return self._grants.digest(time.time())

    def share(self) -> dict[str, Any]:
        """Everything, for another server."""
        with self._lock:
            return {"grants": [grant.as_data() for grant in self._grants.all()]}

    def take_over(self, data: Any) -> None:
        """Takes up what another server has. Blocking. Raises PorticoError."""
        items = data.get("grants") if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise InvalidInput("Users of another server cannot be used", why="there are none", code="GRANT_MALFORMED")
        theirs = [Grant.from_data(item) for item in items]
        with self._lock:
            if self._grants.merge(theirs, time.time()):
                self._save()
        self._poke()

    # What is open

    def event(self, event: dict[str, Any]) -> None:
        """Takes any event of the gateway. Never fails."""
        try:
            changed = self._tunnels.event(event)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("event=%s malformed: %s", event.get("event"), error)
            return
        if event.get("event") == "gateway_started":
            self._given, self._looked = None, float("-inf")
        if changed:
            self._wake.set()

    def members(self) -> list[Member]:
        """The addresses that the intranet is open for now, for the packet filter."""
        now = time.time()
        with self._lock:
            return self._tunnels.opened(self._grants.active(now), now)

    async def run(self) -> None:
        """Keeps packet filter and gateway at what the grants and the tunnels say."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._keep()
        finally:
            await self._tokens.close()

    async def _keep(self) -> None:
        while True:
            try:
                await self._follow()
                self.problem = None
            except PorticoError as error:
                self.problem, self._given = error, None
                log.warning("%s", error)
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(TOGETHER)
            self._wake.clear()

    async def _follow(self) -> None:
        settings = self._agent.platform.settings
        if settings is None or settings.access.user_authentication == "none":
            self._given = None
            return
        if time.monotonic() - self._looked >= LOOK and self._agent.platform.gateway.running:
            self._tunnels.replace(await self._agent.platform.gateway.sessions())
            self._looked = time.monotonic()
        await asyncio.to_thread(self._end_revoked)
        opened = {member.address for member in self.members()}
        nat64 = settings.nat64.state == "enabled"
        given = (nat64, tuple(Member(address, 0) for address in sorted(opened)))
        if given == self._given:
            return
        await asyncio.to_thread(self._agent.platform.kernel.refresh_users)
        values = self._agent.platform.values
        if self._agent.platform.gateway.running and values is not None and values.nat64_mappings and values.nat64_pool:
            await self._agent.platform.gateway.ask("nat64_open", opened={"clients": sorted(map(str, opened))})
        self._given = given

    def _end_revoked(self) -> None:
        """A computer whose certificate was revoked takes its user along."""
        gone = {(entry.issuer_sha256, entry.serial) for entry in self._agent.credentials.revoked}
        with self._lock:
            ended = self._grants.end_all(
                lambda grant: (grant.issuer_sha256, grant.serial) in gone, time.time(), "the computer was revoked"
            )
            pruned = self._grants.prune(time.time())
            if ended or pruned:
                self._save()

    def _pause(self) -> float:
        if self.problem is not None:
            return AGAIN
        with self._lock:
            end = self._grants.next_end(time.time())
        return min(AGAIN, max(0.05, end - time.time())) if end is not None else AGAIN

    def _poke(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    def _spread(self) -> None:
        """Has the other servers know, from a thread: the computer's next tunnel may be theirs."""
        if self._loop is None:
            return
        told = asyncio.run_coroutine_threadsafe(self._agent.peers.changed(), self._loop)
        try:
            told.result(SPREAD_SECONDS)
        except TimeoutError:
            log.info("other servers are slow to take up who has logged in or out; they ask by themselves")

    # The file

    def _load(self) -> list[Grant]:
        try:
            data = json.loads(read_file(self._path, limit=MAXIMUM_FILE))
            return [Grant.from_data(item) for item in data["grants"]]
        except NotFound:
            return []
        except (PorticoError, ValueError, LookupError, TypeError, RecursionError) as error:
            # Deny by default: users log in again.
            log.error("file=%s cannot be read, every user has to log in again: %s", self._path, error)
            return []

    def _save(self) -> None:
        data = {"grants": [grant.as_data() for grant in self._grants.all()]}
        write_file(self._path, json.dumps(data).encode())

    def _audit(
        self, action: str, user: str, request: Request, machine: str, result: str, after: dict[str, Any] | None = None
    ) -> None:
        entry = {
            "who": user,
            "kind": "user",
            "role": "",
            "from": request.peer,
            "action": action,
            "request": {"machine": machine},
            "before": None,
            "after": after,
            "result": result,
        }
        try:
            self._agent.access.audit.append(entry)
        except PorticoError as error:
            log.error("not written down: %s by %s: %s", action, user, error)


def _shown(grant: Grant) -> dict[str, Any]:
    return {key: value for key, value in grant.as_data().items() if key != "issuer_sha256"}


def _identity(request: Request) -> dict[str, Any]:
    if machine_of(request.identity) is None or request.identity is None:
        raise NotPermitted(
            "This needs a client certificate",
            why="the connection presented none that this server accepts",
            resolution="Enrol the computer: portico client enrol TOKEN",
            code="CERTIFICATE_NEEDED",
        )
    return request.identity


def _machine(request: Request) -> tuple[str, str]:
    machine = machine_of(_identity(request))
    assert machine is not None
    return machine


def _wanted(settings: Settings, method: str) -> None:
    chosen = settings.access.user_authentication
    if chosen != method:
        raise Conflict(
            "Users do not log in so here",
            why=f"access.user_authentication is {chosen}",
            resolution="Nothing is needed" if chosen == "none" else f"Log in by {chosen}: portico client login",
            code="OTHER_USER_AUTHENTICATION",
        )


def _no_provider() -> Unavailable:
    return Unavailable("No user can log in now", why="the provider is not known here", code="OIDC_DISABLED")


def _fields(body: bytes) -> dict[str, str]:
    try:
        data = json.loads(body)
        if isinstance(data, dict) and all(isinstance(value, str) for value in data.values()):
            "".join(data.values()).encode()
            return data
    except (ValueError, RecursionError):
        pass
    raise _malformed("a JSON object with texts was expected")


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(
        "The request cannot be read",
        why=why,
        resolution="Use the same version of Portico on both ends",
        code="REQUEST_MALFORMED",
    )
