"""The filter of one server: what any of them does, and the portable one on nftables."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from ipaddress import IPv6Address
from typing import Protocol

from portico.balancing.nlb import ruleset
from portico.balancing.nlb.nft import Nftables, exists, open_nftables
from portico.balancing.nlb.plan import BalancingPlan, Owned
from portico.errors import Conflict, LimitReached


@dataclass(frozen=True)
class Counters:
    """Packets of one interface since the filter was installed.

    Attributes:
        seen: framed for the cluster and addressed to a VIP. All servers see the same number; one that does not is deaf.
        accepted: owned here.
        errors: ICMP errors, which every server takes.
        kept: TCP of dirty or quiet buckets with a connection here, or beginning here.
        clients: to clients held here.
        foreign: another server's bucket.
        lease: dropped because the agent did not renew its lease.
        disabled: dropped by a disabled port rule.
        hushed: TCP of dirty or quiet buckets whose connection is not here.
        elsewhere: to clients not held here.
        stray: framed for the cluster and for nobody here (takeover).
        arp, nd: questions answered in the kernel.
    """

    seen: int = 0
    accepted: int = 0
    errors: int = 0
    kept: int = 0
    clients: int = 0
    foreign: int = 0
    lease: int = 0
    disabled: int = 0
    hushed: int = 0
    elsewhere: int = 0
    stray: int = 0
    arp: int = 0
    nd: int = 0

    @property
    def dropped(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("foreign", "lease", "disabled", "hushed", "elsewhere", "stray")}


class Filter(Protocol):
    """Accepts what this server owns and drops the rest, at ingress. Everything here blocks for well under 1 ms except
    `install`. A filter belongs to the network namespace it was made in, and to one thread at a time."""

    name: str
    answers: bool
    """Whether it answers ARP and neighbour solicitations for the VIPs itself."""

    def prepare(self, plan: BalancingPlan) -> None:
        """Does what may take `install` long, ahead of it; nothing changes yet. The one operation that may run in
        another thread while others go on, except `install` and `remove`. Raises Unavailable."""
        ...

    def install(self, plan: BalancingPlan, owned: Owned, clients: Collection[IPv6Address] = ()) -> None:
        """Makes it what the plan says, whatever it was before, and starts the lease. Raises Unavailable."""
        ...

    def own(self, owned: Owned) -> None:
        """Replaces who owns what, at once. When this returns, the kernel works with it. Raises Unavailable."""
        ...

    def renew(self) -> None:
        """Extends the lease by its length from now. Raises Unavailable."""
        ...

    def surrender(self) -> None:
        """Ends the lease: from now on nothing to a VIP is accepted. Raises Unavailable."""
        ...

    def change_clients(self, add: Iterable[IPv6Address] = (), remove: Iterable[IPv6Address] = ()) -> None:
        """Adds and removes held clients, in one go. Raises LimitReached (nothing was changed), Unavailable."""
        ...

    def counters(self) -> dict[str, Counters]:
        """By interface. Raises Unavailable."""
        ...

    def busy(self, rule: int, *, lingering: bool = True) -> frozenset[int]:
        """Slots of a rule (its number) in use: those in which a packet without a connection (UDP, ESP) was accepted in
        the last `session_idle` seconds, and with `lingering` any packet within the rule's extended affinity. What was
        accepted before `install` is not known. Raises Unavailable."""
        ...

    def present(self) -> bool:
        """Whether the kernel still has it. Raises Unavailable."""
        ...

    def remove(self) -> None:
        """Takes it out of the kernel; a no-op when it is not there. Raises Unavailable."""
        ...


class HeldClients:
    """The set of held clients as the kernel has it, so that changes are exact and bounded."""

    def __init__(self, limit: int, held: Iterable[IPv6Address] = ()) -> None:
        self.limit = limit
        self.held = set(held)
        self._check(len(self.held))

    def difference(
        self, add: Iterable[IPv6Address], remove: Iterable[IPv6Address]
    ) -> tuple[set[IPv6Address], set[IPv6Address]]:
        """What is to be added and removed, given what is there. A client in both stays.

        Raises:
            LimitReached: the set would be larger than its limit.
        """
        wanted = set(add)
        gone = (set(remove) & self.held) - wanted
        new = wanted - self.held
        self._check(len(self.held) + len(new) - len(gone))
        return new, gone

    def commit(self, new: set[IPv6Address], gone: set[IPv6Address]) -> None:
        self.held |= new
        self.held -= gone

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise LimitReached(
                "Cannot hold more clients on this server",
                why=f"it would hold {size} and the limit is {self.limit}",
                resolution="Add a server to the cluster",
                code="NLB_CLIENTS_LIMIT",
            )


class PortableFilter:
    """nftables: works on every kernel Portico runs on."""

    name = "nftables"
    answers = False

    def __init__(self, nft: Nftables | None = None) -> None:
        self._nft = nft if nft is not None else open_nftables()
        self._plan: BalancingPlan | None = None
        self._clients = HeldClients(0)
        self._tracking = False
        self._settled: dict[str, int] = {}
        """What chains counted that are there no more."""

    def prepare(self, plan: BalancingPlan) -> None:
        """The kernel takes a ruleset at once."""

    def install(self, plan: BalancingPlan, owned: Owned, clients: Collection[IPv6Address] = ()) -> None:
        held = HeldClients(plan.max_clients, clients)
        set_there = plan.client_prefix is not None and plan.server_prefix is None
        self._nft.run(ruleset.render(plan, owned, held.held if set_there else ()))
        self._plan, self._clients, self._tracking = plan, held, ruleset.needs_tracking(owned)
        self._settled = {}

    def own(self, owned: Owned) -> None:
        plan = self._installed()
        lines = ruleset.ownership(plan, owned)
        wanted = ruleset.needs_tracking(owned)
        if wanted != self._tracking:
            tracking = ruleset.tracking(plan, owned, installed=self._tracking)
            if self._tracking:
                self._settled = self._count("inet", self._settled)
            # First the chains that marked packets go to, then the marks; and the other way round.
            lines = [*tracking, *lines] if wanted else [*lines, *tracking]
        self._nft.run("\n".join(lines) + "\n")
        self._tracking = wanted
        self._forget(plan)

    def renew(self) -> None:
        self._nft.run(ruleset.renewal(self._installed()))

    def surrender(self) -> None:
        plan = self._installed()
        self._nft.run(ruleset.surrender(plan))
        self._forget(plan)

    def _forget(self, plan: BalancingPlan) -> None:
        """Once more after a change of ownership, see `ruleset.forget`."""
        if lines := ruleset.forget(plan):
            self._nft.run("\n".join(lines) + "\n")

    def change_clients(self, add: Iterable[IPv6Address] = (), remove: Iterable[IPv6Address] = ()) -> None:
        plan = self._installed()
        new, gone = self._clients.difference(add, remove)
        if (new or gone) and plan.client_prefix is not None and plan.server_prefix is None:
            self._nft.run("\n".join(ruleset.client_changes(new, gone)) + "\n")
        self._clients.commit(new, gone)

    def counters(self) -> dict[str, Counters]:
        plan = self._installed()
        found = self._count("netdev", self._settled)
        if self._tracking:
            found = self._count("inet", found)
        names = [field.name for field in fields(Counters)]
        for n in range(len(plan.nics)):
            for name in ("seen", "accepted"):
                found[f"{name}{n}"] += found[f"flows{n}"]
        return {
            nic.interface: Counters(**{name: found.get(f"{name}{n}", 0) for name in names})
            for n, nic in enumerate(plan.nics)
        }

    def busy(self, rule: int, *, lingering: bool = True) -> frozenset[int]:
        plan = self._installed()
        found: set[int] = set()
        for name in ruleset.recorders(plan, rule, lingering=lingering):
            for item in self._nft.query(f"list set netdev {ruleset.TABLE} {name}"):
                found.update(entry["elem"]["val"] for entry in item.get("set", {}).get("elem", ()))
        return frozenset(found)

    def present(self) -> bool:
        return exists(self._nft, "netdev", ruleset.TABLE)

    def remove(self) -> None:
        self._nft.run(ruleset.removal())
        self._plan = None

    def _count(self, family: str, already: dict[str, int]) -> dict[str, int]:
        """The named counters of a table, added to others."""
        found = dict(already)
        for item in self._nft.query(f"list counters table {family} {ruleset.TABLE}"):
            if "counter" in item:
                name = item["counter"]["name"]
                found[name] = found.get(name, 0) + int(item["counter"]["packets"])
        return found

    def _installed(self) -> BalancingPlan:
        if self._plan is None:
            raise Conflict("The load-balancing filter is not installed", why="install comes first")
        return self._plan
