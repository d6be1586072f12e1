"""Who may do what at this server: credentials to principals, principals to roles, by the settings in force.

The local socket is root's (and of accounts whose group has a role), everything else shows a certificate of the CA of
administration, an API token, a session, or a token of the OpenID Connect provider. Nothing gets in by default.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import pwd
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from portico.administration.audit import AuditLog
from portico.administration.authority import ManagementAuthority
from portico.administration.oidc import MAXIMUM_AGE, Expected, Identity, is_jwt
from portico.administration.provider import Provider
from portico.administration.records import AccessRecords, Record, refused
from portico.administration.roles import Kind, Principal, Role
from portico.errors import InvalidInput, NotFound, NotPermitted, PorticoError
from portico.files import read_file
from portico.settings.management import Management, Oidc
from portico.settings.model import Settings

log = logging.getLogger("portico.access")

DIRECTORY: Final = "management"
LOCAL: Final = "local"
MAXIMUM_AUTHORITY: Final = 64 << 10
"""Bytes of the file with the CA of a provider: it goes to everybody who logs in."""


@dataclass(frozen=True)
class Caller:
    """The other end of a connection, as the kernel and TLS know it.

    Attributes:
        address: its IP address, `local` on the socket of this machine.
        certificate: DER of the certificate that it showed and that the CA of administration signed.
        user, groups: of the account, on the local socket only.
    """

    address: str
    certificate: bytes | None = None
    user: int | None = None
    groups: tuple[int, ...] = ()


class Access:
    """Everything about administrators at one server.

    Args:
        settings: those in force, None without any.
        changed: has the other servers take up what is new here.
    """

    def __init__(
        self,
        state: Path,
        logs: Path,
        settings: Callable[[], Settings | None],
        changed: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        directory = state / DIRECTORY
        self.records = AccessRecords(directory)
        self.authority = ManagementAuthority(directory)
        self.audit = AuditLog(logs, state, now)
        self.now = now
        self._settings = settings
        self._changed = changed
        self._provider: tuple[Oidc, Provider] | None = None
        self.listening: Callable[[], PorticoError | None] = lambda: None
        """Why the API does not listen as the settings say."""
        self.make_provider: Callable[[str, ssl.SSLContext], Provider] = Provider

    @property
    def settings(self) -> Management:
        """The section in force; its defaults without any settings."""
        found = self._settings()
        return found.management if found is not None else Management()

    async def close(self) -> None:
        if self._provider is not None:
            await self._provider[1].close()
            self._provider = None

    # Who asks

    async def principal(self, caller: Caller, credential: str | None) -> Principal:
        """Who somebody is.

        Args:
            credential: what came in the header `Authorization: Bearer`, or as a session of the console.

        Raises:
            NotPermitted: code NO_CREDENTIALS, CREDENTIAL_REFUSED, NO_ROLE.
            Unavailable: the provider, which would have to be asked, does not answer.
        """
        if caller.user is not None:
            return self._local(caller)
        if credential is not None:
            if is_jwt(credential):
                identity = await self.identity(credential)
                return Principal(identity.name, "oidc", identity.role, caller.address, identity.subject)
            record = self.records.verify(credential, self.now())
            assert record.role is not None and record.kind in ("token", "session")
            if record.kind == "session" and self.settings.oidc is None:
                raise refused()  # who could log in can no longer
            kind: Kind = "token" if record.kind == "token" else "session"
            return Principal(record.name, kind, Role.parse(record.role), caller.address, record.id)
        if caller.certificate is not None:
            return self._certificate(caller.certificate, caller.address)
        raise NotPermitted(
            "Nobody may use this without logging in",
            why="the request has no token, and the connection no certificate of an administrator",
            resolution="Log in: portico login, or use a token: portico admin token create, on a server",
            code="NO_CREDENTIALS",
        )

    async def identity(self, token: str) -> Identity:
        """Who a token of the provider is about. Raises as `principal`."""
        oidc, provider = await self.provider()
        identity = await provider.identity(token, expected(self.settings, oidc), self.now().timestamp())
        cut = self.records.cutoff(oidc.issuer, identity.subject)
        if cut is not None and identity.issued <= cut.timestamp():
            raise refused()
        return identity

    async def provider(self) -> tuple[Oidc, Provider]:
        """The provider of the settings in force. Raises NotFound, InvalidInput."""
        oidc = self.settings.oidc
        if oidc is None:
            raise NotFound(
                "Nobody can log in through a provider",
                why="management.oidc is not set",
                resolution="Set it, or use a token: portico admin token create",
                code="OIDC_DISABLED",
            )
        if self._provider is None or self._provider[0] != oidc:
            context = await asyncio.to_thread(provider_trust, oidc.ca_file)
            await self.close()
            self._provider = (oidc, self.make_provider(oidc.issuer, context))
        return self._provider

    def _local(self, caller: Caller) -> Principal:
        assert caller.user is not None
        if caller.user == 0:
            return Principal("root", "local", Role.ADMINISTRATOR, LOCAL)
        try:
            name = pwd.getpwuid(caller.user).pw_name
        except KeyError:
            name = f"uid {caller.user}"
        names = set()
        for group in caller.groups:
            try:
                names.add(grp.getgrgid(group).gr_name)
            except KeyError:
                continue
        roles = [
            Role.parse(mapping.role)
            for mapping in self.settings.roles
            if mapping.source == "unix_group" and mapping.name in names
        ]
        if not roles:
            raise NotPermitted(
                f"{name} may not use this server",
                why="none of its groups has a role in management.roles, source unix_group",
                resolution="Run as root, for example with sudo",
                code="NO_ROLE",
            )
        return Principal(name, "local", max(roles), LOCAL)

    def _certificate(self, der: bytes, address: str) -> Principal:
        try:
            name, serial = self.authority.identify(der)
        except ValueError:
            raise refused() from None
        self.records.certificate(serial, self.now())
        roles = [
            Role.parse(mapping.role)
            for mapping in self.settings.roles
            if mapping.source == "certificate" and mapping.name == name
        ]
        if not roles:
            raise NotPermitted(
                f"{name} may not administer this cluster",
                why="its certificate has no role in management.roles, source certificate",
                resolution="Ask an administrator for a role",
                code="NO_ROLE",
            )
        return Principal(name, "certificate", max(roles), address, serial)

    # Credentials

    async def create_token(self, name: str, role: Role, lifetime: timedelta, author: str) -> tuple[Record, str]:
        """Raises as `AccessRecords.create`."""
        made = await asyncio.to_thread(
            lambda: self.records.create("token", name, role, author=author, lifetime=lifetime, now=self.now())
        )
        await self._changed()
        return made

    async def open_session(self, principal: Principal) -> tuple[Record, str]:
        """A session for somebody whom the provider's token names now.

        Raises:
            InvalidInput: code SESSION_NEEDS_LOGIN, for everybody else. LimitReached.
        """
        oidc = self.settings.oidc
        if principal.kind != "oidc" or oidc is None:
            raise InvalidInput(
                "No session can be opened with these credentials",
                why="a session begins with the ID token of the provider",
                resolution="Log in: portico login",
                code="SESSION_NEEDS_LOGIN",
            )
        made = await asyncio.to_thread(
            lambda: self.records.create(
                "session",
                principal.name,
                principal.role,
                author=f"oidc:{principal.id}"[:128],
                lifetime=timedelta(hours=oidc.session_hours),
                now=self.now(),
            )
        )
        await self._changed()
        return made

    async def issue_certificate(self, name: str, request: str, days: int, author: str) -> tuple[Record, str]:
        """An administrator's certificate: (record, chain PEM). Raises InvalidInput, LimitReached, Unavailable."""

        def issue() -> tuple[Record, str]:
            chain, serial, end = self.authority.administrator(name, request, days, self.now())
            return self.records.note_certificate(serial, name, end, author=author, now=self.now()), chain

        made = await asyncio.to_thread(issue)
        await self._changed()
        return made

    async def revoke(self, identifier: str) -> tuple[Record, Record]:
        """Makes a credential useless on every server; as it was and as it is. Raises NotFound, Unavailable."""
        now = self.now()
        before = next((record for record in self.records.all(now) if record.id == identifier), None)
        after = await asyncio.to_thread(lambda: self.records.revoke(identifier, now=now))
        await self._changed()
        return before if before is not None else after, after

    async def revoke_user(self, subject: str, author: str) -> list[Record]:
        """Ends the sessions of a user of the provider, and refuses every token that it was given until now.

        Raises:
            NotFound: code OIDC_DISABLED. LimitReached, Unavailable.
        """
        oidc, _ = await self.provider()
        now = self.now()

        def revoke() -> list[Record]:
            mine = f"oidc:{subject}"[:128]
            ended = [
                self.records.revoke(record.id, now=now)
                for record in self.records.all(now)
                if record.kind == "session" and record.author == mine and record.state(now) == "open"
            ]
            self.records.cut_off(
                oidc.issuer, subject, subject[:128], timedelta(seconds=MAXIMUM_AGE), author=author, now=now
            )
            return ended

        ended = await asyncio.to_thread(revoke)
        await self._changed()
        return ended

    # For the other servers

    def digest(self) -> str:
        """What is newest here; empty when it cannot be read, which the status tells and nobody takes over."""
        try:
            return f"{self.authority.digest()} {self.records.digest(self.now())}"
        except PorticoError:
            return ""

    def share(self) -> dict[str, Any]:
        """Everything, for another server of the cluster. Secret. Raises PorticoError."""
        return {
            "authority": self.authority.private(),
            "records": [record.as_data() for record in self.records.all(self.now())],
        }

    def take_over(self, data: Any) -> None:
        """Takes up what another server has. Blocking. Raises PorticoError."""
        records = data.get("records") if isinstance(data, dict) else None
        if not isinstance(records, list):
            raise InvalidInput(
                "Records of another server cannot be used", why="there are none", code="RECORDS_MALFORMED"
            )
        if isinstance(data.get("authority"), str):
            self.authority.take(data["authority"])
        self.records.take_over(records, self.now())

    def forget(self) -> None:
        """This server left its cluster: nothing of what it was given stays."""
        try:
            self.records.forget()
            self.authority.forget()
        except OSError as error:
            log.error("credentials of administrators could not be deleted: %s", error)

    def problems(self) -> list[PorticoError]:
        """What keeps administrators out now."""
        found = []
        try:
            self.records.all(self.now())
            self.authority.known()
        except PorticoError as error:
            found.append(error)
        if self._provider is not None and self._provider[1].problem is not None:
            found.append(self._provider[1].problem)
        trouble = self.listening()
        return [*found, trouble] if trouble is not None else found


def expected(management: Management, oidc: Oidc) -> Expected:
    """What the provider's tokens must say, by the settings. Pure."""
    by = {
        source: {
            mapping.name: max(
                Role.parse(other.role)
                for other in management.roles
                if other.source == source and other.name == mapping.name
            )
            for mapping in management.roles
            if mapping.source == source
        }
        for source in ("oidc_group", "oidc_user")
    }
    return Expected(
        issuer=oidc.issuer,
        audiences=tuple(oidc.audiences) or (oidc.client_id,),
        groups_claim=oidc.groups_claim,
        name_claim=oidc.name_claim,
        groups=by["oidc_group"],
        users=by["oidc_user"],
        skew=oidc.clock_skew_seconds,
    )


def provider_trust(file: str | None) -> ssl.SSLContext:
    """What the provider's own TLS certificate is judged by. Raises InvalidInput (OIDC_CA_FILE)."""
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise _bad_authority(file, error) from None


def provider_authority(file: str | None) -> str | None:
    """PEM of the CA that whoever logs in judges the provider by; None: what their machine knows.

    Raises:
        InvalidInput: code OIDC_CA_FILE.
    """
    if file is None:
        return None
    try:
        return read_file(Path(file), limit=MAXIMUM_AUTHORITY).decode("ascii")
    except (UnicodeDecodeError, PorticoError) as error:
        raise _bad_authority(file, error) from None


def _bad_authority(file: str | None, error: Exception) -> InvalidInput:
    return InvalidInput(
        "The OpenID Connect provider cannot be asked",
        why=f"the ca_file of its settings, {file}: {error}",
        resolution="Name a PEM file with the CA of its TLS certificate",
        code="OIDC_CA_FILE",
    )
