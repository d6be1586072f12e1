"""Frames that are forged, recorded, cut or from elsewhere are counted and change nothing."""

from __future__ import annotations

from dataclasses import replace

from portico.cluster.config import Key, Path
from portico.cluster.core import Member
from portico.cluster.events import MemberJoined, MemberLeft, Refused
from portico.cluster.replay import Freshness, ReplayGuard
from portico.cluster.states import Condition, State
from portico.cluster.wire import Kind, ProtocolError, Reason, Sealer
from tests.unit.cluster.simulator import KEYS, Cluster, OneOwner, config


def formed(count: int) -> Cluster:
    cluster = Cluster(count)
    OneOwner(cluster)
    cluster.wire = []
    cluster.until(cluster.settled)
    cluster.run(1.0)
    return cluster


def recorded(cluster: Cluster, host: int) -> list[tuple[int, bytes]]:
    assert cluster.wire is not None
    return [(path, data) for _, sender, path, data in cluster.wire if sender == host]


def refused(cluster: Cluster, host: int) -> dict[Reason, int]:
    return dict(cluster.member(host).outbox.refused)


def test_recorded_frames_do_not_revive_a_dead_member() -> None:
    """The guard was once forgotten with the dead member, and its recorded frames revived it three times."""
    cluster = formed(3)
    frames = recorded(cluster, 2)
    cluster.kill(2)
    died = cluster.now
    noticed = None
    while cluster.now < died + 2.0:
        for path, data in frames[-40:]:
            cluster.inject(1, path, data)
            cluster.inject(3, path, data)
        cluster.run(0.02)
        if noticed is None and 2 not in cluster.member(1).map.members:
            noticed = cluster.now - died
    assert noticed is not None and noticed < 0.45
    assert cluster.settled({1, 3})
    left = [event for _, event in cluster.all_events(MemberLeft) if isinstance(event, MemberLeft)]
    assert [event.host for event in left] == [2, 2], "declared dead once by each"
    assert refused(cluster, 1)[Reason.REPLAYED] > 1000
    told = [event for host, event in cluster.all_events(Refused) if host == 1 and isinstance(event, Refused)]
    assert len(told) <= 4, "events about refused frames are bounded, whatever their number"


def test_a_listener_that_restarted_believes_no_recording_from_before() -> None:
    cluster = formed(2)
    frames = recorded(cluster, 2)
    cluster.kill(1)
    cluster.kill(2)
    cluster.run(1.0)
    cluster.servers[1].events.clear()
    cluster.boot(1)
    start = cluster.now
    while cluster.now < start + 5.0:
        for path, data in frames:
            cluster.inject(1, path, data)
        cluster.run(0.1)
    assert cluster.settled({1}), "it founds a cluster of its own"
    assert not [event for host, event in cluster.all_events(MemberJoined) if host == 1]
    cluster.boot(2)
    cluster.until(cluster.settled)


def test_a_recording_of_an_old_boot_is_not_believed_after_a_restart() -> None:
    cluster = formed(2)
    frames = recorded(cluster, 2)
    cluster.kill(2)
    cluster.run(1.0)
    cluster.boot(2)
    cluster.until(cluster.settled)
    version = cluster.member(1).map.version
    for path, data in frames:
        cluster.inject(1, path, data)
    cluster.run(1.0)
    assert cluster.settled() and cluster.member(1).map.version == version


def test_forged_changed_cut_and_foreign_frames_change_nothing_and_are_counted() -> None:
    cluster = formed(2)
    version, sample = cluster.member(1).map.version, recorded(cluster, 2)[-1]
    path, data = sample
    sealer = Sealer("cluster", "external", (Key(1, b"x" * 32),))
    genuine = Sealer("cluster", cluster.servers[1].config.paths[path].name, KEYS).open(data)
    later = replace(genuine, sequence=genuine.sequence + 1000)
    for _ in range(50):
        cluster.inject(1, 0, sealer.seal(later))
        cluster.inject(1, 0, Sealer("elsewhere", "external", KEYS).seal(later))
        cluster.inject(1, 0, Sealer("cluster", "external", (Key(9, b"k" * 32),)).seal(later))
        cluster.inject(1, 1 - path, data)
        cluster.inject(1, path, data[:-7])
        cluster.inject(1, path, data[:60] + bytes([data[60] ^ 1]) + data[61:])
        cluster.inject(1, path, b"\xbf\x01\xde\xc0" + data[4:])
        cluster.inject(1, path, Sealer("cluster", PATH[path], KEYS).seal(replace(later, host=7)))
        cluster.inject(1, path, Sealer("cluster", PATH[path], KEYS).seal(replace(later, body=b"garbage")))
        cluster.run(0.02)
    assert cluster.settled() and cluster.member(1).map.version == version
    found = refused(cluster, 1)
    assert found == {
        Reason.FORGED: 150,
        Reason.FOREIGN: 50,
        Reason.UNKNOWN_KEY: 50,
        Reason.MALFORMED: 100,
        Reason.NOT_OURS: 50,
        Reason.STRANGER: 50,
    }


PATH = ("external", "internal")


def test_keys_rotate_one_server_after_the_other_without_anybody_noticing() -> None:
    cluster = formed(3)
    version = cluster.member(1).map.version
    new = Key(2, b"n" * 32)
    for keys in ((*KEYS, new), (new, *KEYS), (new,)):
        for host in (1, 2, 3):
            cluster.configure(host, keys=keys)
            cluster.run(0.3)
    assert cluster.settled() and cluster.member(1).map.version == version
    assert not any(server.member and server.member.outbox.refused for server in cluster.alive)


class Clone:
    """A second server with a host id that is taken."""

    def __init__(self, cluster: Cluster, host: int) -> None:
        self.cluster = cluster
        self.member = Member(config(host, cluster.servers), boot=1_800_000_000_000, nonce=4711, now=0.0)
        self.member.start(0.0)
        assert cluster.wire is not None
        self._read = len(cluster.wire)

    def run(self, seconds: float) -> None:
        end = self.cluster.now + seconds
        while self.cluster.now < end:
            self.cluster.run(0.01)
            now = self.cluster.now
            assert self.cluster.wire is not None
            for _, _, path, data in self.cluster.wire[self._read :]:
                self.member.receive(path, data, now)
            self._read = len(self.cluster.wire)
            if now >= self.member.next_timeout():
                self.member.handle_timeout(now)
            self.member.kernel_confirms(self.member.ownership.serial, now)
            for frame in self.member.data_to_send(now):
                for host in self.cluster.servers:
                    self.cluster.inject(host, frame.path, frame.data)


def test_a_second_server_with_a_host_id_that_is_taken_is_refused_and_the_rest_goes_on() -> None:
    cluster = formed(3)
    version = cluster.member(1).map.version
    clone = Clone(cluster, 2)
    clone.run(6.0)
    assert clone.member.state is State.JOINING and clone.member.conditions & Condition.REFUSED
    assert clone.member.ownership.idle
    assert cluster.settled() and cluster.member(1).map.version == version
    assert refused(cluster, 1)[Reason.DUPLICATE] and refused(cluster, 2)[Reason.DUPLICATE]


def test_a_server_with_other_settings_is_refused_and_counted() -> None:
    cluster = Cluster(3, boots=False)
    OneOwner(cluster)
    cluster.boot(1)
    cluster.boot(2)
    cluster.until(lambda: cluster.settled({1, 2}))
    cluster.configure(3, paths=(Path("external", True), Path("internal", False)))
    cluster.boot(3)
    cluster.run(6.0)
    assert cluster.member(3).conditions & Condition.REFUSED and cluster.member(3).state is State.JOINING
    assert cluster.settled({1, 2})
    assert refused(cluster, 1)[Reason.CONFLICT]


def test_the_guard_accepts_only_what_is_newer_than_everything_of_its_sender() -> None:
    guard = ReplayGuard(2)

    def judge(path: int, boot: int, sequence: int) -> Freshness | None:
        try:
            found = guard.check(5, path, (boot, sequence))
        except ProtocolError as error:
            assert error.reason is Reason.REPLAYED
            return None
        guard.remember(5, path, (boot, sequence))
        return found

    assert judge(0, 100, 1) is Freshness.NEWEST
    assert judge(0, 100, 1) is None
    assert judge(1, 100, 1) is Freshness.COPY
    assert judge(0, 100, 3) is Freshness.NEWEST
    assert judge(1, 100, 2) is Freshness.LATE, "held back on the other path: no sign of life"
    assert judge(0, 99, 9) is None
    assert judge(1, 99, 9) is None
    assert judge(0, 101, 0) is Freshness.NEWEST
    assert judge(1, 100, 9) is None, "of an earlier boot"
    assert guard.newest(5) == (101, 0)


def test_frames_of_clients_count_only_from_verified_members() -> None:
    cluster = formed(2)
    body = b"\x01" + bytes(9)
    sealed = Sealer("cluster", "external", KEYS)
    genuine = sealed.open(next(data for path, data in recorded(cluster, 2) if path == 0))
    cluster.inject(1, 0, sealed.seal(replace(genuine, kind=Kind.HOLDINGS, boot=genuine.boot + 5, body=body)))
    cluster.run(0.1)
    assert not refused(cluster, 1)
