"""Servers that do not see what the others see are found, and come back."""

from __future__ import annotations

from portico.cluster.deafness import Damping, FrameWatch
from portico.cluster.events import Deaf
from portico.cluster.heartbeat import FrameCount
from portico.cluster.states import Condition
from tests.unit.cluster.simulator import Cluster, OneOwner


class Traffic:
    """VIP frames at 1000 a second for all servers but the deaf ones, on the first card; none on `quiet` others."""

    def __init__(self, cluster: Cluster, quiet: int = 0) -> None:
        self.quiet = quiet
        self.cluster = cluster
        self.deaf: set[int] = set()
        self.late: set[int] = set()
        """They see everything and have no time to look at their counters."""
        self.rate = 20
        self._seen = dict.fromkeys(cluster.servers, 0)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            for host in self.cluster.servers:
                self._seen[host] += 0 if host in self.deaf else self.rate
                if host not in self.late:
                    self.cluster.command(host, "frame_counters", self._counts(host))
            self.cluster.run(0.02)

    def _counts(self, host: int) -> list[FrameCount]:
        return [FrameCount(self._seen[host], 0), *[FrameCount(0, 0)] * self.quiet]


def test_a_server_that_sees_no_vip_frames_gives_its_buckets_away_within_two_seconds_and_comes_back() -> None:
    cluster = Cluster(3, nics=("eth0",))
    OneOwner(cluster)
    cluster.until(cluster.settled)
    traffic = Traffic(cluster)
    traffic.run(2.0)
    assert cluster.settled()
    traffic.deaf = {2}
    traffic.run(2.0)
    assert cluster.member(2).conditions == Condition.DEAF
    assert not any(2 in who for who in cluster.owners())
    assert all(len(who) == 1 for who in cluster.owners())
    (event,) = [event for _, event in cluster.all_events(Deaf) if isinstance(event, Deaf)]
    assert event.nic == 0 and event.seen * 2 < event.median
    rule = cluster.member(1).ownership.rules[1]
    assert rule.orphaned, "what a deaf server held is reset: it would never see its clients' packets"
    traffic.deaf = set()
    traffic.run(2.5)
    assert cluster.member(2).conditions == Condition(0)
    assert cluster.settled()


def test_a_card_without_traffic_keeps_nobody_deaf_who_hears_again_on_the_other() -> None:
    cluster = Cluster(3, nics=("eth0", "eth1"))
    cluster.until(cluster.settled)
    traffic = Traffic(cluster, quiet=1)
    traffic.run(2.0)
    traffic.deaf = {2}
    traffic.run(2.0)
    assert cluster.member(2).conditions == Condition.DEAF
    traffic.deaf = set()
    traffic.run(2.5)
    assert cluster.member(2).conditions == Condition(0)
    assert cluster.settled()


def test_silence_for_everybody_is_no_deafness() -> None:
    cluster = Cluster(3, nics=("eth0",))
    cluster.until(cluster.settled)
    traffic = Traffic(cluster)
    traffic.run(2.0)
    traffic.rate = 0
    traffic.run(3.0)
    assert cluster.settled()


def test_a_server_without_time_to_look_at_its_counters_is_not_deaf() -> None:
    cluster = Cluster(3, nics=("eth0",))
    cluster.until(cluster.settled)
    traffic = Traffic(cluster)
    traffic.rate = 0
    traffic.run(2.0)
    traffic.late, traffic.rate = {2}, 20
    traffic.run(0.8)
    traffic.late = set()
    traffic.run(2.0)
    assert not list(cluster.all_events(Deaf))
    assert cluster.settled()


def test_of_two_servers_cut_on_a_path_the_deaf_one_yields_whatever_its_host_id() -> None:
    cluster = Cluster(2, nics=("eth0",))
    OneOwner(cluster)
    cluster.until(cluster.settled)
    traffic = Traffic(cluster)
    traffic.run(1.5)
    cluster.block([1], [2], [0])
    cluster.block([2], [1], [0])
    traffic.deaf = {1}
    traffic.run(4.0)
    assert all(who == [2] for who in cluster.owners())


def counts(watch: FrameWatch, host: int, rate: int, *, boot: int = 1, start: float = 0.0) -> None:
    for step in range(16):
        watch.add(host, boot, [FrameCount(step * rate, 0)], start + step * 0.1)


def test_a_lag_of_less_than_half_is_none_and_hysteresis_keeps_the_deaf_deaf() -> None:
    watch = FrameWatch()
    for host, rate in ((1, 6), (2, 10), (3, 10)):
        counts(watch, host, rate)
    assert watch.judge(1, [2, 3], 1, None, 1.5) is None
    lag = watch.judge(1, [2, 3], 1, 0, 1.5)
    assert lag is not None and lag.seen < lag.median * 3 / 4


def test_few_frames_prove_nothing_and_a_reboot_starts_anew() -> None:
    watch = FrameWatch()
    counts(watch, 1, 0)
    counts(watch, 2, 1)
    assert watch.judge(1, [2], 1, None, 1.5) is None
    watch.add(2, 2, [FrameCount(0, 0)], 1.5)
    assert watch.increase(2, 0, 1.5) is None


def test_what_a_host_counted_while_it_stood_still_makes_nobody_else_deaf() -> None:
    watch = FrameWatch()
    counts(watch, 1, 10)
    counts(watch, 2, 10)
    assert watch.judge(1, {2}, 1, None, 2.0) is None
    # Host 2 is frozen for a minute, and its kernel goes on counting.
    counts(watch, 1, 10, start=60.0)
    watch.add(2, 1, [FrameCount(100_000, 0)], 61.9)
    assert watch.judge(1, {2}, 1, None, 61.95) is None


def test_the_third_departure_within_a_minute_makes_a_host_wait() -> None:
    damping = Damping()
    for now in (0.0, 20.0, 40.0):
        assert not damping.waits(1, now)
        damping.departed(1, now)
    assert damping.waits(1, 41.0) and not damping.waits(1, 61.0)
    assert not damping.waits(2, 41.0)


def test_counters_that_begin_anew_make_nobody_deaf() -> None:
    watch, counted = FrameWatch(), 100_000
    for step in range(400):
        now = step * 0.02
        counted = 0 if step == 200 else counted + 20
        watch.add(1, 1, [FrameCount(counted, 0)], now)
        found = watch.increase(1, 0, now)
        assert found is None or found >= 900, step
    assert found is not None
