"""Every server knows who holds which client, whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.cluster import holdings
from portico.cluster.directory import BURST, SUMMARY_INTERVAL, Directory
from portico.cluster.events import ClientsOrphaned
from portico.cluster.holdings import BINS, Bin, Changes, Holding, Outer, Request, Summary, bin_of
from portico.cluster.wire import OVERHEAD, ProtocolError
from tests.unit.cluster.simulator import Cluster


def client(number: int) -> IPv6Address:
    return IPv6Address("fd00:1000::") + number


def holding(number: int, port: int = 50_000) -> Holding:
    return Holding(client(number), Outer(IPv4Address("198.51.100.7"), port, IPv4Address("203.0.113.10"), 443))


class Net:
    """Directories that send each other everything, but for what is lost."""

    def __init__(self, count: int, loss: float = 0.0, limit: int = 200_000) -> None:
        self.random = Random(1)
        self.loss = loss
        self.now = 0.0
        self.directories = {host: Directory(host, boot=1, limit=limit) for host in range(1, count + 1)}
        self.sent = 0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for host, directory in self.directories.items():
                bodies = directory.bodies_to_send(self.now)
                assert len(bodies) <= BURST
                for body in bodies:
                    assert len(body) + OVERHEAD <= 1400
                    self.sent += 1
                    for other, receiver in self.directories.items():
                        if other != host and self.random.random() >= self.loss:
                            receiver.apply(host, 1, body)
            self.now += 0.02

    def agreed(self) -> bool:
        return all(
            set(one.holdings_of(host)) == set(self.directories[host].holdings_of(host))
            for one in self.directories.values()
            for host in self.directories
        )


outers = st.none() | st.one_of(
    st.builds(Outer, st.ip_addresses(v=4), st.integers(0, 65535), st.ip_addresses(v=4), st.integers(0, 65535)),
    st.builds(Outer, st.ip_addresses(v=6), st.integers(0, 65535), st.ip_addresses(v=6), st.integers(0, 65535)),
)
some_holdings = st.builds(Holding, st.ip_addresses(v=6), outers, st.integers(0, 2**64 - 1))
u64 = st.integers(0, 2**64 - 1)
messages = st.one_of(
    st.builds(Changes, u64, st.lists(some_holdings | st.ip_addresses(v=6), max_size=20).map(tuple)),
    st.builds(Summary, u64, st.integers(0, 2**32 - 1), st.lists(u64, min_size=BINS, max_size=BINS).map(tuple)),
    st.builds(Request, st.integers(1, 32), u64),
    st.builds(Bin, u64, st.integers(0, BINS - 1), st.just(1), st.integers(2, 255),
              st.lists(some_holdings, max_size=20).map(tuple)),
)  # fmt: skip


@given(messages, st.data())
def test_messages_come_back_as_they_were_written_and_cut_ones_are_refused(
    message: holdings.Message, data: st.DataObject
) -> None:
    body = message.emit()
    assert holdings.parse(body) == message
    for wrong in (body[: data.draw(st.integers(0, len(body) - 1))], body + b"\0"):
        with pytest.raises(ProtocolError):
            holdings.parse(wrong)


def test_everybody_learns_who_holds_a_client_at_once() -> None:
    net = Net(3)
    net.directories[1].local_change([holding(1)], [], net.now)
    net.directories[2].local_change([holding(2)], [], net.now)
    net.run(0.05)
    assert [net.directories[3].holder_of(client(number)) for number in (1, 2, 3)] == [1, 2, None]
    net.directories[1].local_change([], [client(1)], net.now)
    net.run(0.05)
    assert net.directories[3].holder_of(client(1)) is None


def test_a_client_that_redialled_is_held_by_the_later_server() -> None:
    net = Net(3)
    net.directories[1].local_change([holding(1)], [], net.now)
    net.run(0.05)
    net.directories[2].local_change([holding(1, port=60_000)], [], net.now)
    net.run(0.05)
    assert net.directories[3].holder_of(client(1)) == 2
    assert net.directories[3].orphans_of(1) == (), "its new connection is not to be reset"
    net.directories[1].local_change([], [client(1)], net.now)
    net.run(0.05)
    assert net.directories[3].holder_of(client(1)) == 2


def test_lost_messages_are_repaired_within_a_second() -> None:
    net = Net(3)
    net.loss = 1.0
    net.directories[1].local_change([holding(number) for number in range(500)], [], net.now)
    net.run(0.1)
    net.directories[1].local_change([holding(7, port=1)], [client(number) for number in range(100, 200)], net.now)
    net.run(0.1)
    assert not net.agreed()
    net.loss = 0.0
    net.run(1.0)
    assert net.agreed()


def test_much_loss_and_many_changes_end_in_agreement() -> None:
    net = Net(4, loss=0.3)
    for _ in range(100):
        for directory in net.directories.values():
            numbers = [net.random.randrange(400) for _ in range(4)]
            directory.local_change(
                [holding(number, net.random.randrange(65536)) for number in numbers[:2]],
                map(client, numbers[2:]),
                net.now,
            )
        net.run(0.04)
    net.loss = 0.05
    net.run(3.0)
    assert net.agreed()


def test_a_server_that_starts_late_learns_everything() -> None:
    net = Net(2)
    net.directories[1].local_change([holding(number) for number in range(3000)], [], net.now)
    net.run(1.0)
    net.directories[3] = Directory(3, boot=1)
    net.run(SUMMARY_INTERVAL + 1.0)
    assert net.agreed()


def test_nothing_but_summaries_is_sent_when_nothing_changes() -> None:
    net = Net(3)
    for directory in net.directories.values():
        directory.local_change([holding(1)], [], net.now)
    net.run(2.0)
    net.sent = 0
    net.run(10.0)
    assert net.sent <= 3 * 10 / SUMMARY_INTERVAL + 3


def test_a_full_directory_counts_what_it_refuses_and_does_not_ask_for_ever() -> None:
    net = Net(2, limit=100)
    net.directories[1].local_change([holding(number) for number in range(150)], [], net.now)
    assert net.directories[1].counters.refused_full == 50
    net.directories[2].local_change([holding(number) for number in range(1000, 1010)], [], net.now)
    net.run(2.0)
    assert len(net.directories[2]) == 100 and net.directories[2].counters.refused_full
    net.sent = 0
    net.run(10.0)
    assert net.sent <= 2 * 10 / SUMMARY_INTERVAL + 4


def test_a_server_that_restarted_holds_nothing_of_what_it_held_before() -> None:
    directory = Directory(1, boot=1)
    directory.apply(2, 100, Changes(1, (holding(1),)).emit())
    directory.apply(2, 200, Changes(1, (holding(2),)).emit())
    assert directory.holdings_of(2) == (holding(2),)
    assert directory.holder_of(client(1)) is None


def test_bins_are_spread() -> None:
    counts = [0] * BINS
    for number in range(6400):
        counts[bin_of(client(number))] += 1
    assert min(counts) > 50


def test_when_a_server_dies_the_others_know_its_clients() -> None:
    cluster = Cluster(3)
    cluster.until(cluster.settled)
    now: Callable[[int], float] = lambda host: cluster.servers[host].clock(cluster.now)  # noqa: E731
    cluster.member(2).directory.local_change([holding(1), Holding(client(2))], [], now(2))
    cluster.member(3).directory.local_change([holding(3)], [], now(3))
    cluster.run(1.0)
    assert cluster.member(1).directory.holder_of(client(2)) == 2
    cluster.kill(2)
    cluster.until(lambda: cluster.settled({1, 3}))
    orphaned = {
        host: event for host, event in cluster.all_events(ClientsOrphaned) if isinstance(event, ClientsOrphaned)
    }
    assert set(orphaned) == {1, 3}
    assert all(
        event.host == 2 and set(event.clients) == {holding(1), Holding(client(2))} for event in orphaned.values()
    )
    assert cluster.member(1).directory.holder_of(client(1)) is None
    assert cluster.member(1).directory.holder_of(client(3)) == 3
    assert ip_address("198.51.100.7") in {h.outer.client for h in orphaned[1].clients if h.outer}
