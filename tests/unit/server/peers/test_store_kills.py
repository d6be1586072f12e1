"""A process dies at each step of a move to etcd and back, with a real etcd: the old store or the new one, as it says.

Steps are those of `kills`, and what is done to etcd: filling a new one, and deciding in it. etcd ends with its server.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from portico.server.etcd import keeper
from portico.server.etcd.moves import with_etcd
from portico.settings.etcd.store import EtcdStore
from portico.settings.store import Revision
from tests.unit.server.peers import kills
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, balanced, until
from tests.unit.server.peers.kills import Blade, in_force, kept, prepare, put_back, strike
from tests.unit.server.peers.test_kills import MOST_STEPS, found, restart
from tests.unit.server.peers.test_store_enable import alone

Play = Callable[[Scenario], None]

pytestmark = pytest.mark.usefixtures("etcd_program")


def sharpen(cluster: Cluster, blade: Blade) -> None:
    """What is done to etcd, and the file that says which member a server is, are steps too."""
    cluster.patch.setattr(kills, "_STEPS", (*kills._STEPS, "store.json"))
    cluster.patch.setattr(keeper, "LOOK_INTERVAL", 0.1)
    seed, append, clear = EtcdStore.seed, EtcdStore.append, EtcdStore.clear

    def owner(store: EtcdStore) -> str:
        return str(store._seal(b"")["server"])

    def seeds(store: EtcdStore, revisions: Any) -> None:
        blade.step(owner(store), "fill etcd")
        seed(store, revisions)

    def appends(store: EtcdStore, revision: Revision, former: Any) -> bool:
        blade.step(owner(store), "decide in etcd")
        stored = append(store, revision, former)
        blade.step(owner(store), "decided in etcd")
        return stored

    def clears(store: EtcdStore) -> None:
        blade.step(owner(store), "clear etcd", counts=False)
        clear(store)

    for name, patched in (("seed", seeds), ("append", appends), ("clear", clears)):
        cluster.patch.setattr(EtcdStore, name, patched)


def kind(server: Server) -> str:
    revision = server.agent.revision
    assert revision is not None
    return revision.settings.store.kind


async def holds(server: Server) -> str:
    """Which store a server has, once it has it whole: its documents agree, and etcd is what they say."""

    def whole() -> bool:
        if in_force(server) in ("", "between"):
            return False
        keeper, revision = server.agent.peers.keeper, server.agent.revision
        assert revision is not None
        if revision.settings.store.kind == "sqlite":
            return not keeper.process.running and not (server.agent.state / "store.json").exists()
        if keeper.store is None or not keeper.quorum():
            return False
        return keeper.store.newest() == (revision.number, revision.sha256)

    await until(whole)
    return kind(server)


async def to_etcd(server: Server) -> None:
    await server.agent.peers.moves.to_etcd("test")


async def to_sqlite(server: Server) -> None:
    await server.agent.peers.moves.to_sqlite("test")


Work = Callable[[Server], Coroutine[Any, Any, None]]
COMMENTS: dict[Work, str] = {to_etcd: "settings moved to etcd", to_sqlite: "settings moved out of etcd"}


async def struck(cluster: Cluster, blade: Blade, step: int, work: Work) -> tuple[bool, Server]:
    """Does something on the first server, which dies at a step; whether it did, and the server that runs then."""
    first = cluster.servers["da1"]
    before = in_force(first)
    died, error = await strike(cluster, blade, "da1", step, work(first))
    if not died:
        assert error is None, error
        return False, first
    first = await restart(cluster, "da1")
    await holds(first)
    now = in_force(first)
    told = first.agent.transactions.interrupted.problem
    told = told if told is not None and COMMENTS[work] in told.what else None  # or of one that died earlier
    assert told is not None or now == before, blade.steps
    if told is not None:
        assert told.why.startswith("it did not take place" if now == before else "it took place"), blade.steps
    return True, first


def test_a_server_that_dies_at_any_step_of_a_move_to_etcd_and_back(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade = await found(cluster)
        sharpen(cluster, blade)
        seen: dict[str, set[str]] = {"etcd": set(), "sqlite": set()}
        steps = {"etcd": 1, "sqlite": 1}
        most = 0
        while any(steps.values()):
            first = cluster.servers["da1"]
            most += 1
            assert most < MOST_STEPS
            wanted = "etcd" if kind(first) == "sqlite" else "sqlite"
            step = steps[wanted] or MOST_STEPS
            died, first = await struck(cluster, blade, step, to_etcd if wanted == "etcd" else to_sqlite)
            seen[wanted] |= set(blade.steps)
            steps[wanted] = step + 1 if died and steps[wanted] else 0
            assert await holds(first) in ("etcd", "sqlite")
        assert {"fill etcd", "decide in etcd", "decided in etcd", "commit settings.sqlite"} <= seen["etcd"]
        assert {"decide in etcd", "decided in etcd", "commit settings.sqlite"} <= seen["sqlite"]
        assert await first.change("report") > 2

    play(scenario)


async def enable(server: Server) -> None:
    await server.agent.peers.moves.enable(
        with_etcd(balanced()), expected=server.in_force[0], author="test", comment="load balancing enabled"
    )


def begun(server: Server) -> bool:
    """Whether a server is one of a cluster whose store is etcd, or serves alone; only one of them whole."""
    revision, peers = server.agent.revision, server.agent.peers
    assert revision is not None
    clustered = revision.settings.load_balancing is not None
    assert clustered == (revision.settings.store.kind == "etcd") == (peers.state is not None) == peers.files.exists()
    return clustered


def test_a_server_that_dies_at_any_step_of_beginning_a_cluster_with_etcd(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade = Blade(cluster.root, cluster.patch)
        add = cluster.add
        cluster.patch.setattr(cluster, "add", lambda name: prepare(add(name), blade))
        sharpen(cluster, blade)
        await alone(cluster)
        before = await kept(cluster)
        seen: set[str] = set()
        ends: set[bool] = set()
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            died, error = await strike(cluster, blade, "da1", step, enable(first))
            seen |= set(blade.steps)
            if not died:
                assert error is None, error
                break
            first = await restart(cluster, "da1")
            store = await holds(first)
            ends.add(begun(first))
            told = first.agent.transactions.interrupted.problem
            if told is not None:
                assert told.why.startswith("it took place" if store == "etcd" else "it did not take place"), blade.steps
            await put_back(cluster, before)
        assert step < MOST_STEPS - 1 and ends == {True, False}
        assert {"fill etcd", "decide in etcd", "decided in etcd", "commit settings.sqlite"} <= seen
        assert begun(cluster.servers["da1"])

    play(scenario)
