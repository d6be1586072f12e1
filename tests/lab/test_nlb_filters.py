"""Both filters in a kernel: which one is chosen, what a former process left of the other, what a renewal costs."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from socket import if_nametoindex
from unittest.mock import patch

import pytest

from portico.balancing.nlb import libbpf, tcx
from portico.balancing.nlb.bpf import OBJECT, FastFilter
from portico.balancing.nlb.choose import Preference, choose, clear_other
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share
from portico.errors import Unavailable

from .namespace import Neighbour, isolated
from .nlb_network import SEED, VIP4, VIP6, Network, inside, network

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ALL = Owned(1, (Share.all(),), Share.all())
OTHER: dict[Preference, Preference] = {"nftables": "eBPF", "eBPF": "nftables"}
both_filters = pytest.mark.parametrize("preference", ["nftables", "eBPF"])


def plan_for(net: Network, host: Neighbour) -> BalancingPlan:
    nic = NicPlan("eth0", "external", net.mac(host), (VIP4, VIP6))
    return BalancingPlan((nic,), (Rule(),), SEED, lease_ms=60_000)


def standing(host: Neighbour) -> list[str]:
    """The filters in a host's kernel."""
    found = {
        "nftables": "portico_nlb" in host.command("nft", "list", "tables"),
        "eBPF": "nlb_ingress" in host.command("tc", "filter", "show", "dev", "eth0", "ingress", check=False),
    }
    return [name for name, there in found.items() if there]


@isolated
def test_the_portable_filter_serves_where_the_program_does_not_load(tmp_path: Path) -> None:
    broken = tmp_path / "nlb.o"
    choice = choose(path=broken)
    assert choice.name == "nftables"
    assert "was not built" in choice.why
    broken.write_bytes(b"\x7fELF nothing")
    choice = choose(path=broken)
    assert choice.name == "nftables"
    assert "eBPF cannot be used" in choice.why
    with pytest.raises(Unavailable):
        choose("eBPF", path=broken)
    assert choose().name == "eBPF"


@both_filters
@isolated
def test_what_a_killed_process_left_of_the_other_filter_is_removed(preference: Preference) -> None:
    with network() as net:
        host = net.attach("server1", f"{VIP4}/24", f"{VIP6}/64")
        with inside(host):
            plan = plan_for(net, host)
            choose(OTHER[preference]).filter.install(plan, ALL)  # nobody removes it
            assert standing(host) == [OTHER[preference]]
            choice = choose(preference)
            clear_other(choice, ["eth0"])
            choice.filter.install(plan, ALL)
            assert standing(host) == [preference]
            choice.filter.remove()
            assert standing(host) == []


@isolated
def test_a_successor_takes_the_place_of_the_program_of_a_killed_process_and_no_strangers() -> None:
    with network() as net:
        host = net.attach("server1", f"{VIP4}/24", f"{VIP6}/64")
        with inside(host):
            index, plan = if_nametoindex("eth0"), plan_for(net, host)
            if not tcx.supported(index):
                pytest.skip("this kernel has no tcx (6.6)")
            other = libbpf.Object(OBJECT, {})
            program = other.program("nlb_ingress")
            tcx._bpf(tcx._ATTACH, struct.pack("=IIIIIIQ", index, program, tcx._TYPES[tcx.INGRESS], 0, 0, 0, 0))
            (stranger,) = tcx._programs(index, tcx.INGRESS)[0]
            with patch.object(tcx, "supported", lambda _index: False):
                before = FastFilter()
                before.install(plan, ALL)
                assert before.present(), "where there is no tcx the program is behind clsact"
            assert tcx._programs(index, tcx.INGRESS)[0] == [stranger]
            killed, successor = FastFilter(), FastFilter()
            killed.install(plan, ALL)
            former = tcx.attached(index, tcx.INGRESS)
            successor.install(plan, ALL)
            assert libbpf._classifier(index, libbpf.INGRESS) is None, "what a release before left is gone"
            first, own = tcx._programs(index, tcx.INGRESS)[0]
            assert first == stranger and own == libbpf.attached(index, libbpf.INGRESS) != former
            successor.remove()
            assert tcx._programs(index, tcx.INGRESS)[0] == [stranger] and tcx._notes(index, tcx.INGRESS) == {}
            assert not successor.present()
            other.close()


@both_filters
@isolated
def test_no_program_is_started_to_renew_a_lease(preference: Preference) -> None:
    with network() as net:
        host = net.attach("server1", f"{VIP4}/24", f"{VIP6}/64")
        with inside(host):
            filter_ = choose(preference).filter
            filter_.install(plan_for(net, host), ALL)
            started = os.times()
            begin = time.perf_counter()
            for _ in range(100):
                filter_.renew()
            print(f"{preference}: {(time.perf_counter() - begin) * 10:.3f} ms each")
            ended = os.times()
            assert ended.children_user == started.children_user, "a program was started"
            filter_.remove()
