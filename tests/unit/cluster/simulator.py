"""Whole clusters in one process: a network that loses, delays, doubles and cuts; clocks that differ; kernel leases.

Time is simulated and everything random comes from one seed, so a run can be repeated exactly. Each server has a shell
that keeps the contract of `portico.cluster.core`, and a kernel that serves what it was given until the lease, by the
server's own clock, runs out.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from portico.cluster.config import BUCKETS, Key, MemberConfig, Path, PortRule
from portico.cluster.core import Member
from portico.cluster.events import Event, OwnershipChanged
from portico.cluster.ownership import Ownership
from portico.cluster.states import State

PATHS = (Path("external", True), Path("internal", True))
KEYS = (Key(1, b"k" * 32),)
WAKE_UP = 0.0005
"""Seconds from the arrival of a frame until the agent reads its sockets."""

RULES = (PortRule((443, 443)), PortRule((3544, 3544)))


def config(host: int, hosts: Collection[int], **changes: object) -> MemberConfig:
    """A member's configuration, as the tests have it unless they say otherwise."""
    base = MemberConfig("cluster", host, frozenset(hosts), PATHS, KEYS, RULES, revision=1)
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass
class Kernel:
    """What a server's data plane does by itself, whatever becomes of the agent."""

    ownership: Ownership | None = None
    lease_until: float = float("-inf")


@dataclass
class Server:
    """A server: its agent's core, its kernel, its clock."""

    host: int
    config: MemberConfig
    offset: float
    rate: float
    member: Member | None = None
    kernel: Kernel = field(default_factory=Kernel)
    frozen: bool = False
    dark: set[int] = field(default_factory=set)
    inbox: list[tuple[int, bytes]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    life: int = 0

    def clock(self, now: float) -> float:
        """The server's monotonic clock at a true time."""
        return self.offset + self.rate * now

    def true(self, local: float) -> float:
        """The true time of a reading of its clock."""
        return (local - self.offset) / self.rate

    def serves(self, rule: int, now: float) -> frozenset[int]:
        """Buckets that the kernel accepts now."""
        ownership = self.kernel.ownership
        if ownership is None or self.clock(now) >= self.kernel.lease_until:
            return frozenset()
        return ownership.rules[rule].owned


class Cluster:
    """Servers on one network.

    Attributes:
        loss, double: probability of each frame on each path to each receiver.
        delay, kernel_delay: lowest and highest, in seconds.
        blocked: triples of sender, receiver, path that get nothing through.
        dark: pairs of a server and a path whose network card has no carrier.
        observers: called after everything that could change who serves what.
    """

    def __init__(self, count: int, seed: int = 0, *, drift: float = 0.0, boots: bool = True, **changes: object) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.loss = self.double = 0.0
        self.delay = (0.0002, 0.002)
        self.kernel_delay = (0.0002, 0.003)
        self.blocked: set[tuple[int, int, int]] = set()
        self.dark: set[tuple[int, int]] = set()
        self.observers: list[Callable[[], None]] = []
        self.wire: list[tuple[float, int, int, bytes]] | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.servers: dict[int, Server] = {}
        hosts = range(1, count + 1)
        for host in hosts:
            rate = 1 + self.random.uniform(-drift, drift)
            offset = self.random.uniform(0, 1e6)
            self.servers[host] = Server(host, config(host, hosts, **changes), offset, rate)
        if boots:
            for host in hosts:
                self.boot(host)

    # Servers

    def boot(self, host: int) -> None:
        """A server's agent starts, with nothing left of an earlier life."""
        server = self.servers[host]
        server.life += 1
        server.kernel = Kernel()
        server.inbox.clear()
        server.dark.clear()
        server.frozen = False
        boot = 1_700_000_000_000 + int(self.now * 1000) + server.life
        local = server.clock(self.now)
        server.member = Member(server.config, boot=boot, nonce=self.random.getrandbits(64), now=local)
        server.member.start(local)
        self._step(host)

    def kill(self, host: int) -> None:
        """A server loses power."""
        server = self.servers[host]
        server.member = None
        server.kernel = Kernel()
        server.life += 1
        self._observe()

    def freeze(self, host: int) -> None:
        """A server's agent stops running; its kernel goes on."""
        self.servers[host].frozen = True

    def thaw(self, host: int) -> None:
        """It runs again, with what its sockets have gathered."""
        self.servers[host].frozen = False
        self._step(host)

    def command(self, host: int, name: str, *arguments: object) -> None:
        """Calls a command of a server's member."""
        server = self.servers[host]
        assert server.member is not None
        getattr(server.member, name)(*arguments, server.clock(self.now))
        self._step(host)

    def configure(self, host: int, **changes: object) -> None:
        """Gives a server another configuration, now or for its next start."""
        server = self.servers[host]
        server.config = replace(server.config, **changes)  # type: ignore[arg-type]
        if server.member is not None and not server.frozen:
            server.member.configure(server.config, server.clock(self.now))
            self._step(host)

    @property
    def alive(self) -> list[Server]:
        """Servers whose agent has not lost power."""
        return [server for server in self.servers.values() if server.member is not None]

    def member(self, host: int) -> Member:
        """A living server's core."""
        member = self.servers[host].member
        assert member is not None
        return member

    # Network

    def block(self, senders: Collection[int], receivers: Collection[int], paths: Collection[int] = (0, 1)) -> None:
        """Nothing gets from the senders to the receivers on these paths any more."""
        self.blocked |= {(a, b, p) for a in senders for b in receivers for p in paths if a != b}

    def unplug(self, host: int, path: int) -> None:
        """A cable is pulled out: its server's kernel says so."""
        others = set(self.servers) - {host}
        self.block([host], others, [path])
        self.block(others, [host], [path])
        self.dark.add((host, path))
        self._step(host)

    def partition(self, *groups: Collection[int]) -> None:
        """Only within each group something gets through."""
        for one, other in itertools.permutations(groups, 2):
            self.block(one, other)

    def heal(self) -> None:
        """Everything gets through again."""
        self.blocked.clear()
        self.dark.clear()

    def apart(self) -> set[tuple[int, int]]:
        """Pairs of servers that do not hear each other, not even through others that run."""
        found = set()
        for start in self.servers:
            reached, edge = {start}, {start}
            while edge:
                edge = {b for a in edge for b in self.servers if b not in reached and self._linked(a, b)}
                reached |= edge
                edge = {host for host in edge if self._runs(host)}
            found |= {(start, other) for other in self.servers if other not in reached}
        return found

    def _runs(self, host: int) -> bool:
        return self.servers[host].member is not None and not self.servers[host].frozen

    def _linked(self, a: int, b: int) -> bool:
        return all(any((x, y, path) not in self.blocked for path in range(len(PATHS))) for x, y in ((a, b), (b, a)))

    def inject(self, host: int, path: int, data: bytes) -> None:
        """Somebody else sends a frame to a server."""
        self._deliver(host, self.servers[host].life, path, data)

    # Time

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
        self.now = end

    def until(self, condition: Callable[[], bool], limit: float = 10.0) -> float:
        """Lets time pass until something holds; returns how long it took."""
        start = self.now
        while not condition():
            assert self.now - start < limit, f"not within {limit} s"
            self.run(0.005)
        return self.now - start

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Schedules something."""
        heapq.heappush(self._heap, (time, next(self._count), action))

    # The shell

    def _step(self, host: int) -> None:
        server = self.servers[host]
        member = server.member
        if member is None or server.frozen:
            return
        now = server.clock(self.now)
        for path in range(len(PATHS)):
            dark = (host, path) in self.dark
            if dark != (path in server.dark):
                server.dark ^= {path}
                member.carrier(path, not dark, now)
        inbox, server.inbox = server.inbox, []
        for path, data in inbox:
            member.receive(path, data, now)
        if now >= member.next_timeout():
            member.handle_timeout(now)
        self._apply(server, member)
        for frame in member.data_to_send(now):
            self._send(host, frame.path, frame.data)
        self._apply(server, member)
        if member.lease_until is not None:
            server.kernel.lease_until = member.lease_until
            self._observe()
        wanted = max(server.true(member.next_timeout()), self.now + 1e-6)
        self.at(wanted, self._alarm(host, server.life, member))

    def _alarm(self, host: int, life: int, member: Member) -> Callable[[], None]:
        def ring() -> None:
            server = self.servers[host]
            if server.life == life and not server.frozen and server.clock(self.now) >= member.next_timeout():
                self._step(host)

        return ring

    def _apply(self, server: Server, member: Member) -> None:
        while (event := member.next_event()) is not None:
            server.events.append(event)
            if isinstance(event, OwnershipChanged):
                delay = self.random.uniform(*self.kernel_delay)
                self.at(self.now + delay, self._applied(server, server.life, event.ownership))

    def _applied(self, server: Server, life: int, ownership: Ownership) -> Callable[[], None]:
        def apply() -> None:
            if server.life != life or server.member is None:
                return
            current = server.kernel.ownership
            if current is not None and current.serial > ownership.serial:
                return
            server.kernel.ownership = ownership
            self._observe()
            if not server.frozen:
                server.member.kernel_confirms(ownership.serial, server.clock(self.now))
                self._step(server.host)
            else:
                # The agent finds the answer when it runs again.
                self.at(self.now + 0.05, apply)

        return apply

    def _send(self, host: int, path: int, data: bytes) -> None:
        if self.wire is not None:
            self.wire.append((self.now, host, path, data))
        for other in self.servers.values():
            if other.host == host or other.member is None or (host, other.host, path) in self.blocked:
                continue
            for _ in range(2 if self.random.random() < self.double else 1):
                if self.random.random() < self.loss:
                    continue
                at = self.now + self.random.uniform(*self.delay)
                self.at(at, self._arrival(host, other.host, other.life, path, data))

    def _arrival(self, sender: int, host: int, life: int, path: int, data: bytes) -> Callable[[], None]:
        def arrive() -> None:
            if (sender, host, path) not in self.blocked:
                self._deliver(host, life, path, data)

        return arrive

    def _deliver(self, host: int, life: int, path: int, data: bytes) -> None:
        server = self.servers[host]
        if server.member is None or server.life != life:
            return
        if len(server.inbox) < 256:  # as a socket's buffer
            server.inbox.append((path, data))
        if len(server.inbox) == 1 and not server.frozen:
            # What arrives while a process wakes up is read with it.
            self.at(self.now + WAKE_UP, lambda: self._step(host) if server.life == life else None)

    def _observe(self) -> None:
        for observer in self.observers:
            observer()

    # What is true

    def owners(self, rule: int = 1) -> list[list[int]]:
        """For each bucket of a rule the servers that accept it."""
        served = {server.host: server.serves(rule, self.now) for server in self.alive}
        return [[host for host, buckets in served.items() if bucket in buckets] for bucket in range(BUCKETS)]

    def settled(self, hosts: Collection[int] | None = None) -> bool:
        """Whether these servers (None: all living ones) are one cluster in which each bucket has one owner."""
        expected = {server.host for server in self.alive} if hosts is None else set(hosts)
        members = [self.member(host) for host in expected]
        return (
            all(m.state is State.MEMBER and m.map.members == expected for m in members)
            and len({m.map.rank for m in members}) == 1
            and all(m.is_converged(self.servers[m.config.host_id].clock(self.now)) for m in members)
            and all(len(owners) == 1 for rule in (0, 1) for owners in self.owners(rule))
        )

    def all_events(self, kind: type[Event]) -> Iterator[tuple[int, Event]]:
        """Events of one kind, with the host that told of them."""
        for server in self.servers.values():
            for event in server.events:
                if isinstance(event, kind):
                    yield server.host, event


class OneOwner:
    """Watches that no bucket has two owners, but for members that could not hear each other lately."""

    def __init__(self, cluster: Cluster, excuse: float = 1.0) -> None:
        self._cluster = cluster
        self._excuse = excuse
        self._apart: dict[tuple[int, int], float] = {}
        cluster.observers.append(self.check)

    def update(self) -> None:
        """To be called after every mishap: who is apart is excused until a while after they hear each other again."""
        apart = self._cluster.apart()
        for pair, until in self._apart.items():
            if pair not in apart:
                self._apart[pair] = min(until, self._cluster.now + self._excuse)
        self._apart |= dict.fromkeys(apart, float("inf"))

    def check(self) -> None:
        """Raises AssertionError where two servers accept one bucket."""
        now = self._cluster.now
        for rule in (0, 1):
            served = [(server.host, server.serves(rule, now)) for server in self._cluster.alive]
            for (a, ours), (b, theirs) in itertools.combinations([s for s in served if s[1]], 2):
                if now >= self._apart.get((a, b), float("-inf")):
                    both = ours & theirs
                    assert not both, f"at {now:.4f}: servers {a} and {b} both serve {sorted(both)} of rule {rule}"


class Flows:
    """In every bucket that a server accepts it has a flow that never ends. A flow dies when its server drops it, or
    when another server that accepts the bucket is not quiet about it.

    Args:
        hosts: whose flows are watched; None: everybody's.
    """

    def __init__(self, cluster: Cluster, hosts: Collection[int] | None = None) -> None:
        self._cluster = cluster
        watched = cluster.servers if hosts is None else hosts
        self._held: dict[tuple[int, int], set[int]] = {(host, rule): set() for host in watched for rule in (1, 2)}
        self.check()
        assert hosts is None or all(self._held.values()), "these servers have no flows yet"
        cluster.observers.append(self.check)

    def check(self) -> None:
        """Raises AssertionError where a flow dies."""
        now = self._cluster.now
        parts = {
            (server.host, rule): (server.serves(rule, now), server.kernel.ownership.rules[rule])
            for server in self._cluster.alive
            if server.kernel.ownership is not None
            for rule in (1, 2)
        }
        for (host, rule), held in self._held.items():
            if (host, rule) not in parts:
                continue
            served, part = parts[host, rule]
            held |= served
            lost = held - part.owned - part.dirty
            assert not lost, f"at {now:.4f}: server {host} drops its flows in {sorted(lost)} of rule {rule}"
            for other in self._cluster.servers:
                if other != host and (other, rule) in parts:
                    theirs, other_part = parts[other, rule]
                    reset = (theirs & held) - other_part.quiet
                    assert not reset, f"at {now:.4f}: {other} resets flows of {host} in {sorted(reset)} of rule {rule}"
