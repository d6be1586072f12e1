"""The same link over several worker threads: who is served by which does not matter."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from tests.gateway.conftest import CLIENT
from tests.peers.iphttps_peer import ROUTER_ADVERTISEMENT, echo_request, udp
from tests.timely import Within

from .conftest import TARGET, Site

MDNS = IPv6Address("ff02::fb")


def test_rules_hold_across_workers(make_site: Callable[..., Site], mode: str) -> None:
    """With eight connections on three workers, some pairs share one and others do not."""
    site = make_site(mode, workers=3)
    peers = [site.join(f"client{number}") for number in range(8)]
    workers = {session["session"] % 3 for session in site.server.sessions()}
    assert len(workers) > 1
    site.settle(*peers)
    for number, peer in enumerate(peers):
        peer.ping(TARGET)
        for intranet in (site.intranet, *site.others):
            data = f"{number} {id(intranet)}".encode()
            intranet.send(udp(TARGET, peer.address, (1, 2), data))
            assert peer.receive().payload[8:] == data
    for owner in peers[1:]:
        owner.ping(TARGET)
        answer = peers[0].probe(owner.address)
        assert answer is not None and answer.target == owner.address
    site.settle(*peers)
    query = udp(peers[0].address, MDNS, (5353, 5353), b"query")
    peers[0].send(query)
    for peer in peers[1:]:
        heard = [packet.data for packet in peer.everything(0.05)]
        assert heard == ([query] if mode == "certificates" else [])
    site.server.config["iphttps"]["routes"] = ["2001:db8:77::/48"]
    site.server.configure()
    for peer in peers:
        peer.receive_where(lambda packet: packet.icmp_type == ROUTER_ADVERTISEMENT)


def test_take_over_across_workers(make_site: Callable[..., Site]) -> None:
    """A laptop that comes back again and again has its address each time at once, on whichever worker."""
    site = make_site("certificates", workers=3)
    context = site.context("laptop")
    workers = set()
    for number in range(8):
        peer = site.open(context=context)
        peer.addresses = [IPv6Address(CLIENT)]
        with Within(1.0):
            peer.ping(TARGET)
        assert number == 0 or site.down(number) == ["replaced"] * number
        [session] = site.server.sessions()
        workers.add(session["session"] % 3)
        site.intranet.send(udp(TARGET, IPv6Address(CLIENT), (1, 2), b"to the new one"))
        assert peer.receive().payload[8:] == b"to the new one"
    assert len(workers) > 1


def test_a_mode_change_and_a_close_reach_all_workers(make_site: Callable[..., Site], mode: str) -> None:
    site = make_site(mode, workers=3)
    peers = [site.join(f"client{number}") for number in range(6)]
    site.server.gateway.disconnect([session["session"] for session in site.server.sessions()[:3]])
    assert site.down(3) == ["disconnected"] * 3
    site.server.config["iphttps"]["authentication"] = "none" if mode == "certificates" else "certificates"
    site.server.configure()
    assert site.down(6)[3:] == ["authentication_changed"] * 3
    for peer in peers:
        peer.wait_closed(2.0)
    assert (site.server.sessions(), site.server.stats()["sessions"]) == ([], 0)


def test_echoes_from_many_at_once(make_site: Callable[..., Site], mode: str) -> None:
    site = make_site(mode, workers=3)
    peers = [site.join(f"client{number}") for number in range(6)]
    for peer in peers:
        peer.send(*[echo_request(peer.address, TARGET, 1, number, bytes(900)) for number in range(50)])
    for peer in peers:
        replies = 0
        while replies < 50:
            replies += peer.receive().icmp_type == 129
