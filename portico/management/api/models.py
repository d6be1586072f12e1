"""What the API answers, version 1. Times in seconds since the epoch are floats, others ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any, Literal

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
    """The gateway process. `unit` is None when the agent started it itself."""

    state: str
    reason: str
    unit: str | None
    pid: int | None
    restarts: int
    since: float | None


class BalancerStatus(GatewayStatus):
    """The process of heartbeats, leases and the filter. `state` is stopped while load balancing is not `configured`;
    the one of a unit has connected by then and waits, or `reason` says that it has not."""

    configured: bool


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
    balancer: BalancerStatus
    sessions: int | None
    counters: dict[str, Any]
    drifting: list[str]
    drifts: list[DriftReport]
    warnings: list[Fault]
    revisions: list[RevisionProgress]
    cluster: dict[str, Any] | None = Field(default=None, description="the other servers, see /v1/peers")
    location: dict[str, Any] = Field(
        default_factory=dict, description="pages for clients and records, see /v1/location"
    )


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


class CommandsModel(Model):
    """Something to paste, and where."""

    where: str
    lines: list[str]


class AdviceModel(Model):
    """What the network around this server must do for the load-balancing mode; an error: the mode cannot work here."""

    interface: str
    platform: str
    code: str
    severity: Literal["error", "warning", "note"]
    what: str
    why: str
    commands: list[CommandsModel]


class OutcomeAnswer(Model):
    """`advice` comes with changes of the load-balancing mode; it keeps nothing from being applied."""

    revision: RevisionModel | None
    difference: DifferenceModel
    problems: list[ProblemModel]
    connected: int
    kernel: list[str]
    advice: list[AdviceModel] = Field(default_factory=list)


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
    """A page of clients. `total` counts all there are, whatever was asked for."""

    clients: list[ClientModel]
    next: str | None
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


class TokensAnswer(Model):
    tokens: list[TokenModel]
    next: str | None


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


class IssuedAnswer(Model):
    certificates: list[IssuedModel]
    next: str | None


class SessionsAnswer(Model):
    """A page of NAT64's sessions. `total` counts all there are, whatever was asked for."""

    sessions: list[dict[str, Any]]
    next: str | None
    total: int


class BindingsAnswer(Model):
    bindings: list[dict[str, Any]]
    next: str | None
    total: int


class Nat64Stats(Model):
    counters: dict[str, Any]
    pool: list[str]
    prefix_mapping: list[str]
    max_bindings: int
    max_sessions: int
    log: dict[str, Any]


class LoggedBinding(Model):
    """A binding and when it existed. `opened` is null when its beginning is not in the log."""

    protocol: str
    client: str
    client_port: int
    address: str
    port: int
    name: str | None
    serial: str | None
    session: int | None
    opened: float | None
    closed: float | None
    end: str
    static: bool


class LogAnswer(Model):
    """`lost` counts rows known to be missing within the time; `covers` is when the log begins, null without one."""

    bindings: list[LoggedBinding]
    total: int
    lost: int
    covers: float | None
    enabled: bool


class Dns64Stats(Model):
    counters: dict[str, Any]
    address: str
    prefix_mapping: list[str]


class Dns64Flush(Model):
    name: str | None = Field(default=None, max_length=255, description="null: everything")
    tree: bool = Field(default=False, description="and all names below it")


class Flushed(Model):
    removed: int


class Dns64Query(Model):
    name: str = Field(min_length=1, max_length=255)
    type: str = Field(default="AAAA", max_length=20)
    dnssec: bool = False
    timeout: float = Field(default=5.0, gt=0, le=30)


class Dns64Answer(Model):
    """An answer as a client gets it, and how it came to be."""

    model_config = ConfigDict(extra="allow")
    rcode: str
    answers: list[dict[str, Any]] = []
    authority: list[dict[str, Any]] = []
    source: str
    synthesized: bool
    server: str | None = None
    upstream_questions: list[Any] = []
    elapsed_ms: float | None = None
    prefix_mapping: str | None = None
    why: str
