"""The witness's process: asks the servers what it is to be, and runs its member of etcd. It decides nothing itself.

It follows the server with the newest settings, and never goes back to older ones: of two servers that have lost sight
of each other one may still mean an etcd that was given up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from portico.errors import InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import read_file, write_file
from portico.server.etcd.identity import CERTIFICATE_NAME, client_context
from portico.server.etcd.member import Place
from portico.server.etcd.part import Part, Share
from portico.server.peers import messages
from portico.server.peers.caller import Caller
from portico.server.peers.tls import caller_context
from portico.settings.etcd.client import EtcdClient, EtcdUnavailable

log = logging.getLogger("portico.witness")

FILE_NAME, STATUS_NAME = "witness.json", "status.json"
INTERVAL = 1.0
ASK_SECONDS = 3.0
MAXIMUM_SERVERS = 32
MAXIMUM_CRL = 64 << 10


@dataclass(frozen=True)
class Known:
    """What the witness keeps.

    Attributes:
        trust: the cluster's CA, PEM.
        servers: name, host and port of each.
        revision: of the settings that it was told of last.
    """

    name: str
    trust: str
    servers: tuple[tuple[str, str, int], ...]
    revision: int = 0

    def save(self, state: Path) -> None:
        """Raises Unavailable."""
        write_file(state / FILE_NAME, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, state: Path) -> Known:
        """Raises NotFound (NO_WITNESS_HERE), InvalidInput (FILE_DAMAGED)."""
        path = state / FILE_NAME
        try:
            data = json.loads(read_file(path))
            servers = tuple((str(name), str(host), int(port)) for name, host, port in data["servers"])
            return cls(str(data["name"]), str(data["trust"]), servers, int(data["revision"]))
        except NotFound:
            raise NotFound(
                "This machine is no witness",
                why=f"there is no {path}",
                resolution="Make it one with a token of 'portico cluster store witness add', which a server prints: "
                "portico witness install TOKEN",
                code="NO_WITNESS_HERE",
            ) from None
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InvalidInput(
                f"{path} cannot be used",
                why="it is damaged",
                resolution="Install the witness anew: portico witness uninstall, then with a new token",
                code="FILE_DAMAGED",
            ) from None


def servers_of(data: dict[str, Any]) -> tuple[tuple[str, str, int], ...]:
    """The servers of an answer. Raises InvalidInput (MESSAGE_MALFORMED)."""
    try:
        found = messages.items(data, "servers", limit=MAXIMUM_SERVERS)
        return tuple((str(name), str(host), int(port)) for name, host, port in found)
    except (ValueError, TypeError):
        raise messages.malformed("'servers' is no list of places") from None


@dataclass(frozen=True)
class Orders:
    """What a server says the witness is to be."""

    by: str
    revision: int
    generation: str
    cluster: str
    wanted: bool
    host: str
    endpoints: tuple[str, ...]
    crl: str
    servers: tuple[tuple[str, str, int], ...]

    @classmethod
    def read(cls, by: str, data: Any) -> Orders:
        """Raises InvalidInput (MESSAGE_MALFORMED)."""
        if not isinstance(data, dict):
            raise messages.malformed("it is not an object")
        generation = messages.text(data, "generation") if data.get("generation") else ""
        return cls(
            by,
            messages.number(data, "revision"),
            generation,
            messages.text(data, "cluster"),
            data.get("wanted") is True,
            messages.text(data, "host"),
            tuple(str(url) for url in messages.items(data, "endpoints", limit=MAXIMUM_SERVERS)),
            messages.text(data, "crl", limit=MAXIMUM_CRL),
            servers_of(data),
        )


class Witness:
    """The witness on this machine.

    Args:
        state: its directory, from `portico.server.witness.joining`.

    Attributes:
        problem: why it does not do its part, None while it does.
        dismissed: whether the servers say that it is the witness no longer.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.known = Known.load(state)
        self.part = Part(state)
        self.problem: PorticoError | None = None
        self.dismissed = False
        self.orders: Orders | None = None
        self._pem = read_file(state / CERTIFICATE_NAME).decode()
        self._client: EtcdClient | None = None
        self._written = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(INTERVAL)
        finally:
            await self.part.process.stop()
            if self._client is not None:
                self._client.close()

    async def look(self) -> None:
        """Asks, and does what is said. Never fails; see `problem`."""
        problem: PorticoError | None = None
        try:
            await self._follow(await self._ask())
        except PorticoError as error:
            problem = error
            if self.problem is None or error.code != self.problem.code:
                log.warning("witness=%s", error)
        except Exception as error:
            log.exception("the witness failed")
            problem = PorticoError("The witness failed", why=type(error).__name__, resolution="Its log says why")
        if problem is None and self.problem is not None:
            log.info("witness=working")
        self.problem = problem
        with suppress(PorticoError):
            await asyncio.to_thread(self._write_status)

    async def _ask(self) -> Orders:
        """The newest orders. Raises Unavailable (NO_SERVER); NotFound (WITNESS_DISMISSED) when most refuse."""
        context = await asyncio.to_thread(caller_context, self.known.trust, self.state / CERTIFICATE_NAME)
        callers = [(name, Caller(host, port, name, context)) for name, host, port in self.known.servers]
        try:
            answers = await asyncio.gather(
                *(caller.get("/v1/store/witness", seconds=ASK_SECONDS) for _, caller in callers),
                return_exceptions=True,
            )
        finally:
            await asyncio.gather(*(caller.close() for _, caller in callers))
        found, refused, troubles = [], 0, []
        for (name, _), answer in zip(callers, answers, strict=True):
            if isinstance(answer, PorticoError):
                refused += answer.code == "NOT_A_MEMBER"
                troubles.append(f"{name}: {answer.why or answer.what}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.append(Orders.read(name, answer))
        newest = max(found, key=lambda orders: orders.revision, default=None)
        if newest is not None and newest.revision >= self.known.revision:
            self.dismissed = False
            return newest
        if 2 * refused > len(callers):
            self.dismissed = True
            await self.part.rest()
            raise NotFound(
                "This machine is the witness no longer",
                why="most servers of the cluster say so",
                resolution="Take it off: portico witness uninstall",
                code="WITNESS_DISMISSED",
            )
        raise Unavailable(
            "No server tells the witness what to do",
            why="; ".join(troubles)[:600] or f"what they say is older than revision {self.known.revision}",
            resolution="It goes on with what it was told last; look whether TCP port 2505 of the servers is reached",
            code="NO_SERVER",
        )

    async def _follow(self, orders: Orders) -> None:
        self.orders = orders
        known = replace(self.known, servers=orders.servers or self.known.servers, revision=orders.revision)
        if known != self.known:
            self.known = known
            await asyncio.to_thread(known.save, self.state)
        if not orders.generation:
            await self.part.rest()
            return
        client = await asyncio.to_thread(self._ask_etcd_at, orders)
        there = await asyncio.to_thread(_there, client, f"/portico/{orders.cluster}/{orders.generation}/newest")
        files = {"ca.pem": self.known.trust, "store.pem": self._pem, "crl.pem": orders.crl}
        share = Share(self.known.name, orders.generation, orders.wanted, Place(orders.host), files)
        await self.part.follow(share, client, there=there)

    def _ask_etcd_at(self, orders: Orders) -> EtcdClient:
        if self._client is None:
            context = client_context(self.known.trust, self.state / CERTIFICATE_NAME)
            self._client = EtcdClient(orders.endpoints, context)
        self._client.follow(orders.endpoints)
        return self._client

    def status(self) -> dict[str, Any]:
        """What `portico witness status` shows."""
        orders = self.orders
        return {
            "name": self.known.name,
            "pid": os.getpid(),
            "servers": [name for name, _, _ in self.known.servers],
            "told_by": orders.by if orders is not None else None,
            "revision": self.known.revision,
            "member": bool(orders is not None and orders.wanted and orders.generation and not self.dismissed),
            "dismissed": self.dismissed,
            "process": self.part.process.status(),
            "problem": self.problem.as_dict() if self.problem is not None else None,
        }

    def _write_status(self) -> None:
        text = json.dumps(self.status())
        if text != self._written:
            write_file(self.state / STATUS_NAME, text.encode())
            self._written = text


def read_status(state: Path, alive: Callable[[int], bool]) -> dict[str, Any]:
    """What the witness's process wrote last, and whether it runs. Raises PorticoError."""
    known = Known.load(state)
    try:
        data = json.loads(read_file(state / STATUS_NAME))
    except (NotFound, ValueError, RecursionError):
        data = {}
    found = data if isinstance(data, dict) else {}
    pid = found.get("pid")
    running = isinstance(pid, int) and alive(pid)
    return {"name": known.name, "revision": known.revision, **found, "running": running, "at": time.time()}


def _there(client: EtcdClient, key: str) -> bool:
    try:
        return client.get(key) is not None
    except EtcdUnavailable:
        return False
