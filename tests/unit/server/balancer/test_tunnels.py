"""A client cannot take the address of another one at any server, and one that dials again takes its own with it."""

from __future__ import annotations

from ipaddress import IPv6Address

from portico.cluster.directory import Directory
from portico.cluster.holdings import Holding, owner_tag
from portico.server.balancer.tunnels import SETTLED, Step, Tunnel, Tunnels, owner_of

X, Y = IPv6Address("fd00:1000::a"), IPv6Address("fd00:1000::b")
ALICE, MALLORY = owner_tag("aa" * 32, "CN=alice"), owner_tag("aa" * 32, "CN=mallory")


class Server:
    """Directory and tunnels of one server, wired as the shell wires them."""

    def __init__(self, host: int) -> None:
        self.directory = Directory(host, boot=1)
        self.tunnels = Tunnels()
        self.closed: list[int] = []
        self.now = 0.0

    def do(self, step: Step) -> None:
        self.closed += step.doomed
        self.directory.local_change(step.taken, step.lost, self.now)

    def dial(self, number: int, owner: int, *clients: IPv6Address) -> None:
        self.tunnels.up(Tunnel(number, f"198.51.100.7:{number}", None, owner))
        for client in clients:
            self.do(self.tunnels.address(number, client, self.directory, self.now))

    def listed(self, *tunnels: tuple[int, int, IPv6Address]) -> None:
        rows = [(Tunnel(number, f"198.51.100.7:{number}", None, owner), [client]) for number, owner, client in tunnels]
        self.do(self.tunnels.replace(rows, self.directory, self.now))

    def bodies(self) -> list[bytes]:
        return self.directory.bodies_to_send(self.now)

    def hear(self, host: int, bodies: list[bytes]) -> None:
        for body in bodies:
            self.directory.apply(host, 1, body)
        self.do(self.tunnels.rivals(self.directory.take_rivals(), self.directory, self.now))


def pair(seconds: float, *servers: Server) -> None:
    """Lets servers talk for a while."""
    for _ in range(int(seconds / 0.02)):
        said = {server.directory.host: server.bodies() for server in servers}
        for server in servers:
            for host, bodies in said.items():
                if host != server.directory.host:
                    server.hear(host, bodies)
            server.now += 0.02


def test_an_address_that_another_client_has_at_another_server_is_refused() -> None:
    one, two = Server(1), Server(2)
    two.dial(7, ALICE, X)
    pair(0.1, one, two)
    one.dial(3, MALLORY, Y, X)
    assert one.closed == [3]
    assert one.tunnels.holdings() == {}, "also what it had before: the gateway closes it"
    assert one.tunnels.counters.refused == 1
    assert one.directory.holdings_of(1) == ()
    pair(0.5, one, two)
    assert two.closed == []
    assert two.tunnels.holdings() == {X: Holding(X, None, ALICE)}


def test_a_refused_tunnel_that_is_still_listed_is_closed_again_and_holds_nothing() -> None:
    one, two = Server(1), Server(2)
    two.dial(7, ALICE, X)
    pair(0.1, one, two)
    one.dial(3, MALLORY, X)
    two.do(two.tunnels.down(7))
    pair(0.1, one, two)
    one.listed((3, MALLORY, X))
    assert one.closed == [3, 3]
    assert len(one.tunnels) == 0
    one.listed()
    one.listed((3, MALLORY, X))
    assert one.closed == [3, 3], "a later tunnel with this number is another one"
    assert set(one.tunnels.holdings()) == {X}


def test_a_client_that_dials_again_elsewhere_is_closed_where_it_was() -> None:
    one, two = Server(1), Server(2)
    for first, second in ((one, two), (two, one)):
        number = 10 * first.directory.host
        first.dial(number, ALICE, X)
        pair(0.1, one, two)
        second.dial(number + 1, ALICE, X)
        assert second.closed == []
        pair(0.5, one, two)
        assert first.closed[-1] == number
        assert X not in first.tunnels.holdings()
        assert X in second.tunnels.holdings()
        second.do(second.tunnels.down(number + 1))
        one.closed.clear()
        two.closed.clear()
        pair(0.1, one, two)
    assert (one.tunnels.counters.stale, two.tunnels.counters.stale) == (1, 1)


def test_the_closed_tunnel_does_not_take_its_address_back() -> None:
    one, two = Server(1), Server(2)
    one.dial(1, ALICE, X)
    pair(0.1, one, two)
    two.dial(2, ALICE, X)
    pair(0.1, one, two)
    one.dial(1, ALICE, X)  # events that were under way
    one.listed((1, ALICE, X))
    pair(1.0, one, two)
    assert set(two.tunnels.holdings()) == {X}
    assert two.closed == []
    assert one.closed == [1, 1]


def test_of_two_claims_at_the_same_moment_the_lower_host_id_keeps_the_address() -> None:
    one, two = Server(1), Server(2)
    one.dial(1, ALICE, X)
    two.dial(2, MALLORY, X)
    pair(0.5, one, two)
    assert (one.closed, two.closed) == ([], [2])
    assert one.tunnels.holdings() == {X: Holding(X, None, ALICE)}
    assert two.tunnels.holdings() == {}
    assert two.tunnels.counters.outranked == 1


def test_a_redial_whose_announcement_was_lost_closes_the_older_tunnel_only() -> None:
    one, two = Server(1), Server(2)
    one.dial(1, ALICE, X)
    one.now = two.now = SETTLED + 1
    one.bodies()
    two.dial(2, ALICE, X)
    two.bodies()  # both are lost
    pair(1.0, one, two)
    assert (one.closed, two.closed) == ([1], [])


def test_a_tunnel_without_identity_cannot_take_the_address_of_one_that_has_one() -> None:
    assert owner_of(None) == 0
    assert owner_of({"issuer_sha256": "AA" * 32, "subject": "CN=alice", "serial": "01"}) == ALICE
    one, two = Server(1), Server(2)
    two.dial(7, ALICE, X)
    pair(0.1, one, two)
    one.dial(1, 0, X)
    assert one.closed == [1]


def test_another_connection_of_the_same_client_at_the_same_server_is_no_rival() -> None:
    one, two = Server(1), Server(2)
    one.dial(1, ALICE, X)
    pair(0.1, one, two)
    one.dial(2, ALICE, X)
    one.do(one.tunnels.down(1))
    pair(0.5, one, two)
    assert set(one.tunnels.holdings()) == {X}
    assert one.closed == two.closed == []
    assert two.directory.holder_of(X) == 1


def test_the_address_of_a_dead_server_s_client_is_free() -> None:
    one, two = Server(1), Server(2)
    two.dial(7, ALICE, X)
    pair(0.1, one, two)
    one.directory.forget(2)
    one.dial(1, MALLORY, X)
    assert one.closed == []


def test_rivals_are_bounded_by_what_is_held_here() -> None:
    one, two = Server(1), Server(2)
    one.dial(1, ALICE, X)
    one.bodies()
    two.dial(2, MALLORY, *(X + number for number in range(5000)))
    for _ in range(100):
        two.now += 0.02
        for body in two.bodies():
            one.directory.apply(2, 1, body)
    assert [rival.ours.client for rival in one.directory.take_rivals()] == [X]
    assert one.directory.take_rivals() == []
