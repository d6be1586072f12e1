"""Which of several maps is followed, as after a split that heals. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from portico.cluster.buckets import BucketMap
from portico.cluster.conditions import SERVING_STATES
from portico.cluster.peers import Peer
from portico.cluster.states import HALTING, State
from portico.cluster.view import Watched


def best(member: Watched, trusted: Iterable[Peer], rules: int) -> Peer | None:
    """Whose map the member should follow instead of its own; None: nobody's.

    Args:
        trusted: verified peers with the member's settings.
        rules: how many port rules these have, the default rule counted.
    """
    found: Peer | None = None
    for peer in trusted:
        theirs = peer.heartbeat.map
        beat = peer.heartbeat
        serves = beat.state in SERVING_STATES and peer.host in theirs.members and not beat.conditions & HALTING
        if not serves or theirs.rank <= member.map.rank or len(theirs.owners) != rules:
            continue
        if outbids(member, theirs):
            continue
        if found is None or theirs.rank > found.heartbeat.map.rank:
            found = peer
    return found


def outbids(member: Watched, theirs: BucketMap) -> bool:
    """Whether a map of a part of the cluster that had lost us should give way to ours, because more follow ours."""
    return (
        member.state in SERVING_STATES
        and member.config.host_id not in theirs.members
        and not member.conditions & HALTING
        and not theirs.members & member.map.members
        and len(member.map.members) > len(theirs.members)
    )


def rivals(member: Watched, peer: Peer) -> bool:
    """Whether a host holds on to a map which would go before the member's, but should give way to it."""
    theirs = peer.heartbeat.map
    if theirs.rank <= member.map.rank:
        return False
    return peer.heartbeat.state is State.JOINING or (peer.host in theirs.members and outbids(member, theirs))
