"""Remote computers as the administrator sees them: certificates on one side, living tunnels on the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from portico.certificates.listing import ClientRow


class ClientState(StrEnum):
    CONNECTED = "connected"
    OFFLINE = "offline"
    NEVER_SEEN = "never seen"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass
class ClientCertificate:
    serial: str
    not_after: str
    revoked: str | None


@dataclass
class Client:
    """One remote computer. Times are seconds since the epoch; `session` is None unless it is connected."""

    name: str
    state: ClientState
    last_seen: float | None = None
    serial: str | None = None
    certificates: list[ClientCertificate] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        # Not asdict: it copies every value of every session, which is most of the time that a page takes.
        return {**vars(self), "certificates": [vars(certificate) for certificate in self.certificates]}


def clients(
    issued: Iterable[ClientRow],
    sessions: Iterable[Mapping[str, Any]],
    seen: Mapping[str, float],
    now: datetime,
) -> list[Client]:
    """Merges by name, connected ones first, then by name.

    A tunnel whose certificate is not ours (imported CA) or that has none (authentication `none`) appears under its
    subject or its address.

    Args:
        issued: client certificates, newest first.
        seen: name to when its last tunnel came up or went down.
    """
    found: dict[str, Client] = {}
    for record in issued:
        client = found.setdefault(record.name, Client(record.name, ClientState.NEVER_SEEN, seen.get(record.name)))
        client.certificates.append(ClientCertificate(record.serial, record.not_after, record.revoked))
    for client in found.values():
        client.state = _state(client, now)
        client.serial = client.certificates[0].serial
    for session in sessions:
        name = session_name(session)
        client = found.setdefault(name, Client(name, ClientState.CONNECTED, seen.get(name)))
        client.state = ClientState.CONNECTED
        identity = session.get("identity")
        if isinstance(identity, dict):
            client.serial = str(identity.get("serial"))
        client.sessions.append(dict(session))
    return sorted(found.values(), key=lambda c: (c.state is not ClientState.CONNECTED, c.name))


def session_name(session: Mapping[str, Any]) -> str:
    """The name a tunnel goes by: its certificate's subject, else the address it comes from."""
    identity = session.get("identity")
    if isinstance(identity, dict) and identity.get("subject"):
        return str(identity["subject"])
    return str(session.get("peer", "?"))


def _state(client: Client, now: datetime) -> ClientState:
    good = [c for c in client.certificates if c.revoked is None]
    if not good:
        return ClientState.REVOKED
    if all(datetime.fromisoformat(c.not_after) <= now for c in good):
        return ClientState.EXPIRED
    return ClientState.OFFLINE if client.last_seen is not None else ClientState.NEVER_SEEN
