"""ARP, neighbour discovery and group reports as dialogues: frames in, frames out, no sockets and no clock."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb import mac, wire
from portico.balancing.nlb.igmp import REPORT_INTERVAL, UNSOLICITED_INTERVAL, Membership
from portico.balancing.nlb.plan import Address, NicPlan
from portico.balancing.nlb.probe import PROBES, AddressProbe
from portico.balancing.nlb.responder import DEFEND_INTERVAL, AddressConflict, Responder

VIP4, VIP6 = IPv4Address("203.0.113.10"), IPv6Address("2001:db8::10")
ASKER4, ASKER6 = IPv4Address("203.0.113.1"), IPv6Address("fe80::1")
OWN, ASKER = mac.parse("52:54:00:00:00:01"), mac.parse("52:54:00:00:00:99")
NIC = NicPlan("eth0", "external", OWN, (VIP4, VIP6), own=(IPv4Address("203.0.113.11"),), mode="multicast")
CLUSTER = NIC.cluster_mac
GROUP = mac.solicited_node_group(VIP6)


def who_has(target: IPv4Address, sender: IPv4Address = ASKER4) -> bytes:
    return wire.Arp(1, ASKER, sender, wire.UNKNOWN, target).frame(wire.BROADCAST, ASKER)


def solicit(target: IPv6Address, source: IPv6Address = ASKER6, link_layer: bytes | None = ASKER) -> bytes:
    return wire.group_frame(wire.Solicitation(source, mac.solicited_node_group(target), target, link_layer), ASKER)


def test_who_has_a_vip_is_told_the_cluster_mac() -> None:
    responder = Responder(NIC)
    (answer,) = responder.receive(who_has(VIP4), 0.0)
    assert answer[:12] == ASKER + OWN, "only the body names the cluster MAC"
    assert wire.parse_arp(answer) == wire.Arp(2, CLUSTER, VIP4, ASKER, ASKER4)
    (answer,) = responder.receive(solicit(VIP6), 0.0)
    assert answer[:12] == ASKER + OWN
    assert wire.parse_neighbour(answer) == wire.Advertisement(VIP6, ASKER6, VIP6, CLUSTER, solicited=True)
    assert responder.answered == 2


def test_all_servers_say_the_same() -> None:
    others = [replace(NIC, mac=mac.parse(f"52:54:00:00:00:0{n}"), priority=n) for n in (2, 3)]
    for question in (who_has(VIP4), solicit(VIP6), solicit(VIP6, wire.UNSPECIFIED, None)):
        bodies = {Responder(nic).receive(question, 0.0)[0][12:] for nic in (NIC, *others)}
        assert len(bodies) == 1


def test_a_takeovers_answers_are_masked() -> None:
    nic = replace(NIC, mode="unicast", takeover=True, priority=3)
    (answer,) = Responder(nic).receive(who_has(VIP4), 0.0)
    assert answer[6:12] == mac.masked_source(3, VIP4)
    assert answer[22:28] == nic.cluster_mac


def test_duplicate_address_detection_is_told_that_the_vip_is_taken() -> None:
    for responder in (Responder(NIC), Responder(NIC, kernel_answers=True)):
        (answer,) = responder.receive(solicit(VIP6, wire.UNSPECIFIED, None), 0.0)
        assert answer[:6] == mac.ipv6_group_mac(wire.ALL_NODES)
        assert wire.parse_neighbour(answer) == wire.Advertisement(VIP6, wire.ALL_NODES, VIP6, CLUSTER)
    (answer,) = Responder(NIC).receive(who_has(VIP4, wire.ANY_IPV4), 0.0)
    assert wire.parse_arp(answer) == wire.Arp(2, CLUSTER, VIP4, ASKER, wire.ANY_IPV4)


def test_the_kernels_program_is_not_answered_for() -> None:
    responder = Responder(NIC, kernel_answers=True)
    assert responder.receive(who_has(VIP4), 0.0) == []
    assert responder.receive(solicit(VIP6), 0.0) == []
    (answer,) = responder.receive(solicit(VIP6, link_layer=None), 0.0)
    assert answer[:6] == ASKER, "without the option the frame says who asked"


def test_others_addresses_are_not_answered_for() -> None:
    responder = Responder(NIC)
    assert responder.receive(who_has(IPv4Address("203.0.113.11")), 0.0) == []
    assert responder.receive(solicit(IPv6Address("2001:db8::11")), 0.0) == []
    answer = wire.Arp(2, CLUSTER, VIP4, ASKER, ASKER4).frame(ASKER, OWN)
    assert responder.receive(answer, 0.0) == [], "another server's answer"
    assert not responder.conflicts


def test_a_vip_is_defended_once_in_a_while() -> None:
    responder = Responder(NIC)
    claim4 = wire.Arp(1, ASKER, VIP4, wire.UNKNOWN, VIP4).frame(wire.BROADCAST, ASKER)
    claim6 = wire.group_frame(wire.Advertisement(VIP6, wire.ALL_NODES, VIP6, ASKER), ASKER)
    for claim, vip in ((claim4, VIP4), (claim6, VIP6)):
        responder.conflicts.clear()
        (defence,) = responder.receive(claim, 100.0)
        assert CLUSTER in defence
        assert responder.receive(claim, 100.0 + DEFEND_INTERVAL - 0.1) == []
        assert len(responder.receive(claim, 100.0 + DEFEND_INTERVAL)) == 1
        assert list(responder.conflicts) == [AddressConflict(vip, ASKER)] * 3
    for _ in range(1000):
        responder.receive(claim4, 500.0)
    assert len(responder.conflicts) == 64, "bounded"


@given(st.binary(max_size=200))
def test_foreign_bytes_raise_nothing(frame: bytes) -> None:
    for responder in (Responder(NIC), Responder(NIC, kernel_answers=True)):
        responder.receive(frame, 0.0)
    Membership(IPv4Address("239.255.113.10"), ASKER4, OWN, lambda: 0.5).receive(frame, 0.0)
    AddressProbe(VIP6, OWN).receive(frame)


@given(st.sampled_from([who_has(VIP4), solicit(VIP6), solicit(VIP6, wire.UNSPECIFIED, None)]), st.data())
def test_damaged_questions_raise_nothing(frame: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frame)))
    position, value = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 255))
    responder = Responder(NIC)
    responder.receive(frame[:cut], 0.0)
    responder.receive(frame[:position] + bytes([value]) + frame[position + 1 :], 0.0)


@pytest.mark.parametrize(
    ("position", "value"),
    [(21, 64), (55, 1), (56, 0), (79, 0)],  # hop limit, code, checksum, length of the option
)
def test_solicitations_are_checked(position: int, value: int) -> None:
    frame = solicit(VIP6)
    assert wire.parse_neighbour(frame) is not None
    assert wire.parse_neighbour(frame[:position] + bytes([value]) + frame[position + 1 :]) is None


@pytest.mark.parametrize("address", [VIP4, VIP6])
def test_a_probe_asks_three_times_and_believes_silence(address: Address) -> None:
    probe, now, sent = AddressProbe(address, OWN), 10.0, 0
    while not probe.done:
        sent += len(probe.poll(now))
        assert probe.poll(now) == []
        now = probe.next_time()
    assert sent == PROBES
    assert probe.holder is None


def test_a_probe_finds_who_has_the_address() -> None:
    holder = AddressProbe(VIP4, OWN)
    holder.poll(0.0)
    holder.receive(wire.Arp(2, ASKER, VIP4, OWN, wire.ANY_IPV4).frame(OWN, ASKER))
    assert holder.done
    assert holder.holder == ASKER
    rival = AddressProbe(VIP4, OWN)
    rival.receive(who_has(VIP4, wire.ANY_IPV4))
    assert rival.holder == ASKER, "another host that is about to take it counts too"
    own = AddressProbe(VIP6, ASKER)
    own.receive(solicit(VIP6, wire.UNSPECIFIED, None))
    assert own.holder is None, "our own probe does not"


def test_a_probe_for_a_virtual_address_finds_only_who_is_no_server() -> None:
    def answer(address: Address, holder: bytes) -> bytes:
        if isinstance(address, IPv4Address):
            return wire.Arp(2, holder, address, OWN, wire.ANY_IPV4).frame(OWN, ASKER)
        return wire.Advertisement(address, wire.ALL_NODES, address, holder).frame(OWN, ASKER)

    stranger = mac.parse("52:54:00:00:00:77")
    asked: dict[Address, bytes] = {VIP4: who_has(VIP4, wire.ANY_IPV4), VIP6: solicit(VIP6, wire.UNSPECIFIED, None)}
    for address, question in asked.items():
        probe = AddressProbe(address, OWN, frozenset({CLUSTER}))
        probe.poll(0.0)
        probe.receive(question)
        assert not probe.done, "another server asks the same just now"
        probe.receive(answer(address, CLUSTER))
        assert not probe.done, "the cluster answers"
        probe.receive(answer(address, stranger))
        assert probe.holder == stranger


def query(group: IPv4Address, response: int, extra: bytes = b"") -> bytes:
    """A query from a querier (RFC 2236 section 2, RFC 3376 section 4.1)."""
    message = bytes([0x11, response, 0, 0]) + group.packed + extra
    message = message[:2] + wire.checksum(message).to_bytes(2, "big") + message[4:]
    head = bytes([0x46, 0]) + (24 + len(message)).to_bytes(2, "big") + bytes([0, 0, 0, 0, 1, 2, 0, 0])
    head += ASKER4.packed + IPv4Address("224.0.0.1").packed + b"\x94\x04\0\0"
    return wire.ethernet(mac.parse("01:00:5e:00:00:01"), ASKER, wire.IPV4, head + message)


def test_membership_is_reported_on_our_own_clock() -> None:
    group = mac.igmp_group(VIP4)
    membership = Membership(group, ASKER4, OWN, lambda: 0.5)
    assert membership.next_time() is None
    (report,) = membership.join(0.0)
    assert report[:6] == mac.cluster_mac("igmp", VIP4)
    assert report[6:12] == OWN
    assert report[38] == 0x16
    assert wire.checksum(report[14:38]) == 0
    assert wire.checksum(report[38:]) == 0
    assert membership.next_time() == UNSOLICITED_INTERVAL
    assert membership.poll(UNSOLICITED_INTERVAL - 0.1) == []
    assert len(membership.poll(UNSOLICITED_INTERVAL)) == 1
    assert membership.next_time() == UNSOLICITED_INTERVAL + REPORT_INTERVAL
    # Another server's report silences nobody.
    membership.receive(Membership(group, ASKER4, ASKER, lambda: 0.0).join(0.0)[0], 20.0)
    assert membership.next_time() == UNSOLICITED_INTERVAL + REPORT_INTERVAL
    for asked, response, expected in ((IPv4Address(0), 100, 25.0), (group, 10, 20.5), (IPv4Address(0), 0, 25.0)):
        membership.receive(query(asked, response), 20.0)
        assert membership.next_time() == expected
        assert len(membership.poll(expected)) == 1
    membership.receive(query(IPv4Address("239.1.2.3"), 10), 30.0)
    assert membership.next_time() != 30.5, "a query about another group"
    (leave,) = membership.leave()
    assert leave[38] == 0x17
    assert membership.next_time() is None
    membership.receive(query(IPv4Address(0), 10), 40.0)
    assert membership.poll(1e9) == []


def test_an_igmpv3_querier_may_ask_for_a_long_time() -> None:
    membership = Membership(mac.igmp_group(VIP4), ASKER4, OWN, lambda: 1.0)
    membership.join(0.0)
    membership.poll(UNSOLICITED_INTERVAL)
    membership.receive(query(IPv4Address(0), 0x80, bytes(4)), 10.0)  # mantissa 0, exponent 0: 128 tenths
    assert membership.next_time() == pytest.approx(22.8)
