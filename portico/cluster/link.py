"""Frames in and out: sealed, opened, and judged new or not. No socket, no clock."""

from __future__ import annotations

from typing import NamedTuple

from portico.cluster.conditions import Rival
from portico.cluster.config import MemberConfig
from portico.cluster.heartbeat import Heartbeat, parse
from portico.cluster.peers import Peers
from portico.cluster.replay import Freshness, ReplayGuard
from portico.cluster.states import State
from portico.cluster.wire import Envelope, Kind, ProtocolError, Reason, Sealer


class Frame(NamedTuple):
    """Bytes to send on a path: the payload of an Ethernet frame of type 0x886F, or of a UDP datagram."""

    path: int
    data: bytes


class Link:
    """The paths of one member.

    Args:
        boot, nonce: the member's.
        peers: whom it hears.
        rival: told of frames that carry our own host id.
    """

    def __init__(self, config: MemberConfig, boot: int, nonce: int, peers: Peers, rival: Rival) -> None:
        self.boot = boot
        self.nonce = nonce
        self._peers = peers
        self._rival = rival
        self._guards = {kind: ReplayGuard(len(config.paths)) for kind in Kind}
        self._sequences = dict.fromkeys(Kind, -1)
        self.configure(config)

    def configure(self, config: MemberConfig) -> None:
        """Other keys, or other members."""
        self._config = config
        self._sealers = [Sealer(config.cluster_id, path.name, config.keys) for path in config.paths]

    def next_sequence(self, kind: Kind) -> int:
        """The number of the next frame of a kind."""
        return self._sequences[kind] + 1

    def seal(self, kind: Kind, body: bytes) -> list[Frame]:
        """A body as a frame for each path."""
        self._sequences[kind] += 1
        config = self._config
        addresses = config.cluster_address, config.host_address
        envelope = Envelope(kind, config.host_id, self.boot, self._sequences[kind], body, *addresses)
        return [Frame(path, sealer.seal(envelope)) for path, sealer in enumerate(self._sealers)]

    def open(self, path: int, data: bytes) -> Envelope:
        """Reads and authenticates a frame.

        Raises:
            ProtocolError: it is not one of this cluster and path.
        """
        return self._sealers[path].open(data)

    def heartbeat(self, path: int, envelope: Envelope, state: State, now: float) -> Heartbeat | None:
        """What a heartbeat says, if it is the newest of its sender.

        Args:
            state: our own.

        Raises:
            ProtocolError: it must not be believed.
        """
        host, moment = envelope.host, (envelope.boot, envelope.sequence)
        if host == self._config.host_id:
            if envelope.boot == self.boot:
                return None  # a switch gave it back
            self._rival.record(parse(envelope.body), moment, self.nonce, (self.boot, state, host), now)
            raise ProtocolError(Reason.DUPLICATE, f"another server, or a recording of this one, has host id {host}")
        if host not in self._config.members:
            raise ProtocolError(Reason.STRANGER, f"host {host} is not among the members")
        guard = self._guards[Kind.HEARTBEAT]
        freshness = guard.check(host, path, moment)
        peer = self._peers.get(host)
        if peer is not None and envelope.boot > peer.boot and self._peers.verified(peer, now):
            raise ProtocolError(Reason.DUPLICATE, f"two servers have host id {host}, or it restarted just now")
        if freshness is Freshness.NEWEST:
            heartbeat = parse(envelope.body)
            guard.remember(host, path, moment)
            return heartbeat
        guard.remember(host, path, moment)
        if freshness is Freshness.COPY:
            self._peers.heard_again(host, path, now)
        return None

    def holdings(self, path: int, envelope: Envelope, now: float) -> bool:
        """Whether a message about clients is to be believed: it is new, and its sender is verified by heartbeats.

        Raises:
            ProtocolError: it is a recording.
        """
        peer = self._peers.get(envelope.host)
        if peer is None or peer.boot != envelope.boot or not self._peers.verified(peer, now):
            return False
        moment = envelope.boot, envelope.sequence
        guard = self._guards[Kind.HOLDINGS]
        freshness = guard.check(envelope.host, path, moment)
        guard.remember(envelope.host, path, moment)
        return freshness is Freshness.NEWEST
