"""One settings document on all servers: a change is a transaction over all that can be reached.

Where a change is made, that server coordinates:

1. *prepare*: every other server checks the document on its machine and keeps other changes out. Whoever cannot be
   reached is left out; without a quorum (see `quorum`) nothing happens. Nothing is stored yet.
2. the coordinator stores and applies it; when that fails the former document is in force again, here and nowhere else
   was anything done.
3. *commit*: the others store and apply it, at once. When one that can be reached fails, the former document becomes
   the newest revision again, everywhere, and the error names the server.

A server that was away, or whose answer was lost, takes up what it missed when it hears of a higher revision. Where two
histories differ, the one with more revisions holds, of equally long ones the later; that can only concern revisions
that no quorum confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from portico import __version__
from portico.errors import Conflict, PorticoError, Unavailable
from portico.server import bringing
from portico.server.peers import messages
from portico.server.peers.caller import PeerUnreachable
from portico.server.peers.links import Link
from portico.settings.document import dump, load
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused, errors
from portico.settings.store import Revision
from portico.versions import side_by_side

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

LEASE = 150.0
"""Seconds for which a prepared server keeps other changes out; the coordinator gives up before."""
PREPARE_SECONDS = 15.0
TURN_SECONDS = 3.0
"""So long a change waits for another one that was begun at the same time and gives way."""
COMMIT_SECONDS = 90.0
MAXIMUM_PAGE = 20
"""Revisions that travel at a time; each has up to 1 MiB."""
MAXIMUM_BYTES = 4 << 20
_UNREADABLE = frozenset({"SETTINGS_UNKNOWN_KEY", "SETTINGS_SCHEMA_VERSION", "SETTINGS_INVALID", "SETTINGS_MISSING"})
"""What an older version finds wrong with what a newer one writes."""


@dataclass
class Change:
    """A change in flight, on its coordinator.

    Attributes:
        prepared: the servers that were prepared, and the newest revision each has.
        committed: those of them that have it in force; nobody has to tell them that it is over.
    """

    peers: Peers
    former: Settings
    settings: Settings
    number: str = field(default_factory=lambda: secrets.token_hex(8))
    prepared: dict[str, int] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    lost: frozenset[str] = frozenset()
    deadline: float = field(default_factory=lambda: time.monotonic() + LEASE - COMMIT_SECONDS)

    async def apply(self, revision: Revision) -> None:
        """Has the others store and apply what is in force here.

        Raises:
            PorticoError: one that can be reached failed, or too few were left; it names the server. The caller puts
                the former document back, as a revision of its own, which spreads like any other.
        """
        self._check_deadline()
        found = await self.peers.links.each(
            self._links(),
            lambda link: link.caller.post("/v1/settings/commit", self._commit(link, revision), seconds=COMMIT_SECONDS),
        )
        stored = [name for name, result in found.items() if not isinstance(result, PorticoError)]
        self.committed.update(stored)
        for name, result in found.items():
            if isinstance(result, PorticoError) and not isinstance(result, PeerUnreachable):
                raise PorticoError(
                    f"{name} cannot apply it", why=f"{result.what}: {result.why}", resolution=result.resolution
                )
        self.peers.require_quorum(
            "The change did not reach enough servers",
            {self.peers.own_name, *stored, *self.lost},
            self.former,
            self.settings,
        )

    def _check_deadline(self) -> None:
        """Raises Unavailable when the other servers may have given up waiting."""
        if self.prepared and time.monotonic() > self.deadline:
            raise Unavailable(
                "The change took too long", why="the other servers no longer wait for it", resolution="Try it again"
            )

    def _commit(self, link: Link, revision: Revision) -> dict[str, Any]:
        known = self.prepared[link.name]
        revisions = self.peers.store().after(known, limit=MAXIMUM_PAGE + 1)
        # One that is far behind gets the newest alone and asks for the rest.
        complete = len(revisions) <= MAXIMUM_PAGE and sum(len(item.text) for item in revisions) < MAXIMUM_BYTES
        chosen = revisions if complete else [revision]
        return {"transaction": self.number, "revisions": [messages.revision_data(item) for item in chosen]}

    def _links(self) -> list[Link]:
        balancing = self.settings.load_balancing
        stay = {server.name for server in balancing.servers} if balancing is not None else set()
        return [link for link in self.peers.links.all() if link.name in self.prepared and link.name in stay]


@dataclass
class _Pending:
    transaction: str
    coordinator: str
    until: float
    since: float = field(default_factory=time.monotonic)
    brought: dict[str, str] = field(default_factory=dict)


class Distribution:
    """Both sides of the transaction on one server."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._pending: _Pending | None = None
        self._coordinating = False
        self._transaction = ""
        self._preparing = False
        self._gave_way: str | None = None

    # Coordinating

    @contextlib.asynccontextmanager
    async def change(
        self, former: Settings, settings: Settings, base: Revision, lost: frozenset[str] = frozenset()
    ) -> AsyncIterator[Change]:
        """Prepares the other servers for a change, and lets them go at the end.

        Args:
            lost: servers that the change takes out and that the administrator says are gone: nobody waits for them.

        Raises:
            Conflict: another change is in flight, or another server has newer settings.
            SettingsRefused: on another server something is wrong with the document; `why` names it.
            Unavailable: code NO_QUORUM.
        """
        pending = self._pending_now()
        if pending is not None:
            raise _in_flight(pending.coordinator)
        change = Change(self._peers, former, settings, lost=lost)
        self._coordinating, self._gave_way = True, None
        self._transaction = change.number
        try:
            self._preparing = True
            try:
                await self._prepare_in_turn(change, base)
            finally:
                self._preparing = False
            yield change
        finally:
            self._coordinating, self._transaction = False, ""
            await self._release(change)

    async def _prepare_in_turn(self, change: Change, base: Revision) -> None:
        """Of two servers that begin at once the first by priority goes on: the other gives way when it hears of it."""
        deadline = time.monotonic() + TURN_SECONDS
        while True:
            try:
                await self._prepare(change, base)
            except Conflict as error:
                if error.code != "CHANGE_IN_FLIGHT" or self._gave_way or time.monotonic() > deadline:
                    raise
            else:
                if self._gave_way is None:
                    return
            if self._gave_way is not None:
                raise _in_flight(self._gave_way)
            await asyncio.sleep(0.1)

    async def _prepare(self, change: Change, base: Revision) -> None:
        written = await asyncio.to_thread(dump, change.settings)  # once: it takes some 30 ms with 32 servers

        def question(link: Link) -> dict[str, Any]:
            balancing = change.settings.load_balancing
            return {
                "transaction": change.number,
                "base": base.number,
                "base_sha256": base.sha256,
                "settings": written,
                "removed": balancing is None or balancing.server(link.name) is None,
                "files": files,
            }

        state = self._peers.host.state
        known = bringing.carried(change.former, state)
        fresh = [named for path, named in bringing.carried(change.settings, state).items() if path not in known]
        files = await asyncio.to_thread(bringing.offer, fresh)
        await self._peers.require_writable(change.former, change.settings)
        links = [link for link in self._peers.links.all() if link.name not in change.lost]
        _require_near(link for link in links if not question(link)["removed"])
        found = await self._peers.links.each(
            links, lambda link: link.caller.post("/v1/settings/prepare", question(link), seconds=PREPARE_SECONDS)
        )
        refusals = {}
        for name, result in found.items():
            if isinstance(result, PorticoError):
                if not isinstance(result, PeerUnreachable):
                    refusals[name] = result
            elif isinstance(result, dict):
                change.prepared[name] = messages.number(result, "newest")
        for name, error in refusals.items():
            if error.code == "SETTINGS_NEWER":
                self._peers.catching_up.fetch_later(name)
                raise error
            if isinstance(error, SettingsRefused):
                self._require_readable(name, error)
                raise SettingsRefused(f"{name} refuses the settings", error.problems)
            error.what = f"{name}: {error.what}"
            raise error
        self._peers.require_quorum(
            "The settings cannot be changed now",
            {self._peers.own_name, *change.prepared, *change.lost},
            change.former,
            change.settings,
        )

    def _require_readable(self, name: str, refused: SettingsRefused) -> None:
        """Raises Conflict when a server refuses because of its version: what it cannot read is no mistake."""
        link = self._peers.links.get(name)
        version = link.said.get("version") if link is not None else None
        unknown = [problem for problem in refused.problems if problem.code in _UNREADABLE]
        if isinstance(version, str) and version != __version__ and unknown:
            raise _too_new(name, version, unknown[0].path)

    async def _release(self, change: Change) -> None:
        waiting = change.prepared.keys() - change.committed
        links = [link for link in self._peers.links.all() if link.name in waiting]
        body = {"transaction": change.number}
        await self._peers.links.each(links, lambda link: link.caller.post("/v1/settings/release", body, seconds=5.0))

    # Taking part

    async def prepare(self, sender: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answers a coordinator: what is newest here, after the document was checked on this machine."""
        transaction = messages.text(body, "transaction")
        pending = self._pending_now()
        if self._coordinating:
            if not (self._preparing and self._goes_first(sender)):
                raise _in_flight(self._peers.own_name)
            self._gave_way = sender
        if pending is not None and pending.transaction != transaction:
            raise _in_flight(pending.coordinator)
        # Before anything is waited for: two coordinators may ask at the same moment.
        self._pending = own = _Pending(transaction, sender, time.monotonic() + LEASE)
        try:
            store = self._peers.store()
            newest = await asyncio.to_thread(store.latest)
            base, digest = messages.number(body, "base"), messages.text(body, "base_sha256")
            if newest is not None and (newest.number > base or (newest.number == base and newest.sha256 != digest)):
                raise _newer(newest)
            if body.get("removed") is not True:
                settings = load(messages.text(body, "settings", limit=1 << 20), source=f"the settings from {sender}")
                self._peers.keeper.require_program(settings)
                own.brought = await asyncio.to_thread(
                    bringing.take, settings, self._peers.host.state, body.get("files") or []
                )
                await asyncio.to_thread(bringing.note, self._peers.files.directory, own.brought)
                problems = await self._peers.check(settings)
                if errors(problems):
                    raise SettingsRefused(f"{self._peers.own_name} refuses the settings", problems)
        except BaseException:
            bringing.remove(own.brought)
            if self._pending is own:
                self._pending = None
            raise
        return {"newest": newest.number if newest is not None else 0}

    def _goes_first(self, sender: str) -> bool:
        document = self._peers.document
        balancing = document.load_balancing if document is not None else None
        if balancing is None:
            return False
        here, there = balancing.server(self._peers.own_name), balancing.server(sender)
        return here is not None and there is not None and there.priority < here.priority

    async def commit(self, sender: str, body: dict[str, Any]) -> dict[str, Any]:
        """Stores and applies what a coordinator sends.

        Raises:
            PorticoError: it cannot be applied; the former document is in force again.
        """
        transaction = messages.text(body, "transaction")
        revisions = [messages.revision(item) for item in messages.items(body, "revisions", limit=MAXIMUM_PAGE)]
        if not revisions:
            raise messages.malformed("it has no revision")
        pending = self._pending_now()
        if pending is None or pending.transaction != transaction:
            raise Conflict(
                f"{self._peers.own_name} does not wait for this change",
                why="it was prepared too long ago, or another one came between",
                resolution="Try it again",
                code="CHANGE_LOST",
            )
        try:
            await self._peers.catching_up.take_up(revisions, sender)
        except BaseException:
            bringing.remove(pending.brought)
            raise
        finally:
            self._pending = None
        return {"applied": revisions[-1].number}

    def release(self, body: dict[str, Any]) -> dict[str, Any]:
        """The change with that number is over."""
        if self._pending is not None and self._pending.transaction == messages.text(body, "transaction"):
            bringing.remove(self._pending.brought)
            self._pending = None
        return {}

    @property
    def transaction(self) -> str:
        """The change that this server coordinates; empty when there is none."""
        return self._transaction

    def heard(self, name: str, transaction: Any, asked: float) -> None:
        """A coordinator said which change it makes: nobody waits for one that it does not know any more.

        It has died meanwhile, or its word that the change is over was lost. Waiting out the lease would keep this
        server from what the coordinator has stored.

        Args:
            transaction: what it said; empty for none. None: its version does not say.
            asked: monotonic time of the question; a change that was prepared since is none of its business.
        """
        pending = self._pending
        if pending is None or pending.coordinator != name or not isinstance(transaction, str):
            return
        if transaction != pending.transaction and pending.since < asked:
            log.warning("coordinator=%s gave its change up", name)
            self._pending = None

    def _pending_now(self) -> _Pending | None:
        if self._pending is not None and time.monotonic() > self._pending.until:
            log.warning("coordinator=%s did not finish its change", self._pending.coordinator)
            self._pending = None
        return self._pending

    @property
    def busy(self) -> bool:
        """Whether a change is in flight, here or elsewhere: nobody catches up meanwhile."""
        return self._coordinating or self._pending_now() is not None


def _in_flight(name: str) -> Conflict:
    return Conflict(
        "Another change is being made",
        why=f"{name} coordinates it",
        resolution="Wait until it is done, and make yours on what it left",
        code="CHANGE_IN_FLIGHT",
    )


def _require_near(links: Iterable[Link]) -> None:
    """Raises Conflict when a server that answers has a version that does not work with this one."""
    for link in links:
        version = link.said.get("version")
        if link.reachable and isinstance(version, str) and not side_by_side(version, __version__):
            raise Conflict(
                "The settings cannot be changed now",
                why=f"{link.name} has Portico {version[:40]}, this server {__version__}; only neighbouring minor "
                "versions work together",
                resolution=f"Bring {link.name} to the version of the others: portico server upgrade --wheel FILE, "
                f"there; or take it out: portico lb remove {link.name}",
                code="VERSIONS_APART",
            )


def _too_new(name: str, version: str, path: str) -> Conflict:
    return Conflict(
        f"{name} cannot read these settings",
        why=f"it has Portico {version}, which does not know '{path[:100]}' as this server writes it; this one has "
        f"{__version__}",
        resolution=f"Finish the upgrade (portico cluster upgrade), or make the change on {name}: newer versions read "
        "what older ones write",
        code="SETTINGS_TOO_NEW",
    )


def _newer(newest: Revision) -> Conflict:
    return Conflict(
        "Another server has newer settings",
        why=f"revision {newest.number} was stored by {newest.author} at {newest.created.isoformat()}",
        resolution="Look at the difference, make your change on the newest revision and apply it again",
        code="SETTINGS_NEWER",
    )
