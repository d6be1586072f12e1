"""Routes about administration: who asks, logging in, tokens, sessions, certificates, the audit log, the servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from portico.administration.access import provider_authority
from portico.administration.records import MAXIMUM_LIFETIME, Record
from portico.administration.roles import Principal, Role, RoleName, current
from portico.errors import NotFound, NotPermitted, PorticoError
from portico.management.api.models import Fault, Model, Status
from portico.management.api.recording import note
from portico.management.api.roles import public, viewer
from portico.server.agent import Agent

MAXIMUM_SECONDS = int(MAXIMUM_LIFETIME.total_seconds())


class WhoAmI(Model):
    """Who the server takes the asker for, and which server that is."""

    name: str
    kind: str
    role: RoleName
    address: str
    id: str
    server: str


class LoginOptions(Model):
    """What a login begins with. Null: nobody can log in through a provider."""

    oidc: OidcOptions | None
    authority: str | None = Field(description="PEM of the CA that signs this API's certificates; compare its SHA-256")


class OidcOptions(Model):
    issuer: str
    client_id: str
    scopes: list[str]
    authority: str | None = Field(
        default=None, description="PEM of the CA of the provider's certificate; null: what the asking machine knows"
    )


class Credential(Model):
    """A token, a session, a certificate, or the moment before which a user's logins are refused; never its secret."""

    id: str
    kind: Literal["token", "session", "certificate", "cutoff"]
    name: str
    role: str | None
    created: str
    expires: str
    author: str
    revoked: str | None
    state: Literal["open", "revoked", "expired"]


class Credentials(Model):
    credentials: list[Credential]
    total: int


class NewToken(Model):
    name: str = Field(min_length=1, max_length=128, description="what it is for; the audit log shows it")
    role: RoleName = "viewer"
    lifetime_seconds: int = Field(default=90 * 86_400, ge=1, le=MAXIMUM_SECONDS)


class Made(Model):
    """`token` is shown once and kept by nobody."""

    credential: Credential
    token: str


class NewCertificate(Model):
    """A signing request (PKCS #10, PEM); its key is taken, the rest is not looked at."""

    name: str = Field(min_length=1, max_length=64, description="to which management.roles gives a role")
    csr: str = Field(min_length=1, max_length=16_384)
    days: int = Field(default=90, ge=1, le=825)


class Certificate(Model):
    credential: Credential
    certificate_chain: str
    authority: str


class User(Model):
    subject: str = Field(min_length=1, max_length=255, description="`sub` of the user's tokens")


class Ended(Model):
    sessions: list[Credential]


class AuditAnswer(Model):
    """Entries of one server's log."""

    server: str
    entries: list[dict[str, Any]]


class VerdictModel(Model):
    """Whether a server's log is as it was written. `witnesses`: servers that know where it ended."""

    server: str
    intact: bool
    entries: int
    first: int
    last: int
    head: str
    faults: list[str]
    witnesses: list[str]


class ServerAnswer(Model):
    """One server; without a status it did not answer, and `problem` says why."""

    name: str
    reachable: bool
    status: Status | None
    problem: Fault | None


class ServersAnswer(Model):
    servers: list[ServerAnswer]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1 about administrators."""
    routes = APIRouter(prefix="/v1", responses={401: {"model": faults[403]["model"]}, **faults})
    the_agent = Depends(agent_of)

    @routes.get("/whoami")
    async def whoami(agent: Agent = the_agent) -> WhoAmI:
        """Who the server takes the asker for."""
        return WhoAmI.model_validate({**_principal().as_dict(), "server": _name(agent)})

    @routes.get("/login")
    @public
    async def login(agent: Agent = the_agent) -> LoginOptions:
        """How somebody can log in; may be asked without."""
        oidc = agent.access.settings.oidc
        options = None
        if oidc is not None:
            authority = await asyncio.to_thread(provider_authority, oidc.ca_file)
            options = OidcOptions(issuer=oidc.issuer, client_id=oidc.client_id, scopes=oidc.scopes, authority=authority)
        imported = agent.access.settings.certificate_file is not None
        known = None if imported else await asyncio.to_thread(agent.access.authority.known)
        return LoginOptions(oidc=options, authority=known.pem if known is not None else None)

    @routes.post("/sessions")
    @viewer
    async def open_session(agent: Agent = the_agent) -> Made:
        """Opens a session for whom the provider's ID token in `Authorization` names."""
        record, token = await agent.access.open_session(_principal())
        return Made(credential=_credential(agent, record), token=token)

    @routes.delete("/sessions/current")
    @viewer
    async def close_session(agent: Agent = the_agent) -> Credential:
        """Ends the session or token with which this is asked, on every server."""
        principal = _principal()
        if principal.kind not in ("session", "token"):
            raise NotFound(
                "There is no session to end",
                why=f"this was asked with credentials of kind {principal.kind}",
                resolution="Nothing is to be done",
                code="NO_SESSION",
            )
        before, after = await agent.access.revoke(principal.id)
        note(before={"state": before.state(agent.access.now())}, after={"state": after.state(agent.access.now())})
        return _credential(agent, after)

    @routes.get("/credentials")
    async def credentials(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=100_000)] = 0,
        kind: Literal["token", "session", "certificate", "cutoff"] | None = None,
        state: Literal["open", "revoked", "expired"] | None = None,
        agent: Agent = the_agent,
    ) -> Credentials:
        """Tokens, sessions and certificates of administrators, newest first, without their secrets."""
        now = agent.access.now()
        found = [
            record
            for record in await asyncio.to_thread(agent.access.records.all, now)
            if kind in (None, record.kind) and state in (None, record.state(now))
        ]
        page = found[offset : offset + limit]
        return Credentials(credentials=[_credential(agent, record) for record in page], total=len(found))

    @routes.post("/credentials/tokens")
    async def create_token(body: NewToken, agent: Agent = the_agent) -> Made:
        """Makes an API token with a role."""
        record, token = await agent.access.create_token(
            body.name, Role.parse(body.role), timedelta(seconds=body.lifetime_seconds), _principal().name
        )
        return Made(credential=_credential(agent, record), token=token)

    @routes.post("/credentials/certificates")
    async def issue(body: NewCertificate, agent: Agent = the_agent) -> Certificate:
        """Issues a certificate for an administrator; what it may do is in management.roles."""
        record, chain = await agent.access.issue_certificate(body.name, body.csr, body.days, _principal().name)
        known = agent.access.authority.ensure(agent.access.now())
        return Certificate(credential=_credential(agent, record), certificate_chain=chain, authority=known.pem)

    @routes.delete("/credentials/{credential_id}")
    async def revoke(credential_id: str, agent: Agent = the_agent) -> Credential:
        """Makes a token, session or certificate useless on every server at once."""
        before, after = await agent.access.revoke(credential_id)
        note(before={"state": before.state(agent.access.now())}, after={"state": after.state(agent.access.now())})
        return _credential(agent, after)

    @routes.post("/credentials/revoke-user")
    async def revoke_user(body: User, agent: Agent = the_agent) -> Ended:
        """Ends every session of a user of the provider, and refuses the tokens that it was given until now."""
        ended = await agent.access.revoke_user(body.subject, _principal().name)
        return Ended(sessions=[_credential(agent, record) for record in ended])

    @routes.get("/audit")
    async def audit(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, description="entries with smaller numbers, newest first")] = None,
        after: Annotated[int | None, Query(ge=0, description="entries with larger numbers, oldest first")] = None,
        agent: Agent = the_agent,
    ) -> AuditAnswer:
        """What was changed at this server: who, what, from where, before and after. Newest first."""
        found = await asyncio.to_thread(lambda: agent.access.audit.entries(limit=limit, before=before, after=after))
        return AuditAnswer(server=_name(agent), entries=found)

    @routes.get("/audit/verify")
    async def verify(agent: Agent = the_agent) -> VerdictModel:
        """Follows the chain of this server's log, and asks the other servers where they heard that it ended."""
        heard = await agent.peers.administration.heard_of() if agent.peers.state is not None else {}
        verdict = await asyncio.to_thread(agent.access.audit.verify, heard)
        return VerdictModel(server=_name(agent), intact=verdict.intact, witnesses=sorted(heard), **vars(verdict))

    @routes.get("/servers")
    async def servers(agent: Agent = the_agent) -> ServersAnswer:
        """The status of every server of the cluster, as each says it."""
        own = ServerAnswer(
            name=_name(agent), reachable=True, status=Status.model_validate(await agent.status()), problem=None
        )
        found = await agent.peers.administration.each(_principal(), "/v1/status") if agent.peers.state else {}
        others = [_server(name, answered) for name, answered in sorted(found.items())]
        return ServersAnswer(servers=sorted([own, *others], key=lambda server: server.name))

    return routes


def _principal() -> Principal:
    """Who asks. The guard has set it; without a guard there is nobody."""
    found = current.get()
    if found is None:
        raise NotPermitted("Nobody may use this without logging in", code="NO_CREDENTIALS", resolution="portico login")
    return found


def _name(agent: Agent) -> str:
    settings = agent.platform.settings
    return agent.peers.own_name or (settings.server.name if settings is not None else "-")


def _credential(agent: Agent, record: Record) -> Credential:
    return Credential.model_validate(record.shown(agent.access.now()))


def _server(name: str, answered: Any) -> ServerAnswer:
    if isinstance(answered, PorticoError):
        return ServerAnswer(name=name, reachable=False, status=None, problem=Fault.model_validate(answered.as_dict()))
    return ServerAnswer(name=name, reachable=True, status=Status.model_validate(answered), problem=None)
