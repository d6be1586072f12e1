"""The agent's handle on the gateway process: configuration in, events out, requests both ways."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from portico.connected import Door
from portico.errors import PorticoError, Unavailable
from portico.spawned import account
from portico.supervisor import ChildError, ChildState, Program, Start, Supervisor

log = logging.getLogger("portico.gateway")

USER = "portico-gateway"
UNIT = "portico-gateway.service"
MODULE = "portico.server.gateway_process"

PAGE = 1000
"""Sessions asked for at a time."""

_LOGGED = frozenset({"session_up", "session_down", "refused", "warning"})


@dataclass(frozen=True)
class Request:
    """An HTTP request on the public listener, handed up by the gateway.

    Attributes:
        identity: of the client certificate that the gateway verified, None without one.
    """

    number: int
    peer: str
    method: str
    path: str
    body: bytes
    identity: dict[str, Any] | None


@dataclass(frozen=True)
class Response:
    status: int
    content_type: str
    body: bytes


class Gateway:
    """One supervised gateway.

    Args:
        prepare: the configuration and descriptors for the next start.
        answer: answers a request from the Internet; must not raise.
        spawn: runs a coroutine in the background and keeps it from being collected.
        watch: gets every event but requests, and `{"event": "gateway_started", "at": ...}` for each new process.
        door: where the gateway of the unit connects; None starts gateways as children of this process.
    """

    def __init__(
        self,
        prepare: Callable[[], Start],
        answer: Callable[[Request], Awaitable[Response]],
        spawn: Callable[[Awaitable[None]], None],
        watch: Callable[[dict[str, Any]], None] = lambda _event: None,
        door: Door | None = None,
    ) -> None:
        self._watch = watch
        self.door = door
        self._answer = answer
        self._spawn = spawn
        self.supervisor = Supervisor(
            Program("gateway", MODULE, user=account(USER) if door is None else None, heartbeat="turned"),
            prepare,
            self._event,
            self._changed,
            source=door,
        )

    @property
    def running(self) -> bool:
        return self.supervisor.state is ChildState.RUNNING

    def status(self) -> dict[str, Any]:
        """State, process id, restarts and since when, for `portico server status`."""
        return self.supervisor.status()

    async def configure(self, config: dict[str, Any]) -> None:
        """Gives the running gateway a new configuration as a whole.

        Raises:
            ChildError: it refused and serves with the old one.
            Unavailable: it does not run or answer; its successor starts with the new one.
        """
        await self.supervisor.request("configure", config=config)

    async def sessions(self) -> list[dict[str, Any]]:
        """The tunnels; empty while no gateway runs (then there are none)."""
        if not self.running:
            return []
        sessions: list[dict[str, Any]] = []
        after = 0
        while True:
            # In pages: all of ten thousand are more than a line of the channel holds.
            found = await self.supervisor.request("sessions", after=after, limit=PAGE)
            page = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
            sessions += page
            if len(page) < PAGE:
                return sessions
            after = max(int(item["session"]) for item in page)

    async def disconnect(self, sessions: list[int]) -> int:
        """Closes tunnels by number and returns how many there were."""
        if not sessions or not self.running:
            return 0
        closed = await self.supervisor.request("disconnect", sessions=sessions)
        return closed if isinstance(closed, int) else 0

    async def stats(self) -> dict[str, Any]:
        """The gateway's counters; empty while none runs."""
        if not self.running:
            return {}
        found = await self.supervisor.request("stats")
        return found if isinstance(found, dict) else {}

    async def ask(self, op: str, *, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:  # noqa: ASYNC109
        """One of the operations that take an object and return one.

        Raises:
            ChildError: the gateway refuses what was asked; its own words are the cause.
            Unavailable: it does not run or answer.
        """
        found = await self.supervisor.request(op, timeout=timeout, **fields)
        return found if isinstance(found, dict) else {}

    def restart(self, reason: str) -> None:
        """Replaces the process at once; clients redial."""
        self.supervisor.kill(reason)

    def _changed(self, state: ChildState, reason: str) -> None:
        log.info("gateway=%s%s", state.value, f" reason={reason!r}" if reason else "")
        if state is ChildState.RUNNING:
            self._watch({"event": "gateway_started", "at": time.time()})

    def _event(self, event: dict[str, Any]) -> None:
        name = event.get("event")
        if name == "request":
            self._spawn(self._serve(event))
            return
        if name in _LOGGED:
            log.info("event=%s %s", name, _line(event))
        self._watch(event)

    async def _serve(self, event: dict[str, Any]) -> None:
        try:
            request = Request(
                number=int(event["request"]),
                peer=str(event.get("peer", "")),
                method=str(event["method"]),
                path=str(event["path"]),
                body=base64.b64decode(event.get("body_base64") or "", validate=True),
                identity=event["identity"] if isinstance(event.get("identity"), dict) else None,
            )
        except (KeyError, ValueError, TypeError, binascii.Error) as error:
            log.warning("event=request malformed: %s", error)
            return
        response = await self._answer(request)
        try:
            await self.supervisor.request(
                "answer",
                request=request.number,
                status=response.status,
                content_type=response.content_type,
                body_base64=base64.b64encode(response.body).decode(),
            )
        except (Unavailable, ChildError) as error:
            log.info("request=%d answer lost: %s", request.number, error)
        except PorticoError as error:
            log.warning("request=%d answer lost: %s", request.number, error)


def _line(event: dict[str, Any]) -> str:
    """An event as one line of `key=value`; foreign text quoted, nested identities flattened, nothing secret."""
    parts = []
    for key, value in event.items():
        if key in ("event", "at"):
            continue
        if isinstance(value, dict):
            parts += [f"{key}.{inner}={_value(item)}" for inner, item in value.items()]
        else:
            parts.append(f"{key}={_value(value)}")
    return " ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, str):
        plain = value and all(c.isalnum() or c in ".:_-/[]" for c in value)
        return value if plain else repr(value[:200])
    return str(value)[:200]
