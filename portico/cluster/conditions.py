"""What keeps a willing member from serving, judged from what it and the others hear. Pure.

Each member judges itself: nobody else has to be believed, and a member that is wrong about itself only steps back.
"""

from __future__ import annotations

from portico.cluster.config import MemberConfig
from portico.cluster.deafness import FrameWatch, Lag
from portico.cluster.heartbeat import Heartbeat
from portico.cluster.peers import NEVER, Peer, Peers
from portico.cluster.states import Condition, State

SERVING_STATES = frozenset({State.MEMBER, State.DRAINING, State.LEAVING})

CUT_PATIENCE = 1.0
"""Periods for which a missing link, or carrier, must last: members notice the same silence at slightly different times,
and a switch that goes takes every carrier along."""

CUT_HOLD = 10.0
"""Periods with all links and carriers before a member that was cut or unplugged counts as whole."""

DEAF_PATIENCE = 0.35
"""Seconds between two of our own looks at the counters that both find a lag: the others' counters are not of the same
moment as ours, traffic comes in bursts, and a machine that has no time for a look hears the others' counters first."""

_AWAY = Condition.DEAF | Condition.UNPLUGGED
"""No client's packets arrive, whoever hears whose heartbeats."""

ROLLOUT = 50.0
"""Periods that members may have different revisions of the settings while a change is distributed."""

RIVAL_HOLD = 30.0
"""Periods after which a second server with our host id, heard no more, is forgotten."""


class Rival:
    """Another server with our host id, if one is there."""

    def __init__(self) -> None:
        self.heartbeat: Heartbeat | None = None
        self.sequence = 0
        self._heard = NEVER
        self._last = (-1, -1)
        self._precedes = False

    def record(
        self, heartbeat: Heartbeat, moment: tuple[int, int], nonce: int, own: tuple[int, State, int], now: float
    ) -> None:
        """A frame with our host id came in that we did not send.

        Args:
            moment: its boot time and sequence.
            nonce: ours; only a rival that repeats it is there now, and not a recording.
            own: our boot time, state and host id.
        """
        if moment <= self._last:
            return
        self._last = moment
        self.heartbeat, self.sequence = heartbeat, moment[1]
        boot, state, host = own
        echo = heartbeat.echoes.get(host)
        if echo is None or echo.nonce != nonce:
            return
        self._heard = now
        ours, theirs = state in SERVING_STATES, heartbeat.state in SERVING_STATES
        self._precedes = theirs if ours != theirs else (moment[0], heartbeat.nonce) < (boot, nonce)

    def there(self, config: MemberConfig, now: float) -> bool:
        """Whether its recording-proof frames came lately."""
        return now - self._heard < RIVAL_HOLD * config.period

    def precedes(self, config: MemberConfig, now: float) -> bool:
        """Whether it is there, and we are the one to step back: who serves goes first, then who started first."""
        return self._precedes and self.there(config, now)


class Lasting:
    """Something that counts when it has lasted for CUT_PATIENCE, and until it has been gone for CUT_HOLD."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._until = NEVER

    def next_timeout(self, period: float) -> float | None:
        """When it will have lasted long enough."""
        return None if self._since is None or self._until != NEVER else self._since + CUT_PATIENCE * period

    def counts(self, there: bool, period: float, now: float) -> bool:
        """Whether it counts, if it is there now or not."""
        if not there:
            self._since = None
            if now >= self._until:
                self._until = NEVER
        elif self._since is None:
            self._since = now
        elif now - self._since >= CUT_PATIENCE * period:
            self._until = now + CUT_HOLD * period
        return now < self._until


class Judge:
    """This member's conditions.

    Attributes:
        lag: why it is deaf.
        why: of UNHEALTHY or REFUSED, in words.
    """

    def __init__(self, config: MemberConfig, peers: Peers, watch: FrameWatch, rival: Rival) -> None:
        self.config = config
        self.lag: Lag | None = None
        self.why = ""
        self._peers = peers
        self._watch = watch
        self._rival = rival
        self._unhealthy = ""
        self._dark: set[int] = set()
        """Paths without a carrier."""
        self._unplugged = Lasting()
        self._cut = Lasting()
        self._lag_since: float | None = None
        self._differs_since: dict[int, float] = {}

    def next_timeout(self) -> float | None:
        """When a missing link or carrier will have lasted long enough."""
        period = self.config.period
        times = [lasting.next_timeout(period) for lasting in (self._unplugged, self._cut)]
        return min((time for time in times if time is not None), default=None)

    def health(self, ok: bool, why: str) -> None:
        """What the shell found out about the services of this server."""
        self._unhealthy = "" if ok else why or "a check failed"

    def carrier(self, path: int, up: bool) -> None:
        """What the shell found out about the network card of a path."""
        (self._dark.discard if up else self._dark.add)(path)

    def conditions(self, before: Condition, state: State, stalled: bool, now: float) -> Condition:
        """All that holds now."""
        verified = self._peers.all_verified(now)
        found = Condition.STALLED if stalled else Condition(0)
        if self._unhealthy:
            found |= Condition.UNHEALTHY
        if self._mute(now):
            found |= Condition.MUTE
        if self._unplugged.counts(self._lacks_carrier(verified), self.config.period, now):
            found |= Condition.UNPLUGGED
        if self._cut.counts(self._lacks_links(verified, before, state, now), self.config.period, now):
            found |= Condition.CUT
        others = [peer.host for peer in verified if not peer.heartbeat.conditions & _AWAY]
        host = self.config.host_id
        deaf = bool(before & Condition.DEAF)
        deaf_on = self.lag.nic if deaf and self.lag is not None else None
        lag = self._watch.judge(host, others, len(self.config.nics), deaf_on, now)
        counted = self._watch.counted(host)
        if lag is None or counted is None:
            self._lag_since = None
        elif self._lag_since is None:
            self._lag_since = counted
        lasted = self._lag_since is not None and counted is not None and counted - self._lag_since >= DEAF_PATIENCE
        self.lag = lag if deaf or lasted else None
        if self.lag is not None:
            found |= Condition.DEAF
        if found & Condition.UNPLUGGED:
            # What follows from it says no more, and would send somebody to the switch.
            self.lag = None
            found &= ~(Condition.CUT | Condition.DEAF)
        refused = self._refused(verified, state, now)
        if refused:
            found |= Condition.REFUSED
        self.why = refused or self._unhealthy
        return found

    def _mute(self, now: float) -> bool:
        """Nobody we hear hears us. If one does, it vouches for us, and the leader sorts it out."""
        known = [
            peer
            for peer in self._peers.all_alive(now)
            if peer.acknowledged != NEVER and peer.heartbeat.state in SERVING_STATES
        ]
        return bool(known) and all(self._peers.does_not_hear_us(peer, now) for peer in known)

    def _lacks_carrier(self, verified: list[Peer]) -> bool:
        """A path that carries clients has no carrier, and a member is there to whom that has not happened; where it
        happened to all, the first one stays."""
        if not any(path in self._dark and known.carries_clients for path, known in enumerate(self.config.paths)):
            return False
        return any(
            peer.host < self.config.host_id or not peer.heartbeat.conditions & Condition.UNPLUGGED for peer in verified
        )

    def _lacks_links(self, verified: list[Peer], before: Condition, state: State, now: float) -> bool:
        """A link is missing on a path that carries clients, and we are the side that has no clients yet, or fewer
        links."""
        return any(
            self._yields(path, verified, before, state, now)
            for path, known in enumerate(self.config.paths)
            if known.carries_clients
        )

    def _yields(self, path: int, verified: list[Peer], before: Condition, state: State, now: float) -> bool:
        me = self.config.host_id
        hears = {me: self._peers.heard_on(path, now)}
        away = {me: bool(before & _AWAY)}
        serves = {me: state in SERVING_STATES}
        for peer in verified:
            hears[peer.host] = peer.heartbeat.heard[path] if path < len(peer.heartbeat.heard) else frozenset()
            away[peer.host] = bool(peer.heartbeat.conditions & _AWAY)
            serves[peer.host] = peer.heartbeat.state in SERVING_STATES

        def linked(one: int, other: int) -> bool:
            return other in hears[one] and one in hears[other]

        missing = [other for other in hears if other != me and not linked(me, other)]
        if not missing:
            return False

        def standing(host: int) -> tuple[bool, bool, int, int]:
            links = sum(linked(host, other) for other in hears if other != host)
            return not away[host], serves[host], links, -host

        ours = standing(me)
        return any(ours < standing(other) for other in missing)

    def rolling_out(self, peer: Peer, now: float) -> bool:
        """Whether a peer's settings differ from ours because a change is on its way to one of us."""
        since = self._differs_since.get(peer.host, now)
        grace = now - since < ROLLOUT * self.config.period
        return peer.heartbeat.revision != self.config.revision and grace

    def _refused(self, verified: list[Peer], state: State, now: float) -> str:
        """Why the cluster cannot take this member in, empty if it can."""
        if self._rival.precedes(self.config, now):
            return f"another server has host id {self.config.host_id}"
        differing = [peer for peer in verified if peer.heartbeat.digest != self.config.digest]
        self._differs_since = {peer.host: self._differs_since.get(peer.host, now) for peer in differing}
        serving = [peer for peer in differing if peer.heartbeat.state in SERVING_STATES]
        if not serving:
            return ""
        text = f"the settings of host {serving[0].host} (revision {serving[0].heartbeat.revision}) differ from ours"
        if state not in SERVING_STATES:
            return text
        settled = [peer for peer in serving if not self.rolling_out(peer, now)]
        ours = [self.config.host_id] + [
            peer.host
            for peer in verified
            if peer.heartbeat.digest == self.config.digest and peer.heartbeat.state in SERVING_STATES
        ]
        lost = [
            peer
            for peer in settled
            if (-peer.heartbeat.revision, peer.host) < (-self.config.revision, min(ours))
            and not peer.heartbeat.conditions & Condition.REFUSED
        ]
        return text if lost else ""
