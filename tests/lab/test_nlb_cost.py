"""How long the way of an accepted packet through each filter is: counted, not timed (`make bench ONLY=filter`)."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
from ipaddress import IPv4Address, IPv6Address

import pytest

from portico.balancing.nlb import libbpf, ruleset
from portico.balancing.nlb.bpf import OBJECT
from portico.balancing.nlb.plan import MAX_RULES, BalancingPlan, NicPlan, Owned, Rule, Share

from .namespace import command, isolated

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

NIC = NicPlan("lo", "external", bytes(6), (IPv4Address("203.0.113.10"), IPv6Address("2001:db8::10")))
SERVERS = (2, 8, 32)
MAX_VERIFIED, MAX_CALLS = 25_000, 120
"""Above what the program needs now: steps of the verifier over all paths (its own limit is a million), calls
of helpers."""


def plan(rules: int = 1) -> BalancingPlan:
    ports = tuple(Rule(protocols=frozenset({"tcp"}), ports=(n, n)) for n in range(1, rules))
    return BalancingPlan((NIC,), (*ports, Rule()), 0xABC, lease_ms=60_000)


def expressions(told: BalancingPlan, share: Share) -> dict[str, list[list[str]]]:
    """The expressions of every rule by chain, as the kernel is told them."""
    text = ruleset.render(told, Owned(1, tuple(share for _ in told.rules), share))
    done = subprocess.run(
        ["nft", "--check", "--debug=netlink", "-f", "-"], input=text, capture_output=True, text=True, check=True
    )
    found: dict[str, list[list[str]]] = {}
    for block in done.stdout.split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        start = next((n for n, line in enumerate(lines) if line.startswith("netdev portico_nlb ")), None)
        if start is not None and all(line.startswith("  [ ") for line in lines[start + 1 :]):
            found.setdefault(lines[start].split()[-1], []).append(lines[start + 1 :])
    return found


@isolated
def test_the_portable_filter_asks_few_questions_of_an_accepted_packet() -> None:
    command("ip", "link", "set", "lo", "up")
    for servers in SERVERS:
        share = Share(owned=frozenset(range(0, 60, servers)))
        found = expressions(plan(), share)
        known, other_family, lookup = found["in0"][:3]
        assert len(known) <= 10, known
        assert sum("lookup" in step for step in known) == 1, known
        assert not any(word in step for step in known for word in ("hash", "dynset", "mark")), known
        seen, icmp, judge = found["four0"][:3]
        pings, tcp_flow, tcp, note, flow, accept = found["own_rule0_single4_0"]
        # Judged, once in a while. UDP: the rules of ICMP and TCP end at their comparison.
        way = [*known[:6], *other_family[:2], *lookup, *seen, *icmp[:2], *judge]
        path = [*way, *pings[:2], *tcp_flow[:2], *tcp[:2], *note, *flow, *accept]
        assert len(path) <= 44, path
        assert sum("lookup" in step or "dynset" in step for step in path) == 5, path
        tcp_path = [*way, *pings[:2], *tcp_flow, *tcp]
        assert len(tcp_path) <= 40, tcp_path
        assert not any("mark" in step for step in [*path, *tcp_path]), "no packet mark is set or read"


@isolated
def test_more_servers_and_more_rules_for_ports_make_no_packet_of_another_protocol_slower() -> None:
    command("ip", "link", "set", "lo", "up")
    one, many = (expressions(plan(rules), Share.all()) for rules in (1, MAX_RULES))
    assert len(many["four0"]) <= len(one["four0"]) + 1
    assert many["own_rule0_single4_0"] != []
    assert many["in0"] == one["in0"][2:], "where ports tell rules apart, every packet is judged"


class _Information(ctypes.Structure):
    """The beginning of struct bpf_prog_info up to verified_insns (linux/bpf.h)."""

    _fields_ = (("data", ctypes.c_uint8 * 256),)


@isolated
def test_the_program_stays_small_and_calls_little() -> None:
    item = libbpf.Object(OBJECT, {})
    try:
        library = libbpf._library()
        library.bpf_obj_get_info_by_fd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        information, size = _Information(), ctypes.c_uint32(ctypes.sizeof(_Information))
        code = library.bpf_obj_get_info_by_fd(
            item.program("nlb_ingress"), ctypes.byref(information), ctypes.byref(size)
        )
        assert code == 0
        (verified,) = struct.unpack_from("I", bytes(information.data), 216)
    finally:
        item.close()
    assert 0 < verified <= MAX_VERIFIED
    dump = subprocess.run(
        ["llvm-objdump", "-d", "--no-show-raw-insn", str(OBJECT)], capture_output=True, text=True, check=True
    ).stdout
    calls = [int(number) for number in re.findall(r"call (\d+)", dump)]
    print(f"{verified} instructions verified, {len(calls)} calls in the program")
    assert len(calls) <= MAX_CALLS
    assert 125 in calls and 118 in calls, "the clock is asked once a tick only (bpf_ktime_get_boot_ns, bpf_jiffies64)"
