"""Random lives of a cluster, checked against what must hold whatever happens.

A seed gives the size, the network's quality, the clocks and a sequence of mishaps and commands. While it goes on, no
bucket has two owners (but for servers that could not hear each other). When everything is well again, all servers are
one cluster, every bucket has one owner, and nobody has more than its share.

In a quiet life nobody dies, but servers join, drain, change weight and stall. Then no flow is ever lost.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from portico.cluster.config import BUCKETS
from portico.cluster.states import State
from tests.unit.cluster.simulator import Cluster, Flows, OneOwner

RECOVERY = 12.0
"""Seconds within which everything is well again after the last mishap."""


class Life:
    """One random run."""

    def __init__(self, seed: int, most: int = 6, *, carriers: bool = False) -> None:
        self.random = Random(seed)
        self.carriers = carriers
        """Whether a server whose cable is out is told so by its kernel."""
        self.cluster = Cluster(self.random.randint(2, most), seed, drift=self.random.choice([0.0, 0.002]), boots=False)
        self.cluster.loss = self.random.choice([0.0, 0.0, 0.01, 0.05])
        self.cluster.double = self.random.choice([0.0, 0.05])
        self.cluster.delay = self.random.choice([(0.0001, 0.001), (0.001, 0.02)])
        self.cluster.kernel_delay = self.random.choice([(0.0001, 0.002), (0.005, 0.03)])
        self.watch = OneOwner(self.cluster)
        self.story: list[str] = []

    def live_quietly(self, steps: int) -> None:
        """What happens day by day, with stalls for longer than the lease, but not so long that a server passes for
        dead; and the checks."""
        Flows(self.cluster)
        hosts = list(self.cluster.servers)
        self.random.shuffle(hosts)
        self.cluster.boot(hosts.pop())
        self.cluster.run(1.0)
        for _ in range(steps):
            for _ in range(self.random.randint(1, 3)):
                if hosts and self.random.random() < 0.3:
                    self._tell(self._boot, hosts.pop())
                else:
                    action = self.random.choice([self._drain, self._start, self._weigh])
                    self._tell(action, self.random.choice(sorted(self.cluster.servers)))
                self.cluster.run(self.random.choice([0.0, 0.0, 0.01, 0.3]))
            self._tell(self._stall, self.random.choice(sorted(self.cluster.servers)))
            self.cluster.run(self.random.choice([0.0, 0.1, 0.4, 2.0]))
        self._recover()
        self.cluster.run(1.0)
        self._check()

    def _stall(self, host: int) -> None:
        if self._runs(host) and self.random.random() < 0.5:
            self.cluster.freeze(host)
            self.cluster.run(self.random.choice([0.05, 0.22, 0.25]))
            self.cluster.thaw(host)

    def live(self, steps: int) -> None:
        """Everything that happens, and the checks."""
        for host in self.cluster.servers:
            self.cluster.boot(host)
            self.cluster.run(self.random.choice([0.0, 0.0, 0.2, 1.0]))
        self.cluster.run(1.0)
        for _ in range(steps):
            self._mishap()
            self.cluster.run(self.random.choice([0.01, 0.1, 0.3, 0.5, 1.0, 2.0]))
        self._recover()
        self._check()

    def _mishap(self) -> None:
        actions: list[Callable[[int], None]] = [
            self._kill, self._boot, self._freeze, self._thaw, self._partition, self._heal, self._cut_path,
            self._one_way, self._drain, self._stop, self._suspend, self._start, self._start, self._weigh, self._fail,
            self._recover_health,
        ]  # fmt: skip
        host = self.random.choice(sorted(self.cluster.servers))
        action = self.random.choice(actions)
        self._tell(action, host)
        self.watch.update()

    def _tell(self, action: Callable[[int], None], host: int) -> None:
        self.story.append(f"{self.cluster.now:.3f} {action.__name__} {host}")
        action(host)

    def _runs(self, host: int) -> bool:
        server = self.cluster.servers[host]
        return server.member is not None and not server.frozen

    def _kill(self, host: int) -> None:
        self.cluster.kill(host)

    def _boot(self, host: int) -> None:
        if self.cluster.servers[host].member is None:
            self.cluster.boot(host)

    def _freeze(self, host: int) -> None:
        if self._runs(host):
            self.cluster.freeze(host)

    def _thaw(self, host: int) -> None:
        if self.cluster.servers[host].frozen:
            self.cluster.thaw(host)

    def _partition(self, host: int) -> None:
        others = sorted(set(self.cluster.servers) - {host})
        self.random.shuffle(others)
        size = self.random.randint(0, len(others) - 1)
        self.cluster.partition([host, *others[:size]], others[size:])

    def _heal(self, host: int) -> None:
        self.cluster.heal()

    def _cut_path(self, host: int) -> None:
        path = self.random.randrange(2)
        if self.carriers:
            self.cluster.unplug(host, path)
            return
        others = set(self.cluster.servers) - {host}
        self.cluster.block([host], others, [path])
        self.cluster.block(others, [host], [path])

    def _one_way(self, host: int) -> None:
        other = self.random.choice(sorted(set(self.cluster.servers) - {host}))
        self.cluster.block([host], [other])

    def _command(self, host: int, name: str, *states: State) -> None:
        if self._runs(host) and self.cluster.member(host).state in states:
            self.cluster.command(host, name)

    def _drain(self, host: int) -> None:
        self._command(host, "drain", State.MEMBER)

    def _stop(self, host: int) -> None:
        self._command(host, "stop", State.MEMBER, State.DRAINING)

    def _suspend(self, host: int) -> None:
        self._command(host, "suspend", State.MEMBER, State.STOPPED)

    def _start(self, host: int) -> None:
        self._command(host, "resume", State.SUSPENDED)
        self._command(host, "start", State.STOPPED, State.DRAINING, State.LEAVING)

    def _weigh(self, host: int) -> None:
        if not self._runs(host):
            return
        self.cluster.configure(host, weight=self.random.choice([10, 50, 100]))

    def _fail(self, host: int) -> None:
        if self._runs(host):
            self.cluster.command(host, "local_health", False, "test")

    def _recover_health(self, host: int) -> None:
        if self._runs(host):
            self.cluster.command(host, "local_health", True, "")

    def _recover(self) -> None:
        self.story.append(f"{self.cluster.now:.3f} recovery")
        self._heal(0)
        self.cluster.loss = min(self.cluster.loss, 0.01)
        for host in self.cluster.servers:
            self._thaw(host)
            self._boot(host)
            self._recover_health(host)
            self._start(host)
        self.watch.update()

    def _check(self) -> None:
        end = self.cluster.now + RECOVERY
        while not self._well():
            assert self.cluster.now < end, "\n".join([*self.story, *self._picture()])
            self.cluster.run(0.1)
            for host in self.cluster.servers:
                self._start(host)
        version = max(server.member.map.version for server in self.cluster.alive if server.member)
        self.cluster.run(1.0)
        if self.cluster.loss == 0 and not self._waiting():
            after = max(server.member.map.version for server in self.cluster.alive if server.member)
            assert after == version, "it goes on changing"

    def _waiting(self) -> set[int]:
        """Hosts that came and went too often, by the word of whoever leads."""
        leader = min(
            self.cluster.servers.values(),
            key=lambda s: (s.member is None or s.member.state is not State.MEMBER, s.host),
        )
        assert leader.member is not None
        now = leader.clock(self.cluster.now)
        return {host for host in self.cluster.servers if leader.member._damping.waits(host, now)}

    def _well(self) -> bool:
        waiting = self._waiting()
        members = [server.member for server in self.cluster.alive if server.member is not None]
        inside = [member for member in members if member.state is State.MEMBER]
        hosts = {member.config.host_id for member in inside}
        if not hosts >= set(self.cluster.servers) - waiting or len({member.map.rank for member in members}) != 1:
            return False
        current = members[0].map
        if current.members != hosts or any(len(owners) != 1 for rule in (0, 1) for owners in self.cluster.owners(rule)):
            return False
        able = current.hosts
        if not able >= hosts - waiting:
            return False
        weights = {host: self.cluster.servers[host].config.weight for host in able}
        total = sum(weights.values())
        shares = {host: BUCKETS * weight / total for host, weight in weights.items()}
        return all(abs(current.owners[1].count(host) - share) < 1 for host, share in shares.items())

    def _picture(self) -> list[str]:
        members = [server.member for server in self.cluster.alive if server.member is not None]
        return [
            f"{member.config.host_id}: {member.state.name} {member.conditions!r} version {member.map.version} "
            f"members {sorted(member.map.members)} hosts {sorted(member.map.hosts)} "
            f"owns {len(member.ownership.rules[1].owned)} missing {member._tenure.missing(())}"
            for member in members
        ]
