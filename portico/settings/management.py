"""The section `management`: where the API listens, and who may do what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from portico.settings.kinds import AnyAddress, FilePath, Section, State

RoleWord = Literal["viewer", "operator", "administrator"]


def _printable(value: object) -> object:
    if isinstance(value, str) and (not value.strip() or not value.isprintable()):
        raise ValueError("a name has printable characters")
    return value


def _url(value: object) -> object:
    if isinstance(value, str) and not value.startswith(("https://", "http://")):
        raise ValueError("it must begin with https://")
    return value


Word = Annotated[str, BeforeValidator(_printable), Field(min_length=1, max_length=200)]
Url = Annotated[str, BeforeValidator(_url), Field(min_length=9, max_length=1000)]


class RoleMapping(Section):
    """A role for somebody whom another system names."""

    source: Literal["unix_group", "certificate", "oidc_group", "oidc_user"] = Field(
        description="what names him: a group of this machine's accounts, the subject of an administrator's "
        "certificate, a group or the subject (`sub`) of an OpenID Connect token"
    )
    name: Word = Field(description="the name there")
    role: RoleWord = Field(description="viewer sees everything, operator also runs it, administrator changes it")


class Oidc(Section):
    """Logging in at an OpenID Connect provider."""

    issuer: Url = Field(description="URL of the provider, exactly as it calls itself")
    client_id: Word = Field(description="what this cluster is called there: a public client, without a secret")
    audiences: list[Word] = Field(
        default_factory=list, max_length=16, description="accepted `aud` of its tokens; empty: `client_id`"
    )
    scopes: list[Word] = Field(
        default_factory=lambda: ["openid", "profile"], max_length=16, description="what a login asks for"
    )
    groups_claim: Word = Field(default="groups", description="claim of a token that lists the user's groups")
    name_claim: Word = Field(default="preferred_username", description="claim that the audit log shows as the name")
    ca_file: FilePath | None = Field(
        default=None, description="PEM file of the CA of the provider's TLS certificate; null: those of the system"
    )
    clock_skew_seconds: int = Field(default=60, ge=0, le=300, description="so much clocks may differ")
    session_hours: int = Field(default=8, ge=1, le=168, description="a login ends after this time")


class Management(Section):
    """The API over TLS, and the roles of administrators. The socket of this machine works in any case, for root."""

    state: State = Field(default="enabled", description="whether the API listens on the network")
    listen: list[AnyAddress] = Field(
        default_factory=list,
        max_length=16,
        description="addresses it listens on; empty: the server's own addresses on the intranet's side, and only "
        "through that interface",
    )
    port: int = Field(default=2506, ge=1, le=65_535, description="TCP port of the API")
    certificate_file: FilePath | None = Field(
        default=None,
        description="PEM file of the API's certificate with its chain, on every server; null: the CA of the cluster's "
        "administration issues one",
    )
    key_file: FilePath | None = Field(default=None, description="PEM file of its key, for root alone")
    oidc: Oidc | None = Field(default=None, description="null: nobody logs in through a provider")
    roles: list[RoleMapping] = Field(
        default_factory=list, max_length=1000, description="who has which role; the highest of several holds"
    )
