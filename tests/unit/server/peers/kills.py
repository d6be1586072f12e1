"""Servers whose processes die at a chosen step: before a write of a file, a commit of the store, a message, the kernel.

What one step left is what the next one finds, so dying before each of them is dying after each of them too.
Nothing that a dead process would still do (handlers of exceptions, `finally`) reaches the disk, the network or the
kernel: every later step of it fails as the first did. Its successor has the directory as the dead one left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from portico.errors import PorticoError
from portico.server.peers.caller import Caller
from portico.server.peers.links import Links
from portico.settings.database import Database
from tests.unit.server.peers.conftest import Cluster, Server, until

BACKGROUND = frozenset(
    {"/v1/greeting", "/v1/health", "/v1/clients", "/v1/records", "/v1/tickets", "/v1/access", "/v1/files"}
)
"""Messages that come and go with time; they are no steps, but a dead process sends none of them."""
_STEPS = ("cluster", "applied.yaml", "cluster-name.json", "left.json", "change.json", "settings")


class Killed(BaseException):
    """The process has ended. No handler of the program catches it."""


class Blade:
    """Counts the steps of one server and ends it at one of them.

    Attributes:
        victim: its name, "" for nobody.
        steps: what it did, in words, since `aim`.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root.resolve()
        self.victim, self.at, self.dead = "", 0, False
        self.steps: list[str] = []
        self.fell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._patch(patch)

    def aim(self, victim: str, at: int) -> None:
        self.victim, self.at, self.dead, self.steps = victim, at, False, []
        self.fell = asyncio.Event()

    def rest(self) -> None:
        self.victim, self.dead = "", False

    def step(self, server: str, what: str, *, counts: bool = True) -> None:
        """Raises Killed when this is where that server ends, or has ended."""
        if server != self.victim or not server:
            return
        if not self.dead:
            if not counts:
                return
            self.steps.append(what)
            if len(self.steps) != self.at:
                return
            self.dead = True
            self._loop.call_soon_threadsafe(self.fell.set)
        raise Killed(what)

    def _owner(self, path: Any) -> tuple[str, str]:
        with contextlib.suppress(ValueError, TypeError):
            parts = Path(os.fspath(path)).relative_to(self.root).parts
            return parts[0], "/".join(parts[1:])
        return "", ""

    def _file(self, verb: str, path: Any) -> None:
        server, inside = self._owner(path)
        hidden = Path(inside).name.startswith(".")  # a temporary file: what counts is when it takes its place
        if not hidden:
            self.step(server, f"{verb} {inside}", counts=inside.startswith(_STEPS))

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        replace, unlink, remove_tree = Path.replace, Path.unlink, shutil.rmtree
        transaction, follow, call = Database.transaction, Links.follow, Caller._call

        def replaces(path: Path, target: Any) -> Path:
            self._file("write", target)
            return replace(path, target)

        def unlinks(path: Path, missing_ok: bool = False) -> None:
            if path.exists():
                self._file("delete", path)
            unlink(path, missing_ok=missing_ok)

        def removes(path: Any, *args: Any, **options: Any) -> None:
            self._file("delete", path)
            remove_tree(path, *args, **options)

        @contextlib.contextmanager
        def commits(database: Database) -> Any:
            server, inside = self._owner(database.path)
            with transaction(database) as connection:
                yield connection
                self.step(server, f"commit {inside}", counts=inside.startswith("settings"))
            self.step(server, f"committed {inside}", counts=False)  # somebody who died meanwhile goes no further

        async def follows(links: Links, servers: Any, own_name: str, context: Any) -> None:
            await follow(links, servers, own_name, context)
            for link in links.all():
                link.caller.owner = own_name  # type: ignore[attr-defined]

        async def calls(
            caller: Caller, method: str, path: str, body: bytes | None, query: dict[str, Any], seconds: float
        ) -> Any:
            owner, counts = getattr(caller, "owner", ""), path not in BACKGROUND
            self.step(owner, f"send {path} to {caller.name}", counts=counts)
            answer = await call(caller, method, path, body, query, seconds)
            self.step(owner, f"hear {caller.name} on {path}", counts=False)
            return answer

        patch.setattr(Path, "replace", replaces)
        patch.setattr(Path, "unlink", unlinks)
        patch.setattr(shutil, "rmtree", removes)
        patch.setattr(Database, "transaction", commits)
        patch.setattr(Links, "follow", follows)
        patch.setattr(Caller, "_call", calls)


def prepare(server: Server, blade: Blade) -> Server:
    """The kernel and the balancer of a server as steps of it."""
    platform, balancer, patch = server.agent.platform, server.agent.balancer, server.cluster.patch
    apply, balance = platform.apply, balancer.apply

    async def applies(settings: Any, values: Any) -> list[Any]:
        blade.step(server.name, "apply in the kernel")
        found: list[Any] = await apply(settings, values)
        return found

    async def balances(local: Any, revision: int, secrets: Any) -> None:
        await balance(local, revision, secrets)
        blade.step(server.name, "balance")

    async def rests() -> None:
        await asyncio.Event().wait()

    # What has no part in the operations would take most of the time.
    agent = server.agent
    for part in (agent.health, agent.inbox, agent.translation.accounting):
        patch.setattr(part, "run", rests)
    patch.setattr(platform, "apply", applies)
    patch.setattr(balancer, "apply", balances)
    return server


async def vanish(server: Server) -> None:
    """What is left of a dead process in this one ends: sockets, tasks, open files."""
    agent = server.agent
    server.running = False
    agent.peers._running = False
    agent.upkeep.close()
    ends: list[Callable[[], Any]] = [agent.peers._close, agent.peers.keeper.stop, agent.access.close]
    await asyncio.sleep(0)  # a task that never began would be complained about
    for task in list(agent._tasks):
        task.cancel()
    await asyncio.gather(*agent._tasks, return_exceptions=True)
    for end in ends:
        with contextlib.suppress(PorticoError, Killed, OSError):
            await end()
    for close in (agent.credentials.close, agent.transactions.close):
        with contextlib.suppress(PorticoError, Killed, OSError):
            close()


async def strike(cluster: Cluster, blade: Blade, victim: str, at: int, work: Coroutine[Any, Any, Any]) -> Any:
    """Runs an operation and ends the victim at its step number `at`.

    Returns:
        (whether it died, the error of the operation or None)
    """
    blade.aim(victim, at)
    task = asyncio.ensure_future(work)
    fallen = asyncio.ensure_future(blade.fell.wait())
    await asyncio.wait({task, fallen}, return_when=asyncio.FIRST_COMPLETED, timeout=60.0)
    fallen.cancel()
    if blade.dead and victim in cluster.servers:
        await vanish(cluster.servers[victim])
    [error] = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 60.0)
    died = blade.dead
    blade.rest()
    return died, error if isinstance(error, BaseException) else None


async def kept(cluster: Cluster) -> Path:
    """A copy of what all servers have on their disks, taken while none of them runs; they go on afterwards."""
    copy = cluster.root.with_name(f"{cluster.root.name}-kept")
    for server in cluster.servers.values():
        await server.stop()
    await asyncio.to_thread(shutil.copytree, cluster.root, copy)
    await put_back(cluster, copy)
    return copy


async def put_back(cluster: Cluster, copy: Path) -> None:
    """The servers of that copy run, on what it has; nothing else is left."""
    for server in cluster.servers.values():
        await server.stop()
    cluster.servers.clear()
    for path in await asyncio.to_thread(lambda: list(cluster.root.iterdir())):
        await asyncio.to_thread(shutil.rmtree, path)
    await asyncio.to_thread(shutil.copytree, copy, cluster.root, dirs_exist_ok=True)
    for name in sorted(await asyncio.to_thread(os.listdir, copy)):
        await cluster.add(name).start()
    await until(lambda: all(server.agent.peers.quorum() for server in cluster.servers.values()))


def in_force(server: Server) -> str:
    """The checksum of what a server has in force; "" for none, "between" when it has stored something else."""
    revision, store = server.agent.revision, server.agent.store()
    latest, applied = store.latest(), store.applied()
    if revision is None:
        return ""
    same = latest is not None and applied is not None and revision.sha256 == latest.sha256 == applied.sha256
    return revision.sha256 if same else "between"


async def settled(*servers: Server) -> str:
    """Waits until these servers have one document, stored, applied and in force; returns its checksum."""

    def one() -> bool:
        found = {in_force(server) for server in servers}
        return len(found) == 1 and not found & {"", "between"}

    await until(one)
    return in_force(servers[0])
