"""What only the leader does: it watches who can serve, and makes the next map by plan. No clock of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from portico.cluster import convergence
from portico.cluster.buckets import BucketMap, shares
from portico.cluster.conditions import SERVING_STATES, Judge
from portico.cluster.config import MemberConfig
from portico.cluster.convergence import COUNTED_STATES, UNABLE, Standing
from portico.cluster.deafness import Damping
from portico.cluster.peers import Peer, Peers
from portico.cluster.states import HALTING, Condition, State
from portico.cluster.tenure import Tenure

LISTEN = 3.0
"""Periods for which a joining member listens before it follows anybody or founds a cluster, and is listened to before
it is let in."""

SETTLING = 10.0
"""Periods that a leader waits for all members to follow a map before it makes the next one."""

LINK_PATIENCE = 2.0
"""Periods for which a leader watches that members do not hear each other before it leaves one of them out."""


class Leader:
    """The part of a member that is asked when it has the lowest host id of those that serve."""

    def __init__(self, config: MemberConfig, peers: Peers, damping: Damping, judge: Judge, tenure: Tenure) -> None:
        self.config = config
        self.shares = shares(config.rules)
        self._peers = peers
        self._damping = damping
        self._judge = judge
        self._tenure = tenure
        self._able_before: set[int] = set()
        self._unlinked_since: float | None = None

    def leads(self, trusted: Collection[Peer]) -> bool:
        """Whether no member with a lower host id can lead."""
        return not any(
            peer.host < self.config.host_id
            and peer.host in self._tenure.map.members
            and peer.heartbeat.state in SERVING_STATES
            and not peer.heartbeat.conditions & HALTING
            for peer in trusted
        )

    def plan(
        self,
        me: Standing,
        trusted: Collection[Peer],
        version: int,
        contested: bool,
        dead: frozenset[int],
        now: float,
    ) -> BucketMap | None:
        """The next map, None while the present one is right, or has yet to be followed by all.

        Args:
            me: our own standing.
            trusted: verified peers with our settings.
            version: of the new map.
            contested: whether one is needed even if nothing changes, to go before that of another part of the cluster.
        """
        current = self._tenure.map
        standings = self._standings(me, trusted, dead, now)
        self._note_departures(standings, now)
        if not self._links_known(standings, now):
            return None
        made = convergence.planned(current, standings, self.shares, version)
        if made.same_assignment(current) and not contested:
            return None
        urgent = contested or not current.members <= made.members or not current.hosts <= made.hosts
        return made if urgent or self._all_follow(trusted, dead, now) else None

    def _standings(self, me: Standing, trusted: Collection[Peer], dead: frozenset[int], now: float) -> list[Standing]:
        current = self._tenure.map
        found = [me]
        for peer in trusted:
            joins = peer.host not in current.members
            if not joins or self._ready(peer, now):
                found.append(replace(self._standing(peer, now), joins=joins))
        rolling = {peer.host: peer for peer in self._peers.all_verified(now) if self._judge.rolling_out(peer, now)}
        for host in current.members - {standing.host for standing in found} - dead:
            if host in rolling:
                # Its settings are about to be ours, or the other way round: it stays what it is.
                found[0] = replace(found[0], hears=(found[0].hears or frozenset()) | {host})
                found.append(self._standing(rolling[host], now))
            else:
                # Others hear it, we do not: whether it is to blame or we are, the map cannot have us both.
                found.append(Standing(host, State.MEMBER, Condition(0), 0, None))
        return found

    def _standing(self, peer: Peer, now: float) -> Standing:
        beat = peer.heartbeat
        waits = self._damping.waits(peer.host, now)
        return Standing(peer.host, beat.state, beat.conditions, beat.weight, beat.heard_anywhere, waits)

    def _ready(self, peer: Peer, now: float) -> bool:
        """Whether one that is not counted in can be."""
        beat = peer.heartbeat
        return (
            beat.state is State.JOINING
            and not beat.conditions & HALTING
            and beat.map.rank == self._tenure.told.rank
            and now - peer.since >= LISTEN * self.config.period
        )

    def _note_departures(self, standings: Collection[Standing], now: float) -> None:
        """Hosts that became unable to serve count as having left."""
        able = {standing.host for standing in standings if not standing.conditions & UNABLE}
        for standing in standings:
            if standing.host in self._able_before and standing.conditions & UNABLE:
                self._damping.departed(standing.host, now)
        self._able_before = able

    def _links_known(self, standings: Collection[Standing], now: float) -> bool:
        """Whether it is sure which members do not hear each other: of a death they learn one after the other."""
        members = [standing for standing in standings if not standing.joins and standing.state in COUNTED_STATES]
        if len(convergence.hearing_each_other(members)) == len(members):
            self._unlinked_since = None
            return True
        if self._unlinked_since is None:
            self._unlinked_since = now
        return now - self._unlinked_since >= LINK_PATIENCE * self.config.period

    def _all_follow(self, trusted: Collection[Peer], dead: frozenset[int], now: float) -> bool:
        current = self._tenure.map
        if now - self._tenure.adopted_at >= SETTLING * self.config.period:
            return True
        if self._tenure.told.rank != current.rank:
            return False
        following = {peer.host for peer in trusted if peer.heartbeat.map.rank == current.rank}
        return current.members <= following | {self.config.host_id} and not self._tenure.missing(dead)
