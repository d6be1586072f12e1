"""What the API answers, as a client sees it.

Unlike the server's own models these take fields they do not know: a client may talk to a newer server. Times in
seconds since the epoch are floats, others ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Revision(Answer):
    number: int
    author: str
    comment: str
    created: str
    sha256: str
    progress: dict[str, Any] | None = None


class SettingsDocument(Answer):
    """A revision of the settings. `effective` has the derived values, when these settings are in force."""

    revision: Revision
    read_only: bool
    settings: dict[str, Any]
    yaml: str
    effective: dict[str, Any] | None = None

    def value(self, path: str) -> Any:
        """A value by its path, the derived one where the document has null; None for an unknown path."""
        derived = (self.effective or {}).get(path)
        if derived is not None:
            return derived["value"]
        found: Any = self.settings
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found


class Difference(Answer):
    changes: list[dict[str, Any]]
    consequences: list[dict[str, Any]]
    disconnects: bool
    lines: list[str] = Field(default_factory=list)


class ProblemFound(Answer):
    code: str
    path: str
    what: str
    why: str
    resolution: str
    severity: str


class Outcome(Answer):
    """What a change did, or would do (`revision` None)."""

    revision: Revision | None
    difference: Difference
    problems: list[ProblemFound]
    connected: int
    kernel: list[str]
    advice: list[dict[str, Any]] = Field(default_factory=list)


class ServerStatus(Answer):
    version: str
    started: float
    serving: bool
    problem: dict[str, Any] | None
    revision: int | None
    settings_read_only: bool
    url: str | None
    sessions: int | None
    counters: dict[str, Any]
    drifting: list[str]
    warnings: list[dict[str, Any]]


class BalancedServer(Answer):
    name: str
    priority: int
    weight: int
    state: str
    internet_dedicated_addresses: list[str]
    internal_dedicated_addresses: list[str]
    server_prefix_index: int


class LoadBalancing(Answer):
    """The cluster as the settings in force have it."""

    own_name: str
    mode: str
    internet_virtual_addresses: list[str]
    internal_virtual_addresses: list[str]
    client_addresses: str
    heartbeat_milliseconds: int
    missed_heartbeats: int
    filter: str
    port_rules: list[dict[str, Any]]
    servers: list[BalancedServer]


class JoinToken(Answer):
    name: str
    token: str | None
    expires: str | None
    server: str
    problems: list[ProblemFound]
    plan: list[dict[str, str]]


class RemoteClient(Answer):
    name: str
    state: str
    last_seen: float | None
    serial: str | None
    certificates: list[dict[str, Any]]
    sessions: list[dict[str, Any]]


class Revoked(Answer):
    serials: list[str]
    closed: int


class Authority(Answer):
    subject: str
    issuer_sha256: str
    not_before: str
    not_after: str
    pin: str
    certificate: str
    server_certificate: dict[str, Any] | None


class EnrolmentToken(Answer):
    """A token that enrols one computer once, without its secret."""

    id: str
    name: str
    created: str
    expires: str
    author: str
    failures: int
    used: str | None
    burned: str | None
    state: str


class IssuedCertificate(Answer):
    """A certificate of the built-in CA; `revoked` is None while it is good."""

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


class AccountingStatus(Answer):
    """The inbox accounting store of the server that answers. `*_record` are seconds since the epoch."""

    enabled: bool
    limit: str
    used_bytes: int
    free_bytes: int
    first_record: float | None
    last_record: float | None
    sessions: int
    lost: int
    trouble: str | None
    opened_since_start: int
    most_at_once: int


class AccountedSession(Answer):
    """A session of the store. `ended` is None while it goes on, or when nobody saw its end."""

    id: int
    server: str
    name: str
    serial: str | None
    technology: str
    peer: str
    addresses: list[str]
    started: float
    ended: float | None
    last_seen: float
    bytes_in: int
    bytes_out: int
    reason: str | None


class AccountedSummary(Answer):
    sessions: int
    most_at_once: int
    unique_names: int
    bytes_in: int
    bytes_out: int
    days: float
