"""How long a change of settings takes until 32 servers have it in force, and a server's start among them.

The servers are agents with everything but a kernel and a gateway: stores on disk with 1,000 revisions, TLS between
them, the transaction of `portico.server.peers.distribution`. 31 are in one process, on cores that they share, where
each server has a machine of its own; so a document is parsed once for all of them, and only the one that makes the
changes verifies it and greets the others. The server whose start is measured is a process of its own that does it all.

python -m benchmarks.peers.settings_scale DIRECTORY NAME    starts one server, says so, and ends with its input
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.network import Network
from benchmarks.programs import REPOSITORY
from portico.management.api.serve import set_aside_what_stays
from portico.server.cluster_secrets import ClusterFiles
from portico.server.credentials import now_utc
from portico.server.machine import write_own_name
from portico.server.peers.tls import own_member
from portico.settings.document import load, load_data
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.store import SettingsStore
from portico.settings.verify import verify
from tests.unit.server.peers.conftest import DATA, Cluster, Server, until

SERVERS, REVISIONS = 32, 1000
CHANGES, STARTS = 5, 3
SECONDS = 120.0
"""For anything that is waited for."""


def document(number: int, store: Any = None) -> Settings:
    """A document of 32 servers; each number gives another one."""
    servers = [
        {"name": f"da{n}", "priority": n, "internal_dedicated_addresses": [f"10.0.0.{10 + n}/24"]}
        for n in range(1, SERVERS + 1)
    ]
    settings = load_data(
        {
            **DATA,
            "load_balancing": {"internal_virtual_addresses": ["10.0.0.2/24"], "servers": servers},
            "ip_https": {"max_clients": 1000 + number},
        }
    )
    return settings if store is None else settings.model_copy(update={"store": store})


class Scale(Cluster):
    """Servers that have been one cluster for 1,000 revisions."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, network: str = "") -> None:
        super().__init__(root, patch)
        self.network = network or self._lasting()
        patch.setattr("portico.server.peers.distribution.load", lru_cache(maxsize=4)(load))
        patch.setattr("portico.server.peers.peers.GREETING_INTERVAL", 1.0)
        patch.setattr("portico.server.etcd.keeper.LOOK_INTERVAL", 1.0)

    def _lasting(self) -> str:
        """The servers' network, the same in all turns: etcd's data has its members' addresses in it."""
        file = self.root / "network"
        if not file.exists():
            self.root.mkdir(parents=True)
            file.write_text(self.network)
        return file.read_text()

    def add(self, name: str) -> Server:
        """A server without what has no part in settings."""
        server = super().add(name)

        async def rests() -> None:
            await asyncio.Event().wait()

        async def nothing(*_: Any, **__: Any) -> None:
            return

        async def checks(settings: Settings) -> list[Any]:
            await asyncio.to_thread(verify, settings, Facts())
            return []

        agent = server.agent
        for part in (agent.health, agent.location, agent.inbox, agent.translation.accounting, agent.users):
            self.patch.setattr(part, "run", rests)
        for name_of_loop in ("watch", "refresh", "watch_health"):
            self.patch.setattr(agent.upkeep, name_of_loop, rests)
        self.patch.setattr(agent.balancer, "apply", nothing)
        if name in ("da1", f"da{SERVERS}"):
            self.patch.setattr(agent, "check", checks)
        else:
            self.patch.setattr(agent.peers.catching_up, "greet", nothing)
        return server

    async def prepare(self) -> None:
        """Fills the directories of all servers, when that was not done."""
        if (self.root / "ready").exists():
            return
        first = await self.found()
        await first.stop()
        await asyncio.to_thread(self._copy)

    def _copy(self) -> None:
        source = self.root / "da1"
        store = SettingsStore.open(source)
        newest = store.latest()
        assert newest is not None
        for number in range(newest.number, REVISIONS):
            store.commit(document(number), expected=number, author="bench", now=now_utc())
        newest = store.latest()
        assert newest is not None
        store.mark_applied(newest)
        store.close()
        state = ClusterFiles(source).load()
        assert state is not None
        names = [f"da{n}" for n in range(1, SERVERS + 1)]
        for name in names[1:]:
            shutil.copytree(source, self.root / name)
            files = ClusterFiles(self.root / name)
            files.member.unlink()
            state = state.with_member(name, own_member(files.authority(), files.directory, name, now_utc()))
            write_own_name(self.root / name, name)
        for name in names:
            ClusterFiles(self.root / name).save(state)
        (self.root / "ready").touch()


def turn(kind: str) -> Callable[[Network, frozenset[str], float], dict[str, float]]:
    """One turn with the settings in SQLite or in etcd."""

    def settings(net: Network, _wanted: frozenset[str], _seconds: float) -> dict[str, float]:
        root = net.directory / f"settings-{kind}"
        with pytest.MonkeyPatch.context() as patch:
            return asyncio.run(_measure(Scale(root, patch), kind))

    return settings


async def _measure(cluster: Scale, kind: str) -> dict[str, float]:
    threads = SERVERS * min(32, len(os.sched_getaffinity(0)) + 4)  # as many as each has for what blocks, elsewhere
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
    await cluster.prepare()
    others = [cluster.add(f"da{n}") for n in range(1, SERVERS)]
    last, first = f"da{SERVERS}", others[0]
    process: asyncio.subprocess.Process | None = None
    try:
        for server in reversed(others):  # the first one greets the others
            await server.start()
        if kind == "etcd":
            if first.agent.revision is None or first.agent.revision.settings.store.kind == "sqlite":
                await first.agent.peers.moves.to_etcd("bench")
            await until(lambda: all(server.agent.peers.keeper.quorum() for server in others), SECONDS)
        set_aside_what_stays()
        starts = []
        for _ in range(STARTS):
            if process is not None:
                await _end(process)
            begin = time.monotonic()
            process = await _start(cluster, last)
            starts.append(time.monotonic() - begin)
        assert process is not None
        changes = [await _change(cluster, first, others, last, process) for _ in range(CHANGES)]
        return {"change_s": median(changes), "start_s": median(starts)}
    finally:
        if process is not None:
            await _end(process)
        await asyncio.gather(*(server.stop() for server in others))


async def _change(
    cluster: Scale, first: Server, others: list[Server], last: str, process: asyncio.subprocess.Process
) -> float:
    """Seconds until a change on one server is in force on all; the coordinator returns when each has said so."""
    revision = first.agent.revision
    assert revision is not None
    settings = document(revision.number, revision.settings.store)
    begin = time.monotonic()
    outcome = await first.agent.change(settings, expected=revision.number, author="bench")
    assert outcome.revision is not None and process.stdout is not None
    number = outcome.revision.number
    async with asyncio.timeout(SECONDS):
        while int(await process.stdout.readline()) < number:
            pass
    taken = time.monotonic() - begin
    missing = [server.name for server in others if server.in_force[0] != number]
    if missing or number != revision.number + 1:
        raise RuntimeError(f"revision {number} is not in force on {', '.join(missing) or 'all'}")
    return taken


async def _start(cluster: Scale, name: str) -> asyncio.subprocess.Process:
    """A server's process; returns when the newest settings are in force there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.peers.settings_scale", str(cluster.root), name, cluster.network),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        line = await process.stdout.readline()
    if not line.strip().isdigit():
        await _end(process)
        raise RuntimeError(f"the server {name} did not start: it exited with {process.returncode}")
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(20.0):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def serve(root: Path, name: str, network: str) -> None:
    """One server: writes the number of each revision that is in force here, until its input ends."""
    with pytest.MonkeyPatch.context() as patch:
        server = Scale(root, patch, network).add(name)
        await server.start()
        set_aside_what_stays()  # as every server does when it has started
        ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        told = 0
        while not ended.done():
            revision = server.agent.revision
            if revision is not None and revision.number > told:
                told = revision.number
                print(told, flush=True)
            await asyncio.sleep(0.005)
        await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
