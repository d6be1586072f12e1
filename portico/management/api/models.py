"""What the API answers, version 1. Times in seconds since the epoch are floats, others ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fault(Model):
    """Every error of this API: what happened, why, what to do next."""

    model_config = ConfigDict(extra="allow")
    code: str
    what: str
    why: str = ""
    resolution: str = ""


class FaultAnswer(Model):
    error: Fault


class GatewayStatus(Model):
    state: str
    reason: str
    pid: int | None
    restarts: int
    since: float | None


class DriftReport(Model):
    at: float
    changes: list[str]
    repaired: bool
    error: str | None


class RevisionProgress(Model):
    revision: int
    stage: str
    times: dict[str, float]
    error: dict[str, str] | None
    rolled_back_to: int | None


class Status(Model):
    version: str
    started: float
    serving: bool
    problem: Fault | None
    revision: int | None
    settings_read_only: bool
    settings_damage: str | None
    url: str | None
    gateway: GatewayStatus
    sessions: int | None
    counters: dict[str, Any]
    drifting: list[str]
    drifts: list[DriftReport]
    warnings: list[Fault]
    revisions: list[RevisionProgress]


class ProblemModel(Model):
    code: str
    path: str
    what: str
    why: str
    resolution: str
    severity: str
    source: str | None = None
    line: int | None = None


class RevisionModel(Model):
    number: int
    author: str
    comment: str
    created: str
    sha256: str
    progress: RevisionProgress | None = None


class SettingsAnswer(Model):
    """The document as data and as YAML."""

    revision: RevisionModel
    read_only: bool
    settings: dict[str, Any]
    yaml: str
    effective: dict[str, Any] | None = None


class SettingsChange(Model):
    """A document to take, as YAML text or as data."""

    yaml: str | None = Field(default=None, max_length=1 << 20)
    settings: dict[str, Any] | None = None
    expected_revision: int | None = Field(default=None, ge=0, description="null: whatever is the newest")
    comment: str = Field(default="", max_length=1000)
    author: str = Field(default="root", max_length=200)
    dry_run: bool = False
    source: str = Field(default="the document", max_length=1000)


class Rollback(Model):
    revision: int = Field(ge=1)
    author: str = Field(default="root", max_length=200)
    dry_run: bool = False


class DifferenceModel(Model):
    changes: list[dict[str, Any]]
    consequences: list[dict[str, Any]]
    disconnects: bool
    lines: list[str] = []


class OutcomeAnswer(Model):
    revision: RevisionModel | None
    difference: DifferenceModel
    problems: list[ProblemModel]
    connected: int
    kernel: list[str]


class ClientCertificateModel(Model):
    serial: str
    not_after: str
    revoked: str | None


class ClientModel(Model):
    name: str
    state: str
    last_seen: float | None
    serial: str | None
    certificates: list[ClientCertificateModel]
    sessions: list[dict[str, Any]]


class ClientsAnswer(Model):
    clients: list[ClientModel]
    total: int


class RevokeRequest(Model):
    name: str | None = None
    serial: str | None = None
    reason: str = "unspecified"


class Revoked(Model):
    serials: list[str]
    closed: int


class Disconnected(Model):
    closed: int


class CaAnswer(Model):
    subject: str
    issuer_sha256: str
    not_before: str
    not_after: str
    pin: str
    certificate: str
    server_certificate: dict[str, Any] | None


class CaInit(Model):
    name: str | None = Field(default=None, max_length=50)


class TokenRequest(Model):
    name: str
    lifetime_seconds: int = Field(default=3600, ge=1)
    author: str = Field(default="root", max_length=200)


class TokenAnswer(Model):
    """The token's text is shown this once."""

    id: str
    name: str
    token: str
    url: str
    expires: str


class TokenModel(Model):
    id: str
    name: str
    created: str
    expires: str
    author: str
    failures: int
    used: str | None
    burned: str | None
    state: str


class IssueRequest(Model):
    name: str
    csr: str = Field(max_length=16_384)


class IssueAnswer(Model):
    name: str
    certificate_chain: str
    trust: str


class IssuedModel(Model):
    issuer_sha256: str
    serial: str
    kind: str
    name: str
    not_before: str
    not_after: str
    issued: str
    token: str | None
    revoked: str | None
    reason: str | None
