"""Everything that load balancing does to a server's kernel, and that all of it is undone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from portico.balancing.nlb import mac
from portico.balancing.nlb.choose import Preference, choose
from portico.balancing.nlb.kernel import Balancing
from portico.balancing.nlb.plan import BalancingPlan, Mode, NicPlan, Owned, Rule, Share
from portico.errors import Unavailable

from .namespace import Neighbour, isolated
from .nlb_network import SEED, VIP4, VIP6, Network, Service, connect, inside, network, strangers, until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ALL = Owned(1, (Share.all(),), Share.all())
MODES: list[tuple[Mode, bool]] = [("unicast", False), ("unicast", True), ("multicast", False), ("igmp", False)]
both_filters = pytest.mark.parametrize("preference", ["nftables", "eBPF"])
every_mode = pytest.mark.parametrize(("mode", "takeover"), MODES)


def machine(net: Network) -> Neighbour:
    """A single server whose own addresses will be VIPs, with what an administrator may have there."""
    host = net.attach("server1", f"{VIP4}/24", f"{VIP6}/64")
    for arguments in (
        ("ip", "addr", "add", "203.0.113.77/24", "dev", "eth0"),  # a second address of the same network
        ("ip", "route", "add", "default", "via", "203.0.113.1", "src", str(VIP4)),
        ("ip", "-6", "route", "add", "default", "via", "2001:db8:113::1"),
        ("ip", "route", "add", "192.0.2.0/24", "via", "203.0.113.200", "metric", "50"),
        ("ip", "route", "add", "192.0.2.0/25", "nexthop", "via", "203.0.113.1", "nexthop", "via", "203.0.113.200"),
        ("ip", "route", "add", "198.51.100.0/24", "via", "203.0.113.1", "table", "77"),
        ("nft", "table inet theirs { set s { type ipv4_addr; elements = { 192.0.2.1 } ; }; }"),
    ):
        host.command(*arguments)
    return host


def plan_for(net: Network, host: Neighbour, mode: Mode, takeover: bool) -> BalancingPlan:
    nic = NicPlan(
        *("eth0", "external", net.mac(host), (VIP4, VIP6)),
        dips=(IPv4Interface("203.0.113.11/24"), IPv6Interface("2001:db8:113::11/64")),
        mode=mode,
        takeover=takeover,
    )
    return BalancingPlan((nic,), (Rule(),), SEED, lease_ms=60_000)


def everything(host: Neighbour) -> dict[str, str]:
    """The machine, as text that two looks have in common."""
    # The order of addresses matters: the first one is the source of what the machine says on its own.
    seen = {
        "addresses": host.command("ip", "-o", "addr"),
        "routes": "\n".join(sorted(host.command("ip", "route", "show", "table", "all").splitlines())),
        "routes6": "\n".join(sorted(host.command("ip", "-6", "route", "show", "table", "all").splitlines())),
        "link": host.command("ip", "-d", "link", "show", "dev", "eth0"),
        "groups": host.command("ip", "maddr", "show", "dev", "eth0"),
        "fdb": host.command("bridge", "fdb", "show", "dev", "eth0"),
        "nft": host.command("nft", "list", "ruleset"),
        "qdisc": host.command("tc", "qdisc", "show", "dev", "eth0"),
        "filters": host.command("tc", "filter", "show", "dev", "eth0", "ingress", check=False),
        "sysctl": "\n".join(
            host.command("sysctl", f"net.ipv4.conf.{name}")
            for name in (
                *(
                    "eth0.arp_ignore",
                    "eth0.arp_announce",
                    "eth0.promote_secondaries",
                    "all.arp_ignore",
                    "eth0.rp_filter",
                ),
            )
        ),
    }
    return {
        name: re.sub(r"(valid_lft|preferred_lft|refcnt|expires) \S+|users \d+", "", text) for name, text in seen.items()
    }


@contextmanager
def in_host(host: Neighbour) -> Iterator[None]:
    with inside(host):
        yield


@both_filters
@every_mode
@isolated
def test_everything_is_undone(preference: Preference, mode: Mode, takeover: bool) -> None:
    with network() as net:
        host = machine(net)
        before = everything(host)
        ledger = Path(f"/tmp/portico-nlb-{os.getpid()}.json")
        try:
            with in_host(host):
                balancing = Balancing(ledger, preference)
                plan = plan_for(net, host, mode, takeover)
                assert balancing.apply(plan, ALL)
                assert balancing.choice is not None
                assert balancing.choice.name == preference
                assert balancing.plan(plan, balancing.observe(plan)) == []
                balancing.apply(plan, ALL)
                assert everything(host) != before
                assert "default via 203.0.113.1" in host.command("ip", "route")
                assert "192.0.2.0/25" in host.command("ip", "route"), "routes that stood on the VIP stay"
                assert balancing.undo() == []
            after = everything(host)
            assert after == before, [name for name in before if before[name] != after[name]]
        finally:
            ledger.unlink(missing_ok=True)


@both_filters
@pytest.mark.parametrize("takeover", [False, True])
@isolated
def test_what_a_killed_agent_left_is_undone_by_the_next(preference: Preference, takeover: bool) -> None:
    with network() as net:
        host = machine(net)
        host.command("tc", "qdisc", "add", "dev", "eth0", "clsact")  # the administrator's, empty
        before = everything(host)
        ledger = Path(f"/tmp/portico-nlb-{os.getpid()}.json")
        try:
            with in_host(host):
                killed = Balancing(ledger, preference)
                plan = plan_for(net, host, "unicast", takeover)
                killed.apply(plan, ALL)
                for presence in killed.presences.values():
                    presence.close()  # as the kernel does
                assert Balancing(ledger).undo() == []
            after = everything(host)
            assert after == before, [name for name in before if before[name] != after[name]]
        finally:
            ledger.unlink(missing_ok=True)


@both_filters
@every_mode
@isolated
def test_a_server_serves_its_former_addresses_as_vips(preference: Preference, mode: Mode, takeover: bool) -> None:
    """The kernel alone answers for nothing; clients keep the address they know; the mode changes while it runs."""
    with network() as net:
        host = machine(net)
        Service(host, 1)
        source, other = strangers(4, 1, 9)[0][0], strangers(6, 1, 9)[0][0]
        for client in (source, other):
            assert connect(net.client, client)[0] == 1
        ledger = Path(f"/tmp/portico-nlb-{os.getpid()}.json")
        try:
            with in_host(host):
                balancing = Balancing(ledger, preference)
                balancing.apply(plan_for(net, host, "unicast", False), ALL)
                balancing.apply(plan := plan_for(net, host, mode, takeover), ALL)
                balancing.announce()
                cluster = mac.text(plan.nics[0].cluster_mac)
                for vip in (VIP4, VIP6):
                    until(
                        "the router's learning of the cluster MAC",
                        lambda vip=vip: cluster in net.client.command("ip", "neigh", "show", str(vip)),  # type: ignore[misc]
                    )
                for client in (source, other):
                    assert connect(net.client, client)[0] == 1
                assert balancing.choice is not None
                assert balancing.choice.filter.counters()["eth0"].accepted > 0
                assert balancing.undo() == []
        finally:
            ledger.unlink(missing_ok=True)


@both_filters
@isolated
def test_drift_is_seen_and_repaired(preference: Preference) -> None:
    with network() as net:
        host = machine(net)
        ledger = Path(f"/tmp/portico-nlb-{os.getpid()}.json")
        try:
            with in_host(host):
                balancing = Balancing(ledger, preference)
                plan = plan_for(net, host, "unicast", False)
                balancing.apply(plan, ALL)
                host.command("sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=0")
                host.command("ip", "addr", "del", f"{VIP4}/32", "dev", "lo")
                host.command("ip", "addr", "del", "203.0.113.11/24", "dev", "eth0")
                host.command("nft", "flush ruleset")
                host.command("tc", "qdisc", "del", "dev", "eth0", "clsact", check=False)
                found = [str(change) for change in balancing.plan(plan, balancing.observe(plan))]
                assert found == [
                    "set sysctl net/ipv4/conf/eth0/arp_ignore: 0 -> 1",
                    f"add filter {preference}",
                    "add address 203.0.113.11/24 on eth0",
                    f"add address {VIP4}/32 on lo",
                ]
                balancing.apply(plan, ALL)
                assert balancing.plan(plan, balancing.observe(plan)) == []
                balancing.undo()
        finally:
            ledger.unlink(missing_ok=True)


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
def test_renewing_a_lease_is_cheap(preference: Preference) -> None:
    """No program is started for it: a hundred renewals cost less than ten starts of one would."""
    with network() as net:
        host = machine(net)
        with in_host(host):
            filter_ = choose(preference).filter
            filter_.install(plan_for(net, host, "unicast", False), ALL)
            started = os.times()
            begin = time.perf_counter()
            for _ in range(100):
                filter_.renew()
            print(f"{preference}: {(time.perf_counter() - begin) * 10:.3f} ms each")
            ended = os.times()
            assert ended.children_user == started.children_user, "a program was started"
            filter_.remove()
