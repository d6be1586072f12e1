"""Neighbour discovery, multicast and address ownership on the link that all clients share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network

import pytest

from tests.gateway.conftest import PREFIX, wait_for
from tests.peers.iphttps_peer import (
    ALL_NODES,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    UNSPECIFIED,
    Advertisement,
    Packet,
    Peer,
    Refused,
    Silence,
    duplicate_probe,
    echo_request,
    icmpv6,
    listener_report,
    neighbour_advertisement,
    neighbour_solicitation,
    router_solicitation,
    solicited_node,
    udp,
)
from tests.timely import Within

from .conftest import LINK_LOCAL, TARGET, Dissector, Site, is_echo_reply, until_closed

MDNS = IPv6Address("ff02::fb")
SERVER = IPv6Address(f"{PREFIX}::1")


@contextmanager
def listening(peer: Peer) -> Iterator[list[Packet]]:
    """Reads all the time, answering solicitations as a living computer does; what it heard."""
    heard: list[Packet] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                heard.append(peer.receive(0.05))
            except Silence:
                continue
            except (Refused, OSError):
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join()


def test_04_duplicate_probe_is_answered_on_the_connection_of_who_asks(site: Site, dissector: Dissector) -> None:
    owner, third = site.join("owner"), site.join("third")
    asker = site.open("asker")
    site.settle(owner, third)
    owner.ping(TARGET)
    answer = asker.probe(owner.address)
    assert answer is not None
    assert answer.source == answer.target == owner.address
    assert (answer.destination, answer.hop_limit) == (ALL_NODES, 255)
    assert answer.payload[4] == 0x20  # R=0, S=0, O=1
    assert answer.options == b""
    seen = dissector.fields(
        answer.data, "icmpv6.type", "icmpv6.nd.na.flag.r", "icmpv6.nd.na.flag.s", "icmpv6.nd.na.flag.o",
        "icmpv6.nd.na.target_address", "icmpv6.opt.type", "ipv6.plen",
    )  # fmt: skip
    assert seen == {
        "icmpv6.type": ["136"],
        "icmpv6.nd.na.flag.r": ["0"],
        "icmpv6.nd.na.flag.s": ["0"],
        "icmpv6.nd.na.flag.o": ["1"],
        "icmpv6.nd.na.target_address": [str(owner.address)],
        "icmpv6.opt.type": [],
        "ipv6.plen": ["24"],
        "faults": [],
    }
    assert third.everything(0.2) == []
    probes = owner.everything(0.2)
    # [MS-IPHTTPS] 3.2.5.2.2: in mode Certificates the probe may go to the owner, in mode None to nobody.
    assert [packet.icmp_type for packet in probes] == ([135] if site.mode == "certificates" else [])
    owner.ping(TARGET)


def test_04_an_idle_owner_that_lives_keeps_its_address(site: Site) -> None:
    """Idle for longer than a second, the owner is asked first, and the answer still comes in time for DAD."""
    owner = site.join("owner")
    asker = site.open("asker")
    with listening(owner):
        time.sleep(1.2)
        with Within(1.0):
            answer = asker.probe(owner.address, wait=30.0)
    assert answer is not None
    owner.ping(TARGET)


def test_04_the_addresses_of_the_server_are_defended(site: Site) -> None:
    peer = site.open()
    for address in (LINK_LOCAL, SERVER, IPv6Address(f"{PREFIX}::2"), IPv6Address(f"{PREFIX}::")):
        answer = peer.probe(address)
        assert answer is not None, address
        assert answer.destination == ALL_NODES


def test_solicitations_for_the_server_are_answered(site: Site) -> None:
    """The kernel answers none of these on a TUN device."""
    peer = site.join()
    for source in (peer.link_local, peer.address):
        for target in (LINK_LOCAL, SERVER):
            for destination in (solicited_node(target), target):
                peer.send(neighbour_solicitation(source, destination, target))
                answer = peer.receive_where(lambda packet: packet.icmp_type == NEIGHBOUR_ADVERTISEMENT)
                assert (answer.source, answer.destination, answer.target) == (target, source, target)
                assert answer.payload[4] & 0x40 and answer.options == b"" and answer.checksum_is_right()


def test_05_no_multicast_leaves_the_server_in_mode_none(make_site: Callable[..., Site]) -> None:
    site = make_site("none")
    one, two = site.join("one"), site.join("two")
    site.settle(one, two)
    kernel = [
        listener_report(LINK_LOCAL, solicited_node(LINK_LOCAL)),
        neighbour_solicitation(LINK_LOCAL, solicited_node(one.address), one.address),
        neighbour_advertisement(LINK_LOCAL, ALL_NODES, LINK_LOCAL, 0xA0),
        router_solicitation(LINK_LOCAL),
        icmpv6(LINK_LOCAL, ALL_NODES, ROUTER_ADVERTISEMENT, b"\x40\0\x07\x08" + bytes(8)),
        udp(LINK_LOCAL, MDNS, (5353, 5353), b"query"),
        udp(TARGET, IPv6Address("ff05::1:3"), (547, 547), b"dhcp"),
        udp(TARGET, IPv6Address("ff0e::1"), (1, 2), b"global"),
    ]
    for packet in kernel:
        site.intranet.send(packet)
    clients = [
        listener_report(one.link_local, solicited_node(one.address)),
        udp(one.address, MDNS, (5353, 5353), b"query"),
        udp(one.link_local, ALL_NODES, (1, 2), b"hello"),
        neighbour_solicitation(one.address, solicited_node(two.address), two.address),
        neighbour_advertisement(one.address, ALL_NODES, one.address, 0x20),
        duplicate_probe(IPv6Address(f"{PREFIX}::77")),
        duplicate_probe(two.address),
    ]
    before = len(site.intranet.packets)
    for packet in clients:
        one.send(packet)
    one.ping(TARGET)
    assert two.everything(0.3) == []
    # Nothing of it reaches the host either: what is there is the echo request.
    assert [packet.icmp_type for packet in site.intranet.packets[before:]] == [128]
    assert site.drops("host_multicast") == len(kernel)
    two.ping(TARGET)


def test_05_multicast_between_clients_in_mode_certificates(make_site: Callable[..., Site]) -> None:
    site = make_site("certificates")
    one, two, three = (site.join(name) for name in ("one", "two", "three"))
    site.settle(one, two, three)
    query = udp(one.address, MDNS, (5353, 5353), b"query")
    one.send(query)
    assert [packet.data for packet in (two.receive(), three.receive())] == [query, query]
    assert one.everything(0.1) == []
    # An advertisement for an address in the neighbour cache goes to nobody without an entry for it.
    one.send(neighbour_advertisement(one.address, ALL_NODES, one.address, 0x20))
    # The kernel's own discovery stays out.
    site.intranet.send(listener_report(LINK_LOCAL, solicited_node(LINK_LOCAL)))
    site.intranet.send(udp(LINK_LOCAL, MDNS, (5353, 5353), b"from the server"))
    for peer in (one, two, three):
        assert peer.receive().payload[8:] == b"from the server"
        assert peer.everything(0.1) == []


def check_advertisement(advertisement: Advertisement, site: Site, dissector: Dissector) -> None:
    packet = advertisement.packet
    assert (packet.source, packet.hop_limit) == (LINK_LOCAL, 255)
    assert (advertisement.router_lifetime, advertisement.flags, advertisement.mtu) == (0, 0, 1280)
    assert advertisement.prefixes == [(IPv6Network(f"{PREFIX}::/64"), 0xC0)]
    routes = site.server.config["iphttps"]["routes"]
    assert advertisement.routes == [(IPv6Network(route), 1800) for route in routes]
    assert advertisement.other_options == []
    seen = dissector.fields(
        packet.data, "icmpv6.type", "icmpv6.nd.ra.router_lifetime", "icmpv6.nd.ra.flag.m", "icmpv6.nd.ra.flag.o",
        "icmpv6.opt.type", "icmpv6.opt.prefix", "icmpv6.opt.prefix.length", "icmpv6.opt.prefix.flag.l",
        "icmpv6.opt.prefix.flag.a", "icmpv6.opt.mtu", "icmpv6.opt.route_lifetime",
    )  # fmt: skip
    lengths = sorted(str(IPv6Network(prefix).prefixlen) for prefix in [f"{PREFIX}::/64", *routes])
    assert sorted(seen.pop("icmpv6.opt.prefix.length")) == lengths
    assert {str(IPv6Address(text)) for text in seen.pop("icmpv6.opt.prefix")} == {
        str(IPv6Network(prefix).network_address) for prefix in [f"{PREFIX}::/64", *routes]
    }
    assert sorted(seen.pop("icmpv6.opt.type")) == ["24"] * len(routes) + ["3", "5"]
    assert seen == {
        "icmpv6.type": ["134"],
        "icmpv6.nd.ra.router_lifetime": ["0"],
        "icmpv6.nd.ra.flag.m": ["0"],
        "icmpv6.nd.ra.flag.o": ["0"],
        "icmpv6.opt.prefix.flag.l": ["1"],
        "icmpv6.opt.prefix.flag.a": ["1"],
        "icmpv6.opt.mtu": ["1280"],
        "icmpv6.opt.route_lifetime": ["1800"] * len(routes),
        "faults": [],
    }


def test_06_advertisements_never_make_a_default_router(
    make_site: Callable[..., Site], mode: str, dissector: Dissector
) -> None:
    site = make_site(mode, routes=["fd00:1:2::/48", "64:ff9b::/96", "2001:db8::/32"], advertise_interval=1)
    peer = site.open()
    solicited = peer.solicit_router()
    assert solicited.packet.destination == peer.link_local
    check_advertisement(solicited, site, dissector)
    peer.send(router_solicitation(UNSPECIFIED))
    to_all = peer.receive_where(lambda packet: packet.icmp_type == ROUTER_ADVERTISEMENT)
    assert to_all.destination == ALL_NODES
    periodic = peer.receive_where(lambda packet: packet.icmp_type == ROUTER_ADVERTISEMENT, 2.0)
    assert periodic.destination == ALL_NODES
    check_advertisement(Advertisement.parse(periodic), site, dissector)


def test_07_link_local_between_clients(site: Site) -> None:
    one, two = site.join("one"), site.join("two")
    two.solicit_router()
    site.settle(one, two)
    between = udp(one.link_local, two.link_local, (1, 2), b"hello")
    one.send(between)
    if site.mode == "none":
        assert two.everything(0.3) == []
        assert site.drops("link_local_to_client") == 1
    else:
        assert two.receive().data == between
    # To the server itself it passes in both modes.
    one.send(udp(one.link_local, LINK_LOCAL, (1, 2), b"to the server"))
    wait_for(lambda: site.intranet.heard(lambda packet: packet.payload[8:] == b"to the server"), "it at the host")


SPOOFED = {
    "outside": IPv6Address("fd00:1:2:9::1"),
    "intranet host": TARGET,
    "global": IPv6Address("2001:db8::1"),
    "the server": SERVER,
    "the server's link-local": LINK_LOCAL,
    "anycast": IPv6Address(f"{PREFIX}::"),
    "unspecified": UNSPECIFIED,
    "loopback": IPv6Address("::1"),
    "multicast": ALL_NODES,
    "mapped": IPv6Address("::ffff:10.0.0.1"),
    "deprecated site-local": IPv6Address("fec0::1"),
    "link-local outside its /64": IPv6Address("fe80:0:0:1::1"),
}


def test_08_spoofed_sources_are_dropped(site: Site) -> None:
    victim, rogue = site.join("victim"), site.join("rogue")
    site.settle(victim, rogue)
    before = len(site.intranet.packets)
    for name, source in SPOOFED.items():
        rogue.send(udp(source, TARGET, (1, 2), name.encode()))
    victim.ping(TARGET)
    rogue.send(udp(victim.address, TARGET, (1, 2), b"the victim's"))
    rogue.send(neighbour_solicitation(victim.address, solicited_node(SERVER), SERVER))
    rogue.send(neighbour_advertisement(victim.address, SERVER, victim.address, 0x60))
    rogue.send(neighbour_advertisement(rogue.address, SERVER, victim.address, 0x60))
    rogue.send(icmpv6(rogue.link_local, ALL_NODES, ROUTER_ADVERTISEMENT, b"\x40\0\x07\x08" + bytes(8)))
    rogue.send(icmpv6(rogue.link_local, victim.address, 137, bytes(4) + victim.address.packed + bytes(16)))
    rogue.ping(TARGET)
    assert [packet.icmp_type for packet in site.intranet.packets[before:]] == [128, 128]
    site.intranet.send(udp(TARGET, victim.address, (1, 2), b"for the victim"))
    assert victim.receive().payload[8:] == b"for the victim"
    assert rogue.everything(0.2) == []
    for reason in ("foreign_source", "server_source", "unspecified_source", "address_in_use", "rogue_router"):
        assert site.drops(reason) > 0, reason


def test_08_hidden_discovery_is_dropped(site: Site) -> None:
    """Neighbour discovery behind extension headers or in fragments gets round no rule."""
    victim, rogue = site.join("victim"), site.join("rogue")
    site.settle(victim, rogue)
    before = len(site.intranet.packets)
    plain = icmpv6(rogue.link_local, ALL_NODES, ROUTER_ADVERTISEMENT, b"\x40\0\x07\x08" + bytes(8))
    message = plain[40:]
    for kind, extension in [
        (0, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])),
        (60, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0])),
        (44, bytes([ICMPV6, 0, 0, 1, 0, 0, 0, 9])),
    ]:
        length = (len(extension) + len(message)).to_bytes(2, "big")
        rogue.send(plain[:4] + length + bytes([kind, 255]) + plain[8:40] + extension + message)
    assert victim.everything(0.2) == []
    assert len(site.intranet.packets) == before
    assert site.drops("hidden") == 3


def test_08_one_session_owns_a_bounded_number_of_addresses(make_site: Callable[..., Site], mode: str) -> None:
    site = make_site(mode, max_addresses_per_session=4)
    peer = site.open()
    sources = [IPv6Address(f"{PREFIX}::a:{number}") for number in range(1, 30)]
    for source in sources:
        peer.send(echo_request(source, TARGET, 1, 1, b""))
    replies = [packet.destination for packet in peer.everything(0.3) if is_echo_reply(packet)]
    assert replies == sources[:4]
    assert site.drops("address_limit") == len(sources) - 4
    [session] = site.server.sessions()
    assert session["addresses"] == [str(source) for source in sources[:4]]


def test_addresses_shown_are_the_addresses_owned(make_site: Callable[..., Site]) -> None:
    """A computer that changes its temporary addresses for weeks does not make the list grow."""
    site = make_site("none", max_addresses_per_session=2, idle_probe=0.05)
    peer = site.open()
    for number in range(1, 12):
        peer.send(echo_request(IPv6Address(f"{PREFIX}::a:{number:x}"), TARGET, 1, number, b""))
        peer.receive_where(is_echo_reply)
        time.sleep(0.06)
    [session] = site.server.sessions()
    assert session["addresses"] == [f"{PREFIX}::a:a", f"{PREFIX}::a:b"]


def test_09_the_same_machine_takes_its_address_over_at_once(make_site: Callable[..., Site]) -> None:
    """The old connection is half dead: its socket lives, nobody reads it."""
    site = make_site("certificates")
    context = site.context("laptop")
    old = site.join(context=context)
    new = site.open(context=context)
    with Within(1.0):
        new.link_local, new.addresses = old.link_local, old.addresses
        assert new.probe(old.address, wait=0.3) is None
        new.solicit_router()
        new.ping(TARGET)
    assert site.down() == ["replaced"]
    old.wait_closed()
    assert site.happened("taken_over") == 1


def test_09_another_machine_gets_the_address_of_a_dead_one_after_probing(site: Site) -> None:
    old = site.join("old")
    old.answers_solicitations = False
    address = old.address
    time.sleep(1.1)
    new = site.open("new")
    began = time.monotonic()
    assert new.probe(address, wait=1.0) is None
    new.addresses = [address]
    while True:
        try:
            new.ping(TARGET, timeout=0.2)
            break
        except Silence:
            assert time.monotonic() - began < 30, "the dead session still holds the address"
    assert site.down() == ["silent"]
    probes = [packet for packet in until_closed(old) if packet.icmp_type == NEIGHBOUR_SOLICITATION]
    unicast = [packet for packet in probes if packet.destination == address]
    assert len(unicast) == 3
    assert all(packet.source == LINK_LOCAL and packet.options == b"" for packet in unicast)
    assert site.happened("evicted_silent") == 1
    [session] = site.server.sessions()
    assert session["addresses"] == [str(address)]


def test_09_a_living_owner_is_not_driven_out(make_site: Callable[..., Site]) -> None:
    site = make_site("none")
    owner, rogue = site.join("owner"), site.join("rogue")
    with listening(owner):
        deadline = time.monotonic() + 3.5
        while time.monotonic() < deadline:
            rogue.send(udp(owner.address, TARGET, (1, 2), b"mine!"))
            time.sleep(0.1)
    assert not site.intranet.heard(lambda packet: packet.payload[8:] == b"mine!")
    assert site.server.events("session_down") == []
    owner.ping(TARGET)


def test_11_table_full_is_a_plain_disconnect(make_site: Callable[..., Site], mode: str) -> None:
    site = make_site(mode, max_sessions=2)
    one, two = site.join("one"), site.join("two")
    extra = site.connect("three")
    extra.request()
    with pytest.raises(Refused, match="without an answer"):
        extra.response()
    assert site.refused() == ["table_full"]
    for peer in (one, two):
        peer.ping(TARGET)
    two.close()
    site.down()
    site.join("three").ping(TARGET)


def test_12_mode_change_closes_all(make_site: Callable[..., Site]) -> None:
    site = make_site("certificates")
    peers = [site.join(f"client{number}") for number in range(3)]
    waiting = site.connect(None)
    for number, mode in enumerate(("none", "certificates"), 1):
        site.server.config["iphttps"]["authentication"] = mode
        site.server.configure()
        for peer in peers:
            peer.wait_closed(2.0)
        assert site.down(3 * number)[-3:] == ["authentication_changed"] * 3
        site.mode = mode
        peers = [site.join(f"again{number}") for number in range(3)]
        peers[0].ping(TARGET)
    # Its handshake was done before the changes, without a certificate: it gets nothing now.
    waiting.request()
    with pytest.raises(Refused):
        waiting.response()


def test_12_another_change_leaves_sessions_alone(site: Site) -> None:
    peer = site.join()
    site.server.config["iphttps"]["routes"] = ["fd00:1:2::/48", "2001:db8:77::/48"]
    site.server.configure()
    news = Advertisement.parse(peer.receive_where(lambda packet: packet.icmp_type == ROUTER_ADVERTISEMENT, 2.0))
    assert [str(route) for route, _ in news.routes] == ["fd00:1:2::/48", "2001:db8:77::/48"]
    peer.ping(TARGET)
    assert site.server.events("session_down") == []


def test_a_destination_nobody_owns_is_unreachable(site: Site) -> None:
    site.join()
    nobody = IPv6Address(f"{PREFIX}::dead")
    site.intranet.send(udp(TARGET, nobody, (1, 2), b"hello?"))
    errors = wait_for(lambda: site.intranet.heard(lambda packet: packet.icmp_type == 1), "the error")
    assert (errors[0].source, errors[0].destination, errors[0].payload[1]) == (SERVER, TARGET, 3)
    assert errors[0].checksum_is_right()
