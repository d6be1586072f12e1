"""Who is heard, by whom, since when. Pure.

A peer is *alive* while one of its frames came in lately on some path. It is *verified* while its heartbeats repeat our
nonce together with the number of one of our recent heartbeats: then it is no recording, and it hears us. Only verified
peers count for anything; of the others it is only known that something was heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from portico.cluster.config import MemberConfig
from portico.cluster.heartbeat import Echo, Heartbeat

NEVER = float("-inf")
SENT_LOG = 256
"""Heartbeats of ours whose times are kept, to tell how old an echo is."""


@dataclass
class Peer:
    """What is known of one other member.

    Attributes:
        boot, sequence: of the newest heartbeat.
        heartbeat: the newest.
        heard: for each path, when it was last heard there.
        since: when it was first heard after silence, or since its boot.
        acknowledged: when we sent the newest heartbeat that it repeated.
        unacknowledged: when we sent the first one after that; None: none yet.
        last_heard: on any path.
        noticed, draining: whether its life, and its draining, were reported as events.
    """

    host: int
    boot: int
    sequence: int
    heartbeat: Heartbeat
    heard: list[float]
    since: float
    acknowledged: float = NEVER
    unacknowledged: float | None = None
    last_heard: float = NEVER
    noticed: bool = False
    draining: bool = False

    def hear(self, path: int, now: float) -> None:
        """A frame that counts came in."""
        self.heard[path] = self.last_heard = now


@dataclass
class SentLog:
    """When which of our heartbeats left. Sequences count up by one."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=SENT_LOG))
    newest: int = -1

    def add(self, sequence: int, now: float) -> None:
        """A heartbeat leaves."""
        assert sequence == self.newest + 1 or self.newest == -1, "sequences count up by one"
        self.times.append(now)
        self.newest = sequence

    def behind(self, echo: int) -> int | None:
        """How many heartbeats were sent after the one with these low 16 bits; None: it is too old to be known."""
        behind = (self.newest - echo) & 0xFFFF
        return behind if behind < len(self.times) else None


class Peers:
    """All other members ever heard; at most 31."""

    def __init__(self, config: MemberConfig, nonce: int) -> None:
        self.config = config
        self._nonce = nonce
        self._peers: dict[int, Peer] = {}
        self.sent = SentLog()

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, host: int) -> Peer | None:
        """The peer with this host id, heard lately or not."""
        return self._peers.get(host)

    def record(self, host: int, boot: int, sequence: int, heartbeat: Heartbeat, path: int, now: float) -> Peer:
        """The newest heartbeat of a host came in."""
        peer = self._peers.get(host)
        if peer is None or peer.boot != boot:
            peer = Peer(host, boot, sequence, heartbeat, [NEVER] * len(self.config.paths), now)
            self._peers[host] = peer
        elif now - peer.last_heard >= self.config.detection:
            peer.since = now
        peer.sequence = sequence
        peer.heartbeat = heartbeat
        peer.hear(path, now)
        self._acknowledge(peer, heartbeat)
        return peer

    def _acknowledge(self, peer: Peer, heartbeat: Heartbeat) -> None:
        echo = heartbeat.echoes.get(self.config.host_id)
        if echo is None or echo.nonce != self._nonce:
            return
        behind = self.sent.behind(echo.sequence)
        if behind is None:
            return
        times = self.sent.times
        peer.acknowledged = max(peer.acknowledged, times[-1 - behind])
        peer.unacknowledged = times[-behind] if behind else None

    def heard_again(self, host: int, path: int, now: float) -> None:
        """The newest heartbeat of a host came in on a further path."""
        self._peers[host].hear(path, now)

    def excuse(self, gap: float, now: float) -> None:
        """We did not run for `gap` seconds until now: what was not heard meanwhile is our silence, not theirs."""
        for peer in self._peers.values():
            if self.alive(peer, now - gap):
                peer.heard = [min(at + gap, now) for at in peer.heard]
                peer.last_heard = max(peer.heard)

    def alive(self, peer: Peer, now: float) -> bool:
        """Whether it was heard on some path within the detection time."""
        return now - peer.last_heard < self.config.detection

    def verified(self, peer: Peer, now: float) -> bool:
        """Whether it is alive, and hears us: it repeated one of our recent heartbeats."""
        return self.alive(peer, now) and now - peer.acknowledged < self.config.detection + self.config.lease_time

    def all_alive(self, now: float) -> list[Peer]:
        """By host id."""
        return [self._peers[host] for host in sorted(self._peers) if self.alive(self._peers[host], now)]

    def all_verified(self, now: float) -> list[Peer]:
        """By host id."""
        return [self._peers[host] for host in sorted(self._peers) if self.verified(self._peers[host], now)]

    def heard_on(self, path: int, now: float) -> frozenset[int]:
        """Verified peers heard on one path within the detection time."""
        return frozenset(
            peer.host
            for peer in self._peers.values()
            if now - peer.heard[path] < self.config.detection and self.verified(peer, now)
        )

    def echoes(self, now: float) -> dict[int, Echo]:
        """What our heartbeat repeats: of everyone alive, verified or not."""
        return {
            peer.host: Echo(peer.heartbeat.nonce, peer.sequence & 0xFFFF)
            for peer in self._peers.values()
            if self.alive(peer, now)
        }

    def vouched(self, now: float) -> frozenset[int]:
        """Hosts that a verified peer hears; they are not dead, even if we do not hear them."""
        return frozenset().union(*(peer.heartbeat.heard_anywhere for peer in self.all_verified(now)))

    def does_not_hear_us(self, peer: Peer, now: float) -> bool:
        """Whether a peer that was verified goes on talking without having heard our newer heartbeats.

        Judged by what it says, not by what is missing: its newest frame came in long enough after we sent the first
        heartbeat that it did not repeat. It must be found out before the peer declares us dead, which is at the
        earliest `miss` periods after the heartbeat before that one.
        """
        if peer.acknowledged == NEVER or peer.unacknowledged is None or not self.alive(peer, now):
            return False
        patience = (self.config.lease - 1.25) * self.config.period
        return peer.last_heard - max(peer.unacknowledged, peer.since) >= patience

    def acknowledged_until(self, now: float) -> float | None:
        """Until when nobody can have declared us dead; None: there is nobody who could tell.

        Whoever repeats one of our heartbeats hears us for the detection time after it was sent, and vouches for us to
        those it talks to. While the last peers are silent for a while they may be dying, and their silence must not
        stop us.
        """
        known = [peer for peer in self.all_alive(now) if peer.acknowledged != NEVER]
        if all(now - peer.last_heard > 2.5 * self.config.period for peer in known):
            return None
        return max(peer.acknowledged for peer in known) + self.config.detection - self.config.period / 4

    def next_silence(self, now: float) -> float | None:
        """When the next living peer will be silent for too long on one of the paths, if nothing comes."""
        horizon = now - self.config.detection
        return min(
            (at + self.config.detection for peer in self._peers.values() for at in peer.heard if at > horizon),
            default=None,
        )
