"""A cluster as one of its members sees it, for its decisions and for status pages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from portico.cluster.buckets import BucketMap
from portico.cluster.config import MemberConfig
from portico.cluster.peers import Peers
from portico.cluster.states import Condition, State, WindowsState, windows_state
from portico.cluster.tenure import Neighbour, neighbour_of


class Watched(Protocol):
    """What a view needs of a `core.Member`."""

    config: MemberConfig
    state: State
    conditions: Condition

    @property
    def map(self) -> BucketMap: ...

    def is_converged(self, now: float) -> bool: ...


@dataclass(frozen=True)
class MemberView:
    """One host as a member sees it.

    Attributes:
        buckets: how many the map gives it, by rule, the default rule first.
        paths: path numbers on which it is heard; all of them for the member itself.
        silence: seconds since its last frame; 0 for the member itself.
    """

    host: int
    state: State
    conditions: Condition
    windows_state: WindowsState
    weight: int
    buckets: tuple[int, ...]
    paths: tuple[int, ...]
    silence: float


def views(member: Watched, peers: Peers, now: float) -> tuple[MemberView, ...]:
    """All living hosts, the member among them, by host id."""
    config = member.config
    converged = member.is_converged(now)
    everywhere = range(len(config.paths))

    def view(
        host: int, state: State, conditions: Condition, weight: int, paths: Sequence[int], silence: float
    ) -> MemberView:
        shown = windows_state(state, converged=converged, default_host=host == member.map.owners[0][0])
        buckets = tuple(owners.count(host) for owners in member.map.owners)
        return MemberView(host, state, conditions, shown, weight, buckets, tuple(paths), silence)

    found = [view(config.host_id, member.state, member.conditions, config.weight, everywhere, 0.0)]
    for peer in peers.all_alive(now):
        beat = peer.heartbeat
        heard = [path for path in everywhere if now - peer.heard[path] < config.detection]
        found.append(view(peer.host, beat.state, beat.conditions, beat.weight, heard, now - peer.last_heard))
    return tuple(sorted(found, key=lambda one: one.host))


def neighbours(peers: Peers, followed: BucketMap, now: float) -> Mapping[int, Neighbour]:
    """What the living hosts keep, by host id, for a member that follows a map."""
    alive = {peer.host for peer in peers.all_alive(now)}
    living = alive | peers.vouched(now)
    return {
        peer.host: neighbour_of(peer.host, peer.heartbeat, followed.rank, direct=peer.host in alive)
        for peer in peers
        if peer.host in living
    }
