"""Which buckets this member serves under the map it follows: break before make. Pure.

Two members that own one bucket are an outage for its clients. The rules here keep that from happening whatever is lost,
late or doubled on the way:

1. A member drops what a new map takes from it at once, and shows the map to others (`told`) only when its kernel has
   confirmed that.
2. It takes what a map gives it only when every host that could be serving under an earlier map has shown that it
   follows this one (directly, or by the word of a member that saw it), or that it serves nothing, or is dead. Silence
   for the detection time is death, because the kernel of a silent host stopped serving when its lease ran out.
3. Maps only ever go up in rank, so who has shown one never falls back behind it.
4. After a halt (it was not heard, or did not run) all earlier evidence is void: only frames that answer a heartbeat
   sent after the halt count.
5. It keeps the flows of a bucket from when it lets go of it until it owns it again: whoever serves the bucket in the
   meantime must not take them for over, and reset them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from portico.cluster.buckets import BucketMap
from portico.cluster.conditions import SERVING_STATES
from portico.cluster.config import BUCKETS, SLOT_BITMAP_BYTES, SLOTS_PER_BUCKET, PortRule
from portico.cluster.heartbeat import Heartbeat
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.cluster.states import UNREACHABLE

MAX_UNCONFIRMED = 64
"""Pictures given to a data plane that confirms none of them; the oldest are forgotten, which only delays."""


@dataclass(frozen=True)
class Neighbour:
    """What matters of another host for how a bucket is taken over.

    Attributes:
        keeps_flows: alive and reachable for clients.
        dirty: bit set of buckets in which it keeps flows.
        slots: those in which it keeps UDP or ESP flows.
    """

    keeps_flows: bool
    dirty: int
    slots: bytes | None


def neighbour_of(host: int, beat: Heartbeat, rank: tuple[int, int, bytes], *, direct: bool) -> Neighbour:
    """A living host as its latest heartbeat shows it.

    Args:
        rank: of the map that we follow.
        direct: whether we hear it ourselves.
    """
    reachable = not beat.conditions & UNREACHABLE and (beat.state in SERVING_STATES or beat.dirty != 0)
    dirty, slots = beat.dirty, beat.slots
    if beat.map.rank != rank:
        # Others say that it has let go, but it has not told us yet in which buckets and slots it keeps flows.
        served = frozenset().union(*beat.map.buckets_of(host))
        dirty |= sum(1 << bucket for bucket in served)
        if direct and served:
            # It tells us within a period. Of one that only others hear we would wait in vain.
            every = sum(((1 << SLOTS_PER_BUCKET) - 1) << bucket * SLOTS_PER_BUCKET for bucket in served)
            every |= int.from_bytes(slots or b"", "little")
            slots = every.to_bytes(SLOT_BITMAP_BYTES, "little")
    return Neighbour(reachable, dirty, slots)


@dataclass(frozen=True)
class _Given:
    """A picture on its way to the kernel."""

    serial: int
    map: BucketMap
    serves: bool


class _Rule:
    """One rule's buckets. `lender` is who served an owned bucket before us; `origin` who served any bucket last;
    `interrupted` are dirty ones that a halt took from us, and no map."""

    def __init__(self, rule: PortRule | None) -> None:
        self.rule = rule
        self.owned: set[int] = set()
        self.dirty: set[int] = set()
        self.interrupted: set[int] = set()
        self.origin = bytearray(BUCKETS)
        self.lender = bytearray(BUCKETS)


class Tenure:
    """The buckets of one member; see the head of the file for the rules it keeps."""

    def __init__(self, me: int, rules: Sequence[PortRule], start: BucketMap) -> None:
        self._me = me
        self._rules = [_Rule(None), *(_Rule(rule) for rule in rules)]
        self.map = start
        """The map that is followed."""
        self.told = start
        """The map that the kernel follows, and that others may hear of."""
        self.adopted_at = float("-inf")
        self.settled_version = 0
        """The newest version of which the kernel serves everything that is ours."""
        self.ownership = Ownership(0, 0, tuple(_nothing(rule.rule) for rule in self._rules))
        self._given: deque[_Given] = deque()
        self._confirmed = _Given(0, start, False)
        self._halted = True
        self._halt_serial = 0
        self._evidence_since = float("-inf")
        self._earlier: set[int] = set()
        """Members of the maps followed since the last one of which everything was taken."""
        self._serving_strangers: set[int] = set()
        self._shown: set[int] = set()
        self._origins_known: set[int] = set()

    # What the others say

    def adopt(self, new: BucketMap, now: float) -> None:
        """Follows another map, of higher rank."""
        assert new.rank > self.map.rank, "maps only go up in rank"
        first = self.map.version == 0
        self._earlier |= self.map.members | new.members
        self._switch(new, now)
        if first:
            for rule, owners in zip(self._rules, new.owners, strict=True):
                rule.origin = bytearray(0 if owner == self._me else owner for owner in owners)

    def reconfigure(self, rules: Sequence[PortRule], carried: BucketMap, now: float) -> None:
        """Follows the present map under other port rules; a rule that stays keeps its buckets."""
        known = {rule.rule and (rule.rule.vip, rule.rule.ports, rule.rule.protocol): rule for rule in self._rules}
        changed = []
        for port_rule in (None, *rules):
            rule = _Rule(port_rule)
            old = known.get(port_rule and (port_rule.vip, port_rule.ports, port_rule.protocol))
            if old is not None:
                rule.owned, rule.dirty, rule.interrupted = old.owned, old.dirty, old.interrupted
                rule.origin, rule.lender = old.origin, old.lender
            changed.append(rule)
        self._rules = changed
        self._earlier |= carried.members
        self._switch(carried, now)

    def _switch(self, new: BucketMap, now: float) -> None:
        self.map = new
        self.adopted_at = now
        self._shown.clear()
        self._origins_known.clear()
        for rule, mine in zip(self._rules, new.buckets_of(self._me), strict=True):
            rule.dirty |= rule.owned - mine
            rule.owned &= mine
            if self._me not in new.members:
                # We passed for dead: the clients of these were made to dial again.
                rule.dirty -= rule.interrupted
                rule.interrupted.clear()

    def evidence(self, host: int, heartbeat: Heartbeat, acknowledged: float) -> None:
        """A verified member with our settings said something.

        Args:
            acknowledged: when we sent the newest heartbeat that it repeats.
        """
        follows = heartbeat.map.rank == self.map.rank
        if heartbeat.serving and not follows:
            self._serving_strangers.add(host)
            self._shown.discard(host)
        if acknowledged < self._evidence_since:
            return
        if follows:
            self._shown.add(host)
            if self.adopted_at >= self._evidence_since:
                # After a halt, what others saw before it proves nothing.
                self._shown |= heartbeat.confirmers
            if heartbeat.confirmed >= self.map.version and host not in self._origins_known:
                self._origins_known.add(host)
                self._note_origin(host)
        elif not heartbeat.serving and acknowledged >= self.adopted_at:
            self._shown.add(host)

    def _note_origin(self, host: int) -> None:
        for rule, owners in zip(self._rules, self.map.owners, strict=True):
            for bucket, owner in enumerate(owners):
                if owner == host:
                    rule.origin[bucket] = host

    @property
    def confirmers(self) -> frozenset[int]:
        """Hosts known to follow the map that we tell of, or to serve nothing since; we ourselves among them."""
        if self.told.rank != self.map.rank:
            return frozenset({self._me})
        return frozenset(self._shown | {self._me})

    def missing(self, dead: Collection[int]) -> set[int]:
        """Hosts that have yet to show that they have let go."""
        return (self._earlier | self._serving_strangers) - self._shown - {self._me} - set(dead)

    # Halts

    def halt(self, *, keep_flows: bool) -> None:
        """Serves nothing from now on.

        Args:
            keep_flows: those of what was served last until it is taken again, or we turn out to have passed for dead.
        """
        if not self._halted:
            self._halted = True
            self._halt_serial = self.ownership.serial + 1
        for rule in self._rules:
            if keep_flows:
                rule.interrupted |= rule.owned
                rule.dirty |= rule.owned
            else:
                rule.interrupted.clear()
                rule.dirty.clear()
            rule.owned.clear()

    def resume(self, since: float) -> bool:
        """May serve again, what the map gives and the others have let go of; tells whether there was a halt.

        Args:
            since: evidence counts from here.
        """
        if not self._halted:
            return False
        self._halted = False
        self._evidence_since = since
        self._earlier |= self.map.members
        self._shown.clear()
        return True

    # The kernel

    def settle(self, neighbours: Mapping[int, Neighbour], dead: Collection[int], *, entitled: bool) -> bool:
        """Takes what may be taken and draws a new picture if anything changed; tells whether it did.

        Args:
            neighbours: living hosts.
            dead: hosts that nobody hears.
            entitled: whether this member is in a state to serve.
        """
        complete = self.told.rank == self.map.rank and not self.missing(dead)
        if complete:
            self._earlier = set(self.map.members)
            self._serving_strangers.clear()
        if complete and entitled and not self._halted:
            for rule, mine in zip(self._rules, self.map.buckets_of(self._me), strict=True):
                for bucket in mine - rule.owned:
                    rule.lender[bucket] = rule.origin[bucket]
                rule.owned |= mine
                rule.dirty -= mine
                rule.interrupted.clear()
        picture = self._picture(neighbours)
        if picture == self.ownership and self._halt_serial <= picture.serial:
            self._note_settled()
            return False
        self.ownership = replace(picture, serial=self.ownership.serial + 1)
        if len(self._given) == MAX_UNCONFIRMED:
            forgotten = self._given.popleft()
            self._given[0] = replace(self._given[0], serves=self._given[0].serves or forgotten.serves)
        self._given.append(_Given(self.ownership.serial, self.map, self._serves))
        return True

    @property
    def _serves(self) -> bool:
        return any(rule.owned for rule in self._rules)

    def _picture(self, neighbours: Mapping[int, Neighbour]) -> Ownership:
        keepers = {host: neighbour for host, neighbour in neighbours.items() if neighbour.keeps_flows}
        held = 0
        slots = 0
        for neighbour in keepers.values():
            held |= neighbour.dirty
            if neighbour.slots is not None:
                slots |= int.from_bytes(neighbour.slots, "little")
        pictures = []
        for rule, owners in zip(self._rules, self.map.owners, strict=True):
            quiet = {bucket for bucket in rule.owned if held >> bucket & 1}
            kept_by = {0, self._me, *keepers}
            lost = {bucket for bucket in rule.owned - quiet if rule.lender[bucket] not in kept_by}
            origin = bytes(rule.lender[b] if b in rule.owned else rule.origin[b] for b in range(BUCKETS))
            pictures.append(
                RuleOwnership(
                    rule.rule,
                    frozenset(rule.owned),
                    frozenset(rule.dirty),
                    frozenset(quiet),
                    frozenset(lost),
                    tuple(origin),
                    tuple(owners),
                )
            )
        foreign = slots.to_bytes(SLOT_BITMAP_BYTES, "little") if slots else None
        return Ownership(self.ownership.serial, self.map.version, tuple(pictures), foreign)

    def kernel_confirms(self, serial: int) -> None:
        """The kernel runs a picture."""
        while self._given and self._given[0].serial <= serial:
            self._confirmed = self._given.popleft()
        if self._confirmed.map.rank != self.told.rank:
            self.told = self._confirmed.map
        self._note_settled()

    def _note_settled(self) -> None:
        mine = self.map.buckets_of(self._me)
        if (
            self._confirmed.serial == self.ownership.serial
            and not self._halted
            and all(rule.owned == buckets for rule, buckets in zip(self._rules, mine, strict=True))
        ):
            self.settled_version = self.map.version
            self._note_origin(self._me)

    @property
    def serving(self) -> bool:
        """Whether the kernel may own a bucket: it did in what it confirmed last, or will in what is on its way."""
        return self._confirmed.serves or any(given.serves for given in self._given)

    @property
    def lease_allowed(self) -> bool:
        """Whether the kernel runs nothing from before the last halt."""
        return not self._halted and self._confirmed.serial >= self._halt_serial

    @property
    def dirty(self) -> int:
        """Bit set of buckets, of any rule, in which flows are kept."""
        return sum(1 << bucket for bucket in set().union(*(rule.dirty for rule in self._rules)))

    def flows_gone(self, rule: int, buckets: Collection[int]) -> None:
        """No flow is left in these dirty buckets of a rule (0: the default rule)."""
        self._rules[rule].dirty -= set(buckets)


def _nothing(rule: PortRule | None) -> RuleOwnership:
    none: frozenset[int] = frozenset()
    nobody = (0,) * BUCKETS
    return RuleOwnership(rule, owned=none, dirty=none, quiet=none, orphaned=none, origin=nobody, owners=nobody)
