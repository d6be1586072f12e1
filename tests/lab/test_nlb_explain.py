"""What `explain` says is what the kernel does: random packets, mixed rules, buckets in every state, both filters."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest

from portico.balancing.nlb import explain
from portico.balancing.nlb.bpf import FastFilter
from portico.balancing.nlb.explain import ESP, ICMP, ICMPV6, TCP, UDP, Member, Packet
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.balancing.nlb.plan import Address, BalancingPlan, NicPlan, Owned, Rule, Share

from .namespace import isolated
from .nlb_network import SEED, VIP4, VIP6, deliver, framed, inside, ipv4_packet, ipv6_packet, network, sender

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FILTERS: dict[str, Callable[[], Filter]] = {"nftables": PortableFilter, "eBPF": FastFilter}

OTHER4, OTHER6 = IPv4Address("203.0.113.20"), IPv6Address("2001:db8:113::20")
BEHIND = IPv6Network("2001:db8:3333::1/128")

RULES = (
    Rule(vip=OTHER4, protocols=frozenset({"tcp"}), ports=(80, 90)),
    Rule(protocols=frozenset({"tcp"}), ports=(100, 199), mode="disabled"),
    Rule(protocols=frozenset({"tcp"}), ports=(1, 299), affinity="none"),
    Rule(vip=VIP6, protocols=frozenset({"udp"}), ports=(400, 600), affinity="network"),
    Rule(protocols=frozenset({"udp"}), ports=(500, 4500)),
    Rule(vip=OTHER6, mode="disabled"),
    Rule(vip=VIP4, protocols=frozenset({"other"})),
)

PROBE = """
table inet probe {
  set seen4 { type ipv4_addr; size 65535; flags dynamic; }
  set seen6 { type ipv6_addr; size 65535; flags dynamic; }
  chain taken { type filter hook prerouting priority -170;
    meta mark != 0 drop
    add @seen4 { ip saddr }
    add @seen6 { ip6 saddr }
  }
}
"""
"""Behind the filter: remembers who got through, unless a mark has."""


def any_share(rng: random.Random) -> Share:
    states = [rng.choice(("owned", "dirty", "quiet", "")) for _ in range(60)]
    return Share(
        owned=frozenset(n for n, state in enumerate(states) if state in ("owned", "quiet")),
        dirty=frozenset(n for n, state in enumerate(states) if state == "dirty"),
        quiet=frozenset(n for n, state in enumerate(states) if state == "quiet"),
        held=frozenset(rng.sample(range(3840), 700)),
    )


def any_packet(rng: random.Random, source: Address) -> tuple[Packet, bytes]:
    """A packet, as it is described and as it is."""
    v4 = source.version == 4
    destination: Address = rng.choice((VIP4, OTHER4)) if v4 else rng.choice((VIP6, OTHER6, BEHIND.network_address))
    protocol = rng.choice((TCP, TCP, UDP, UDP, ESP, ICMP if v4 else ICMPV6))
    sport, dport = rng.randrange(1, 65536), rng.choice((80, 85, 91, 150, 199, 250, 300, 443, 500, 550, 4500, 4501))
    fragment = rng.choice(("", "", "", "first", "later"))
    begins, icmp_type = rng.random() < 0.5, None
    if protocol in (TCP, UDP):
        payload = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, 0x02 if begins else 0x10, 1000, 0, 0)
    elif protocol == ESP:
        payload = struct.pack("!II", 0xABCD, 1) + bytes(24)
    else:
        icmp_type = rng.choice((3, 8, 11, 12) if v4 else (1, 2, 3, 4, 128))
        payload = struct.pack("!BBHI", icmp_type, 0, 0, 1) + bytes(24)
    if fragment == "later":
        icmp_type = None
    packet = Packet(source, destination, protocol, sport, dport, bool(fragment), begins, icmp_type)
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        offset = {"": 0, "first": 0x2000, "later": 0x0010}[fragment]
        return packet, ipv4_packet(source, destination, protocol, payload, offset)
    assert isinstance(source, IPv6Address)
    assert isinstance(destination, IPv6Address)
    head = protocol
    if fragment:
        offset = 1 if fragment == "first" else 16 << 3
        head, payload = 44, struct.pack("!BBHI", protocol, 0, offset, 7) + payload
    elif rng.random() < 0.2:
        head, payload = 60, struct.pack("!BBBB4x", protocol, 0, 1, 4) + payload  # destination options: PadN
    return packet, ipv6_packet(source, destination, head, payload)


@pytest.mark.parametrize("filter_name", FILTERS)
@isolated
def test_the_kernel_does_what_explain_says(filter_name: str) -> None:
    rng = random.Random(11)
    with network() as net:
        host = net.server_host(1)
        host.command("nft", PROBE)
        nic = NicPlan("eth0", "external", net.mac(host), (VIP4, VIP6, OTHER4, OTHER6), behind=(BEHIND,))
        plan = BalancingPlan((nic,), RULES, SEED, lease_ms=60_000)
        owned = Owned(1, tuple(any_share(rng) for _ in RULES), any_share(rng))
        with inside(host):
            filter_ = FILTERS[filter_name]()
            filter_.install(plan, owned)

        def seen() -> int:
            filter_.renew()  # a busy machine may take longer than the longest lease
            return filter_.counters()["eth0"].seen

        cases: dict[Address, Packet] = {}
        frames = []
        for n in range(3000):
            source: Address = (
                IPv4Address(int(IPv4Address("198.18.0.0")) + n + 1)
                if n % 2
                else (IPv6Address(int(IPv6Address("2001:2::")) + (rng.getrandbits(40) << 40) + n))
            )
            cases[source], raw = any_packet(rng, source)
            frames.append(framed(net.mac(net.client), nic.cluster_mac, raw))
        with sender(net.client) as send:
            deliver(send, frames, seen)
        taken = set()
        for name in ("seen4", "seen6"):
            listing = json.loads(host.command("nft", "-j", "list", "set", "inet", "probe", name))
            found = next(item["set"] for item in listing["nftables"] if "set" in item)
            taken |= {ip_address(element) for element in found.get("elem", [])}
        member = Member("server1", owned)
        wrong = []
        outcomes = set()
        for source, packet in cases.items():
            said = explain.explain(plan, packet, [member])
            outcomes.add(said.outcome)
            if (said.outcome in ("accepted", "all")) != (source in taken):
                wrong.append((packet, said, source in taken))
        assert not wrong, f"{len(wrong)} of {len(cases)} differ: {wrong[:3]}"
        assert outcomes == {"accepted", "all", "kept", "refused", "dropped", "unowned"}
