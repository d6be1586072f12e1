"""Routes about certificates: the CA, enrolment tokens, issuing, lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Depends

from portico.administration.roles import acting
from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import client_name
from portico.certificates.listing import issued_page, token_page
from portico.certificates.renewal import SERVER_NAME, load_identity
from portico.certificates.tokens import burn_token, create_token
from portico.certificates.trust import name_text, pin
from portico.errors import NotFound, PorticoError
from portico.files import remove_file
from portico.management.api.models import (
    CaAnswer,
    CaInit,
    IssueAnswer,
    IssuedAnswer,
    IssuedModel,
    IssueRequest,
    TokenAnswer,
    TokenModel,
    TokenRequest,
    TokensAnswer,
)
from portico.management.api.paging import PAGE, After, Limit
from portico.server.agent import Agent
from portico.server.credentials import now_utc
from portico.settings.effective import base_url
from portico.settings.model import Settings


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/ca."""
    routes = APIRouter(prefix="/v1/ca", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def show(agent: Agent = the_agent) -> CaAnswer:
        """The built-in CA and the server's certificate."""
        return await asyncio.to_thread(_describe, agent)

    @routes.post("")
    async def init(body: CaInit, agent: Agent = the_agent) -> CaAnswer:
        """Makes the built-in CA where there is none."""
        name = body.name or (agent.platform.settings.deployment.domain if agent.platform.settings else "Portico")
        await asyncio.to_thread(
            lambda: CertificateAuthority.create(agent.credentials.directory, name=name, now=now_utc())
        )
        agent.credentials.reload_authority()
        return await asyncio.to_thread(_describe, agent)

    @routes.post("/renew")
    async def renew(agent: Agent = the_agent) -> CaAnswer:
        """Issues a new server certificate now and serves with it."""
        settings = _settings(agent)

        def reissue() -> None:
            agent.credentials.issuer()  # a CA that cannot sign must not cost the certificate there is
            remove_file(agent.credentials.directory / SERVER_NAME)
            agent.credentials.secrets(settings, now_utc())

        await asyncio.to_thread(reissue)
        await agent.platform.refresh()
        return await asyncio.to_thread(_describe, agent)

    @routes.post("/repair")
    async def repair(agent: Agent = the_agent) -> dict[str, str | None]:
        """Puts damaged records of certificates aside and starts new ones that know what was revoked."""
        aside = await asyncio.to_thread(lambda: agent.credentials.repair(now_utc()))
        if aside is not None and agent.platform.settings is not None:
            await agent.platform.refresh()
        return {"set_aside": str(aside) if aside is not None else None}

    @routes.post("/tokens")
    async def token(body: TokenRequest, agent: Agent = the_agent) -> TokenAnswer:
        """Makes a token that enrols one computer once."""
        settings = _settings(agent)
        now = now_utc()
        lifetime = timedelta(seconds=min(body.lifetime_seconds, 10**9))
        agent.credentials.issuer()  # a token for a CA that cannot sign would be no use
        made = await asyncio.to_thread(
            lambda: create_token(
                agent.credentials.usable_store(),
                name=client_name(body.name),
                url=base_url(settings.deployment.connect_to, settings.ip_https.port),
                trust=agent.credentials.trust(settings),
                now=now,
                lifetime=lifetime,
                author=acting(body.author),
            )
        )
        await agent.peers.changed()
        return TokenAnswer(
            id=made.id, name=made.name, token=made.text, url=made.url, expires=(now + lifetime).isoformat()
        )

    @routes.get("/tokens")
    async def tokens(limit: Limit = PAGE, after: After = None, agent: Agent = the_agent) -> TokensAnswer:
        """Tokens, newest first, without their secrets."""
        found, more = await asyncio.to_thread(
            lambda: token_page(agent.credentials.usable_store(), after=after, limit=limit)
        )
        return TokensAnswer(
            tokens=[TokenModel.model_validate(record.as_dict(now_utc())) for record in found], next=more
        )

    @routes.get("/tokens/{token_id}")
    async def one_token(token_id: str, agent: Agent = the_agent) -> TokenModel:
        """A token, without its secret."""
        record = await asyncio.to_thread(lambda: agent.credentials.usable_store().token(token_id))
        return TokenModel.model_validate(record.as_dict(now_utc()))

    @routes.delete("/tokens/{token_id}")
    async def burn(token_id: str, agent: Agent = the_agent) -> TokenModel:
        """Makes an open token useless."""
        record = await asyncio.to_thread(lambda: burn_token(agent.credentials.usable_store(), token_id, now_utc()))
        await agent.peers.changed()
        return TokenModel.model_validate(record.as_dict(now_utc()))

    @routes.post("/issue")
    async def issue(body: IssueRequest, agent: Agent = the_agent) -> IssueAnswer:
        """Issues a client certificate for a signing request, without a token."""
        settings = _settings(agent)
        chain = await asyncio.to_thread(
            lambda: agent.credentials.issuer().client(
                body.name, body.csr, days=settings.certificates.client_lifetime_days, now=now_utc()
            )
        )
        await agent.peers.changed()
        return IssueAnswer(name=body.name, certificate_chain=chain, trust=agent.credentials.trust(settings))

    @routes.get("/certificates")
    async def certificates(
        name: str | None = None,
        serial: str | None = None,
        limit: Limit = PAGE,
        after: After = None,
        agent: Agent = the_agent,
    ) -> IssuedAnswer:
        """Issued certificates, newest first."""
        found, more = await asyncio.to_thread(
            lambda: issued_page(agent.credentials.usable_store(), name=name, serial=serial, after=after, limit=limit)
        )
        return IssuedAnswer(certificates=[IssuedModel.model_validate(r.as_dict()) for r in found], next=more)

    return routes


def _settings(agent: Agent) -> Settings:
    if agent.platform.settings is None:
        raise agent.problem or NotFound("There are no settings", resolution="Install: portico server install")
    return agent.platform.settings


def _describe(agent: Agent) -> CaAnswer:
    authority = agent.credentials.issuer().authority
    certificate = authority.certificate
    server: dict[str, Any] | None = None
    try:
        identity = load_identity(agent.credentials.directory / SERVER_NAME)
        server = {
            "subject": name_text(identity.certificate.subject),
            "not_before": identity.certificate.not_valid_before_utc.isoformat(),
            "not_after": identity.certificate.not_valid_after_utc.isoformat(),
        }
    except PorticoError:
        server = None  # imported, or not issued yet
    return CaAnswer(
        subject=name_text(certificate.subject),
        issuer_sha256=authority.issuer_sha256,
        not_before=certificate.not_valid_before_utc.isoformat(),
        not_after=certificate.not_valid_after_utc.isoformat(),
        pin=pin(authority.pem),
        certificate=authority.pem,
        server_certificate=server,
    )
