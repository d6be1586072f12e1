"""One member of a cluster: membership, convergence, hand-over of buckets. No socket, no clock, no random source.

The shell's part of the contract:

- It reads its sockets empty into `receive`, calls `handle_timeout` if `next_timeout` says so, and then `data_to_send`,
  which draws the conclusions. It sends what that returns, and only then extends the kernel's lease to `lease_until`;
  None means that nothing may be extended.
- It applies each `OwnershipChanged` as a whole and calls `kernel_confirms` with its serial when the kernel runs it.
- `now` is a monotonic clock in seconds, the same for all calls and for the kernel's lease.

Who decides what: each member judges its own conditions (`conditions`); the death of a member is worked out by every
survivor at once, everything else by the leader (`convergence`); what a map gives is taken when the others have let go
(`tenure`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from portico.cluster import convergence, succession
from portico.cluster.buckets import BucketMap, carried_over, empty_map, shares
from portico.cluster.conditions import SERVING_STATES, Judge, Rival
from portico.cluster.config import SLOT_BITMAP_BYTES, MemberConfig
from portico.cluster.convergence import COUNTED_STATES, Standing, difference
from portico.cluster.deafness import WINDOW, Damping, FrameWatch
from portico.cluster.directory import Directory
from portico.cluster.events import (
    ClientsOrphaned,
    ConditionsChanged,
    Converged,
    Deaf,
    Event,
    MapChanged,
    MemberDraining,
    MemberJoined,
    MemberLeft,
    OwnershipChanged,
    SplitHealed,
    StateChanged,
)
from portico.cluster.heartbeat import Echo, FrameCount, Heartbeat
from portico.cluster.leader import LISTEN, Leader
from portico.cluster.link import Frame, Link
from portico.cluster.outbox import Outbox
from portico.cluster.ownership import Ownership
from portico.cluster.peers import NEVER, Peer, Peers
from portico.cluster.states import (
    HALTING,
    Condition,
    State,
    Trigger,
    after,
)
from portico.cluster.tenure import Tenure
from portico.cluster.view import MemberView, neighbours, views
from portico.cluster.wire import Envelope, Kind, ProtocolError, Reason

PATIENCE = 30.0
"""Periods after which it founds one although something is heard that it cannot verify, or a lower host id does not."""

URGENT_GAP = 0.01
"""Periods for each peer, at least five, between a heartbeat and the next that does not wait for its turn: when
something happens all members have something to say, and each has to listen to all."""


class Member:
    """This server's half of the cluster protocol; see the head of the file for the contract.

    Args:
        config: checked when it was made.
        boot: the wall clock at the start, milliseconds since the epoch; above that of every earlier start of this host.
        nonce: 64 unpredictable bits drawn at the start.
    """

    def __init__(self, config: MemberConfig, *, boot: int, nonce: int, now: float) -> None:
        self.config = config
        self.state = State.STOPPED
        self.conditions = Condition(0)
        self.outbox = Outbox()
        self.boot = boot
        self._nonce = nonce
        self._shares = shares(config.rules)
        self._peers = Peers(config, nonce)
        self._watch = FrameWatch()
        self._damping = Damping()
        self._rival = Rival()
        self._link = Link(config, boot, nonce, self._peers, self._rival)
        self._judge = Judge(config, self._peers, self._watch, self._rival)
        self._tenure = Tenure(config.host_id, config.rules, empty_map(len(config.rules)))
        self.directory = Directory(config.host_id, boot=boot)
        self._frames: tuple[FrameCount, ...] = ()
        self._slots: bytes | None = None
        self._last_call = now
        self._last_sent = NEVER
        self._next_beat = now
        self._urgent = False
        self._news = False
        self._dead_known: tuple[float, frozenset[int]] | None = None
        self._said: object = None
        self._given_serial = 0
        self._state_since = now
        self._stalled_since: float | None = None
        self._converged_rank: object = None
        self._leader = Leader(config, self._peers, self._damping, self._judge, self._tenure)

    # What the shell reads

    @property
    def ownership(self) -> Ownership:
        """The newest picture for the data plane."""
        return self._tenure.ownership

    @property
    def map(self) -> BucketMap:
        """The distribution of buckets that is followed."""
        return self._tenure.map

    @property
    def lease_until(self) -> float | None:
        """How long the kernel may serve, to be set after sending what `data_to_send` returned; None: no longer."""
        if not self._tenure.lease_allowed or self._last_sent == NEVER:
            return None
        until = self._last_sent + self.config.lease_time
        acknowledged = self._peers.acknowledged_until(self._last_call)
        return until if acknowledged is None else min(until, acknowledged)

    def next_event(self) -> Event | None:
        """The next event; the newest ownership goes first."""
        if self._given_serial != self._tenure.ownership.serial:
            self._given_serial = self._tenure.ownership.serial
            return OwnershipChanged(self._tenure.ownership)
        return self.outbox.take()

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called, if nothing else happens."""
        times = [
            self._next_beat,
            self._peers.next_silence(self._last_call),
            self.directory.next_timeout(),
            self._judge.next_timeout(),
        ]
        if self._urgent:
            times.append(self._last_sent + self._urgent_gap)
        return min(time for time in times if time is not None)

    def members(self, now: float) -> tuple[MemberView, ...]:
        """All living hosts, this one among them, by host id."""
        return views(self, self._peers, now)

    def is_converged(self, now: float) -> bool:
        """Whether all members of the map follow it, and serve what it gives them."""
        if self.config.host_id not in self.map.members or self._tenure.settled_version != self.map.version:
            return False
        return all(
            (peer := self._peers.get(host)) is not None
            and self._peers.verified(peer, now)
            and peer.heartbeat.map.rank == self.map.rank
            and peer.heartbeat.confirmed >= self.map.version
            for host in self.map.members - {self.config.host_id}
        )

    # What happens to it

    def start(self, now: float) -> None:
        """Joins the cluster, or takes back a drain or stop."""
        self._command(Trigger.START, now)

    def stop(self, now: float) -> None:
        """Gives all buckets away and stops; flows are lost."""
        self._command(Trigger.STOP, now)

    def drain(self, now: float) -> None:
        """Takes no new flows and stops when the last has ended."""
        self._command(Trigger.DRAIN, now)

    def suspend(self, now: float) -> None:
        """Stops at once, and refuses every command but resume."""
        self._command(Trigger.SUSPEND, now)

    def resume(self, now: float) -> None:
        """Ends a suspension; the member is stopped then."""
        self._command(Trigger.RESUME, now)

    def _command(self, trigger: Trigger, now: float) -> None:
        self._wake(now)
        self._trigger(trigger, now)
        self._evaluate(now)

    def configure(self, config: MemberConfig, now: float) -> None:
        """Another configuration of the same member: rules, weights, keys, members, timers."""
        assert config.host_id == self.config.host_id, "a host id is for life"
        assert len(config.paths) == len(self.config.paths), "paths are for life"
        self._wake(now)
        old, self.config = self.config, config
        self._peers.config = self._judge.config = self._leader.config = config
        self._link.configure(config)
        self._shares = self._leader.shares = shares(config.rules)
        if config.rules != old.rules:
            carried = carried_over(self.map, old.rules, config.rules, self._shares)
            self._tenure.reconfigure(config.rules, carried, now)
        self._evaluate(now)

    def local_health(self, ok: bool, why: str, now: float) -> None:
        """A service that clients need failed or came back."""
        self._wake(now)
        self._judge.health(ok, why)
        self._evaluate(now)

    def carrier(self, path: int, up: bool, now: float) -> None:
        """The network card of a path lost its carrier, or has it again: a cable that is out needs no silence to be
        found."""
        self._wake(now)
        self._judge.carrier(path, up)
        self._evaluate(now)

    def frame_counters(self, frames: Sequence[FrameCount], now: float) -> None:
        """VIP frames seen and accepted since the start, for each of `MemberConfig.nics`."""
        assert len(frames) == len(self.config.nics), "one count for each network card"
        self._frames = tuple(frames)
        self._watch.add(self.config.host_id, self.boot, self._frames, now)

    def kernel_confirms(self, serial: int, now: float) -> None:
        """The kernel runs the ownership with this serial."""
        self._wake(now)
        self._tenure.kernel_confirms(serial)
        self._evaluate(now)

    def held_slots(self, slots: bytes | None, now: float) -> None:
        """Slots outside our buckets in which UDP or ESP flows are kept; to be set before `kernel_confirms`."""
        assert slots is None or len(slots) == SLOT_BITMAP_BYTES, "one bit for each slot"
        self._slots = slots
        self._evaluate(now)

    def flows_gone(self, rule: int, buckets: Collection[int], now: float) -> None:
        """No flow is left in these dirty buckets of a rule; 0 is the default rule."""
        self._tenure.flows_gone(rule, buckets)
        self._evaluate(now)

    def receive(self, path: int, data: bytes, now: float) -> None:
        """A frame came in. What is not a new one of this cluster is counted and changes nothing."""
        self._wake(now)
        host = 0
        try:
            envelope = self._link.open(path, data)
            host = envelope.host
            relevant = self._accept(path, envelope, now)
        except ProtocolError as error:
            self.outbox.refuse(error, host, now)
            return
        self._news = self._news or relevant

    def handle_timeout(self, now: float) -> None:
        """Time passed."""
        self._wake(now)
        self._evaluate(now)

    def _wake(self, now: float) -> None:
        """Finds out whether we were away: then the others may have replaced us, and their silence is ours."""
        gap = now - self._last_call
        self._last_call = max(now, self._last_call)
        if gap > 2 * self.config.period:
            self._peers.excuse(gap, now)
            self._dead_known = None
        lapsed = self._last_sent != NEVER and now >= self._last_sent + self.config.lease_time
        if lapsed and self._stalled_since is None:
            self._stalled_since = now

    # Frames

    def _accept(self, path: int, envelope: Envelope, now: float) -> bool:
        """Takes a frame in and tells whether anything may follow from it."""
        self._dead_known = None
        host = envelope.host
        if envelope.kind is Kind.HOLDINGS:
            if self._link.holdings(path, envelope, now):
                self.directory.apply(host, envelope.boot, envelope.body)
            return False
        heartbeat = self._link.heartbeat(path, envelope, self.state, now)
        if heartbeat is None:
            return False
        known = self._peers.get(host)
        before = None if known is None or known.boot != envelope.boot else known.heartbeat
        peer = self._peers.record(host, envelope.boot, envelope.sequence, heartbeat, path, now)
        self._watch.add(host, envelope.boot, heartbeat.frames, now)
        if heartbeat.digest != self.config.digest:
            if not self._judge.rolling_out(peer, now):
                what = f"host {host} has other settings, revision {heartbeat.revision}"
                self.outbox.refuse(ProtocolError(Reason.CONFLICT, what), host, now)
        elif self._peers.verified(peer, now):
            self._tenure.evidence(host, heartbeat, peer.acknowledged)
        return before is None or not peer.noticed or _says(before) != _says(heartbeat) or self._waiting()

    def _waiting(self) -> bool:
        """Whether any frame could be the one that we wait for."""
        return bool(self.conditions & HALTING) or bool(self._tenure.missing(()))

    def data_to_send(self, now: float) -> list[Frame]:
        """The frames that are due: heartbeats first."""
        self._wake(now)
        if self._news:
            self._evaluate(now)
        frames = self._due_heartbeat(now)
        for body in self.directory.bodies_to_send(now):
            frames += self._link.seal(Kind.HOLDINGS, body)
        return frames

    @property
    def _urgent_gap(self) -> float:
        return URGENT_GAP * max(5, len(self._peers)) * self.config.period

    def _due_heartbeat(self, now: float) -> list[Frame]:
        period = self.config.period
        urgent = self._urgent and now >= self._last_sent + self._urgent_gap
        if not urgent and now < self._next_beat:
            return []
        if self._stalled_since is not None and not self.conditions & Condition.STALLED:
            self._evaluate(now)
        self._peers.sent.add(self._link.next_sequence(Kind.HEARTBEAT), now)
        self._last_sent = now
        self._urgent = False
        if now >= self._next_beat:
            # Kept on a grid, so that a late call does not stretch the period; skipped beats are not made up for.
            self._next_beat = max(self._next_beat + period, now + period / 2)
        return self._link.seal(Kind.HEARTBEAT, self._heartbeat(now).emit())

    def _heartbeat(self, now: float) -> Heartbeat:
        echoes = self._peers.echoes(now)
        if self._rival.heartbeat is not None:
            echoes[self.config.host_id] = Echo(self._rival.heartbeat.nonce, self._rival.sequence & 0xFFFF)
        return Heartbeat(
            nonce=self._nonce,
            state=self.state,
            conditions=self.conditions,
            serving=self._tenure.serving,
            weight=self.config.weight,
            revision=self.config.revision,
            digest=self.config.digest,
            map=self._tenure.told,
            confirmed=self._tenure.settled_version,
            heard=tuple(self._peers.heard_on(path, now) for path in range(len(self.config.paths))),
            confirmers=self._tenure.confirmers,
            dirty=self._tenure.dirty,
            frames=self._frames,
            echoes=echoes,
            slots=self._slots,
        )

    # Decisions

    def _evaluate(self, now: float) -> None:
        """Draws all conclusions from what is known now."""
        self._news = False
        self._notice(now)
        self._judge_ourselves(now)
        self._follow(now)
        self._found(now)
        self._bury(now)
        self._lead(now)
        self._finish(now)
        self._tenure.settle(
            neighbours(self._peers, self.map, now), self._dead(now), entitled=self.state in SERVING_STATES
        )
        self._announce(now)

    def _dead(self, now: float) -> frozenset[int]:
        """Hosts that neither we hear nor a member that we believe."""
        if self._dead_known is not None and self._dead_known[0] == now:
            return self._dead_known[1]
        living = {peer.host for peer in self._peers.all_alive(now)} | self._peers.vouched(now)
        dead = frozenset(self.config.members | self.map.members) - living - {self.config.host_id}
        self._dead_known = now, dead
        return dead

    def _notice(self, now: float) -> None:
        """Who came and who went."""
        for peer in self._peers:
            alive = self._peers.alive(peer, now)
            if alive and peer.noticed and peer.heartbeat.state is State.DRAINING and not peer.draining:
                self.outbox.put(MemberDraining(peer.host))
            peer.draining = alive and peer.noticed and peer.heartbeat.state is State.DRAINING
            if alive and not peer.noticed and self._peers.verified(peer, now):
                peer.noticed = True
                self.outbox.put(MemberJoined(peer.host))
            elif not alive and peer.noticed:
                peer.noticed = False
                said_so = peer.heartbeat.state not in (State.MEMBER, State.DRAINING, State.JOINING)
                if not said_so:
                    self._damping.departed(peer.host, now)
                self.outbox.put(MemberLeft(peer.host, said_so, now - peer.last_heard))
        for host in self._dead(now):
            orphans = self.directory.forget(host)
            if orphans:
                self.outbox.put(ClientsOrphaned(host, orphans))

    def _judge_ourselves(self, now: float) -> None:
        since = now
        woke = self._stalled_since is not None and self._awake_again(self._stalled_since, now)
        if self._stalled_since is not None and woke:
            since, self._stalled_since = self._stalled_since, None
        before = self.conditions
        lag_before = self._judge.lag
        stalled = self._stalled_since is not None and self.state in SERVING_STATES
        self.conditions = self._judge.conditions(before, self.state, stalled, now)
        if self.conditions != before:
            self.outbox.put(ConditionsChanged(before, self.conditions, self._judge.why))
        lag = self._judge.lag
        if lag is not None and lag_before is None:
            self.outbox.put(Deaf(lag.nic, lag.seen, lag.median, WINDOW))
        if woke:
            self._follow(now)
        outranked = woke and any(p.heartbeat.map.rank > self.map.rank for p in self._trusted(now))
        if self.state in SERVING_STATES and (self.conditions & Condition.REFUSED or outranked):
            # After a stall: the cluster went on without us, so we come as somebody new.
            self._trigger(Trigger.EXPELLED, now)
        if self.conditions & HALTING or self.state in (State.STOPPED, State.SUSPENDED):
            only_stalled = self.conditions & HALTING == Condition.STALLED
            self._tenure.halt(keep_flows=only_stalled and self.state in SERVING_STATES)
        elif self._tenure.resume(since if before & HALTING == Condition.STALLED else now):
            for peer in self._trusted(now):
                self._tenure.evidence(peer.host, peer.heartbeat, peer.acknowledged)

    def _awake_again(self, since: float, now: float) -> bool:
        """Whether everybody who could have replaced us has answered since, or is dead."""
        if self._last_sent < since:
            return False
        hosts = set(self.map.members - {self.config.host_id} - self._dead(now))
        hosts |= {peer.host for peer in self._peers.all_alive(now) if peer.heartbeat.state in COUNTED_STATES}
        if not hosts:
            # Nobody to ask; but somebody may have started meanwhile.
            return now - since >= LISTEN * self.config.period
        return all((peer := self._peers.get(host)) is not None and peer.acknowledged >= since for host in hosts)

    def _trusted(self, now: float) -> list[Peer]:
        """Verified peers with our settings."""
        return [peer for peer in self._peers.all_verified(now) if peer.heartbeat.digest == self.config.digest]

    def _follow(self, now: float) -> None:
        """Takes over a map that goes before ours."""
        if self.state is State.JOINING and now - self._state_since < LISTEN * self.config.period:
            return  # the first that is heard need not be the one that counts
        best = succession.best(self, self._trusted(now), len(self._shares))
        if best is not None:
            self._adopt(best.heartbeat.map, now, f"host {best.host} follows it", made_here=False)

    def _adopt(self, new: BucketMap, now: float, why: str, *, made_here: bool) -> None:
        old = self.map
        self._tenure.adopt(new, now)
        self._dead_known = None
        for peer in self._trusted(now):
            # Whoever told us of the map follows it.
            self._tenure.evidence(peer.host, peer.heartbeat, peer.acknowledged)
        self.outbox.put(MapChanged(new.version, new.members, made_here, why))
        counted = self.config.host_id in new.members
        if counted and self.state is State.JOINING:
            self._trigger(Trigger.ADMITTED, now)
        elif not counted and self.state in SERVING_STATES:
            if not made_here and not old.members & new.members:
                self.outbox.put(SplitHealed(ours_stays=False, others=new.members))
            self._trigger(Trigger.EXPELLED, now)

    def _found(self, now: float) -> None:
        """A joining member that hears no cluster makes one."""
        if self.state is not State.JOINING or self.conditions & HALTING:
            return
        waited = now - self._state_since
        period = self.config.period
        if waited < LISTEN * period:
            return
        verified = self._peers.all_verified(now)
        serving = frozenset().union(*(peer.heartbeat.map.members for peer in verified))
        if serving & self._peers.vouched(now) - {peer.host for peer in verified} - {self.config.host_id}:
            return  # others hear a member that we do not hear
        patient = waited < PATIENCE * period
        for peer in self._peers.all_alive(now):
            beat = peer.heartbeat
            if not self._peers.verified(peer, now):
                if patient and beat.state in COUNTED_STATES:
                    return
            elif beat.state in SERVING_STATES or (
                patient
                and beat.state is State.JOINING
                and peer.host < self.config.host_id
                and not beat.conditions & HALTING
            ):
                return
        me = self.config.host_id
        made = self.map.successor(self._shares, [me], {me: self.config.weight}, self._next_version(now))
        self._adopt(made, now, "no cluster is heard", made_here=True)

    def _next_version(self, now: float) -> int:
        return max([self.map.version, *(peer.heartbeat.map.version for peer in self._trusted(now))]) + 1

    def _bury(self, now: float) -> None:
        """Works out the map after deaths, as every survivor does."""
        if self.state not in SERVING_STATES or self.conditions & HALTING:
            return
        dead = self._dead(now) & self.map.members
        if not dead:
            return
        weights = {peer.host: peer.heartbeat.weight for peer in self._peers}
        weights[self.config.host_id] = self.config.weight
        made = convergence.without(self.map, dead, weights, self._shares)
        names = ", ".join(str(host) for host in sorted(dead))
        self._adopt(made, now, f"host {names} is dead", made_here=True)

    def _lead(self, now: float) -> None:
        """Makes the next map by plan, if we are the leader."""
        if self.state not in SERVING_STATES or self.conditions & HALTING:
            return
        trusted = self._trusted(now)
        if not self._leader.leads(trusted):
            return
        standing = Standing(
            self.config.host_id,
            self.state,
            self.conditions,
            self.config.weight,
            frozenset(peer.host for peer in trusted),
            self._damping.waits(self.config.host_id, now),
        )
        rivals = {peer.host for peer in trusted if succession.rivals(self, peer)}
        made = self._leader.plan(standing, trusted, self._next_version(now), bool(rivals), self._dead(now), now)
        if made is None:
            return
        if rivals:
            self.outbox.put(SplitHealed(ours_stays=True, others=frozenset(rivals)))
        self._adopt(made, now, difference(self.map, made), made_here=True)

    def _finish(self, now: float) -> None:
        """Ends a drain, and a stop."""
        since = now - self._state_since
        if self.state is State.DRAINING:
            given_away = not any(self.config.host_id in owners for owners in self.map.owners)
            if (given_away and not self._tenure.dirty and self._slots is None) or since >= self.config.drain_timeout:
                self._trigger(Trigger.EMPTY, now)
        if self.state is State.LEAVING:
            given_away = not any(self.config.host_id in owners for owners in self.map.owners)
            if (given_away and self.is_converged(now)) or now - self._state_since >= 2 * self.config.detection:
                self._trigger(Trigger.HANDED_OVER, now)
                self._tenure.halt(keep_flows=False)

    def _trigger(self, trigger: Trigger, now: float) -> None:
        before, self.state = self.state, after(self.state, trigger)
        if self.state is not before:
            self._state_since = now
            self.outbox.put(StateChanged(before, self.state))

    def _announce(self, now: float) -> None:
        """Tells the others at once when what we have to say has changed."""
        says = (
            self.state,
            self.conditions,
            self.config.weight,
            self.config.digest,
            self._tenure.serving,
            self._tenure.told.rank,
            self._tenure.settled_version,
            self._tenure.dirty,
            self._slots,
            [self._peers.heard_on(path, now) for path in range(len(self.config.paths))],
        )
        if says != self._said:
            self._said = says
            self._urgent = True
        rank = self.map.rank
        if rank != self._converged_rank and self.is_converged(now):
            self._converged_rank = rank
            self.outbox.put(Converged(self.map.version, self.map.members, self.map.owners[0][0]))


def _says(beat: Heartbeat) -> tuple[object, ...]:
    """What others draw conclusions from at once; counters, echoes and the like are looked at every period."""
    return (
        beat.state, beat.conditions, beat.serving, beat.weight, beat.digest, beat.map.rank, beat.confirmed, beat.heard,
        beat.dirty, beat.slots,
    )  # fmt: skip
