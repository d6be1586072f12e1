"""What the audit log keeps of one change: who, what, from where, before and after, and how it ended."""

from __future__ import annotations

import asyncio
import json
import logging
from contextvars import ContextVar
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from portico.administration.audit import AuditLog
from portico.administration.roles import Principal
from portico.errors import PorticoError

log = logging.getLogger("portico.audit")

MAXIMUM_KEPT: Final = 1 << 20
"""Bytes of a request or an answer that are looked at."""

_UNTOLD: Final = object()
_noted: ContextVar[dict[str, Any] | None] = ContextVar("portico_audit", default=None)


def note(*, before: Any = _UNTOLD, after: Any = _UNTOLD) -> None:
    """Says what a change found and left, where the answer does not. From within a route; elsewhere it does nothing."""
    noted = _noted.get()
    if noted is not None:
        if before is not _UNTOLD:
            noted["before"] = before
        if after is not _UNTOLD:
            noted["after"] = after


class Recorder:
    """Follows one request."""

    def __init__(self, audit: AuditLog, principal: Principal, scope: Scope) -> None:
        self._audit = audit
        self._principal = principal
        self._action = f"{scope['method']} {scope['path'][:500]}"
        self._query = scope.get("query_string", b"")[:500].decode("latin-1")
        self._request = bytearray()
        self._answer = bytearray()
        self._status = 0
        self._code = ""
        self._noted: dict[str, Any] = {}

    async def ready(self) -> None:
        """What cannot be written down is not done. Raises Unavailable."""
        await asyncio.to_thread(self._audit.ready)
        _noted.set(self._noted)

    def receive(self, receive: Receive) -> Receive:
        async def kept() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self._request += message.get("body", b"")[: max(0, MAXIMUM_KEPT - len(self._request))]
            return message

        return kept

    def send(self, send: Send) -> Send:
        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            elif message["type"] == "http.response.body":
                self._answer += message.get("body", b"")[: max(0, MAXIMUM_KEPT - len(self._answer))]
            await send(message)

        return kept

    def refused(self, status: int, code: str) -> None:
        self._status, self._code = status, code

    async def write(self) -> None:
        """Adds the entry. A failure is logged; it keeps the next change from being made."""
        answer = _json(self._answer)
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, dict):
            self._code = str(error.get("code", ""))[:100]
        entry = {
            "who": self._principal.name,
            "kind": self._principal.kind,
            "role": self._principal.role.text,
            "credential": {"id": self._principal.id},
            "from": self._principal.address,
            "action": self._action,
            "query": self._query,
            "request": _json(self._request),
            **_change(answer if not isinstance(error, dict) else None),
            **self._noted,
            "status": self._status,
            "result": self._code or ("done" if 200 <= self._status < 300 else "failed"),
        }
        try:
            await asyncio.to_thread(self._audit.append, entry)
        except PorticoError as failure:
            log.error("not written down: %s by %s: %s", self._action, self._principal.name, failure)


def _change(answer: Any) -> dict[str, Any]:
    """Before and after as the answer tells: the differing settings of a revision, else what it left."""
    if not isinstance(answer, dict):
        return {"before": None, "after": answer}
    difference = answer.get("difference")
    changes = difference.get("changes") if isinstance(difference, dict) else None
    if not isinstance(changes, list):
        return {"before": None, "after": answer}
    revision = answer.get("revision")
    named = [change for change in changes if isinstance(change, dict)]
    return {
        "revision": revision.get("number") if isinstance(revision, dict) else None,
        "before": {str(change.get("path")): change.get("before") for change in named},
        "after": {str(change.get("path")): change.get("after") for change in named},
    }


def _json(data: bytearray) -> Any:
    if not data:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return f"({len(data)} bytes that are no JSON)"
