"""Addresses of the machine's interfaces move and come back, whatever happens in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from portico.errors import Unavailable
from portico.server.reconcile import host_addresses, messages
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import HostAddresses

from .namespace import ORGANISATION, command, corporate_network, isolated

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")]

VIPS = ("203.0.113.11", "10.0.0.2", f"{ORGANISATION}:1::2")
WANTED = (
    HostAddresses("lo", tuple(ip_interface(vip) for vip in VIPS)),
    HostAddresses("eth0", (ip_interface("203.0.113.12/24"),), tuple(ip_address(vip) for vip in VIPS)),
    HostAddresses(
        "eth1",
        (ip_interface("10.0.0.12/24"), ip_interface(f"{ORGANISATION}:1::12/64")),
        tuple(ip_address(vip) for vip in VIPS),
    ),
)


def machine() -> None:
    """What an administrator may have: labels, secondaries, lifetimes, metrics, routes of every kind."""
    Path("/proc/sys/net/ipv4/conf/eth0/promote_secondaries").write_text("1")
    Path("/proc/sys/net/ipv4/conf/eth1/promote_secondaries").write_text("1")
    for line in (
        "addr del 203.0.113.11/24 dev eth0",
        "addr add 203.0.113.11/24 brd + label eth0:da dev eth0",
        "addr add 203.0.113.77/24 dev eth0",
        "addr add 198.51.100.5/24 dev eth0",
        "-6 addr add 2001:db8:ffff::11/64 dev eth0 nodad",
        f"-6 addr add {ORGANISATION}:1::77/64 dev eth1 nodad",
        "route add default via 203.0.113.1",
        "route add 198.18.0.0/15 via 203.0.113.1 src 203.0.113.11 metric 7",
        "route add 198.19.0.0/16 nexthop via 203.0.113.1 weight 3 nexthop via 203.0.113.2",
        "route add 10.9.0.0/16 via 10.0.0.4 mtu 1400",
        "route add 10.8.0.0/16 via 10.8.0.1 dev eth1 onlink table 77",
        "route add 172.16.0.0/12 dev eth1 scope link",
        "-6 route add default via 2001:db8:ffff::1 pref high",
        f"-6 route add 2001:db8:9::/48 via {ORGANISATION}:1::4 src {ORGANISATION}:1::2",
    ):
        command("ip", *line.split())


def snapshot() -> list[list[str]]:
    """Addresses and routes; the order of addresses counts, that of routes in the kernel's list does not.

    Link-local addresses are being detected still, and get their routes when they are.
    """
    return [
        command("ip", "-o", "addr").replace(" tentative", "").splitlines(),
        sorted(command("ip", "-4", "route", "show", "table", "all").splitlines()),
        sorted(
            line for line in command("ip", "-6", "route", "show", "table", "all").splitlines() if "fe80" not in line
        ),
    ]


def changed(before: list[list[str]]) -> list[str]:
    """What differs from a snapshot; the order of addresses too."""
    now = snapshot()
    found = [f"+ {line}" for new, old in zip(now, before, strict=True) for line in new if line not in old]
    found += [f"- {line}" for new, old in zip(now, before, strict=True) for line in old if line not in new]
    return found or ([] if now == before else ["another order", *now[0]])


def balance(path: Path, wanted: tuple[HostAddresses, ...] = WANTED) -> None:
    with IPRoute() as ip:
        host_addresses.apply(ip, wanted, Ledger(path))


def undo(path: Path) -> None:
    balance(path, ())


def differences(path: Path, wanted: tuple[HostAddresses, ...] = WANTED) -> list[str]:
    entries = Ledger(path).host_addresses
    with IPRoute() as ip:
        state = host_addresses.observe(ip, ["lo", "eth0", "eth1"])
    return [str(change) for change in host_addresses.plan(wanted, state, entries)]


def addresses(interface: str, version: int = 4) -> list[str]:
    lines = command("ip", f"-{version}", "-o", "addr", "show", "dev", interface, "scope", "global").splitlines()
    return [line.split()[3] for line in lines]


@isolated
def test_vips_move_to_lo_and_everything_comes_back(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        machine()
        before = snapshot()
        balance(ledger)
        assert addresses("lo") == ["203.0.113.11/32", "10.0.0.2/32"]
        assert addresses("lo", 6) == [f"{ORGANISATION}:1::2/128"]
        assert addresses("eth0") == ["198.51.100.5/24", "203.0.113.77/24", "203.0.113.12/24"]
        assert addresses("eth1") == ["10.0.0.12/24"]
        assert set(addresses("eth1", 6)) == {f"{ORGANISATION}:1::12/64", f"{ORGANISATION}:1::77/64"}
        routes = command("ip", "route", "show", "table", "all")
        for kept in ("default via 203.0.113.1", "10.9.0.0/16 via 10.0.0.4", "weight 3", "10.8.0.0/16", "172.16.0.0/12"):
            assert kept in routes
        assert "198.18.0.0/15 via 203.0.113.1 dev eth0 src 203.0.113.12 metric 7" in routes
        assert "default via 2001:db8:ffff::1" in command("ip", "-6", "route")
        assert f"src {ORGANISATION}:1::12" in command("ip", "-6", "route", "show", "2001:db8:9::/48")
        assert "src 10.0.0.12" in command("ip", "route", "get", "10.0.0.4"), "own connections leave from the DIP"
        assert f"src {ORGANISATION}:1::2 " not in command("ip", "-6", "route", "get", f"{ORGANISATION}:1::4")
        assert differences(ledger) == []
        balance(ledger)
        undo(ledger)
        assert changed(before) == []
        undo(ledger)
        assert changed(before) == []


@isolated
def test_only_address_of_an_interface_moves_without_a_moment_without_default_route(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        command("ip", "route", "add", "default", "via", "203.0.113.1")
        for name in ("eth0", "eth1"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("1")
        before = snapshot()
        watched: list[str] = []
        original = messages.send

        def send(kind: int, flags: int, content: bytes) -> None:
            original(kind, flags, content)
            watched.append(command("ip", "route", "show", "default"))

        messages.send = send
        balance(ledger)
        undo(ledger)
        assert len(watched) > 8
        assert all(route.startswith("default via 203.0.113.1") for route in watched)
        assert changed(before) == []


class Crash(Exception):
    pass


def crashing_after(count: int, body: Callable[[], None]) -> bool:
    """Runs the body with a crash after so many changes of the kernel; whether it came to that."""
    original, left = messages.send, [count]

    def send(kind: int, flags: int, content: bytes) -> None:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        original(kind, flags, content)

    messages.send = send
    try:
        body()
    except Crash:
        return True
    finally:
        messages.send = original
    return False


@isolated
def test_a_crash_anywhere_loses_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        machine()
        before = snapshot()
        balance(ledger)
        balanced = snapshot()
        undo(ledger)
        for direction, expected in ((WANTED, balanced), ((), before)):
            for count in range(200):
                if direction == ():
                    balance(ledger)
                crashed = crashing_after(count, lambda wanted=direction: balance(ledger, wanted))  # type: ignore[misc]
                if not crashed:
                    assert count > 8
                    undo(ledger)
                    break
                if count % 2 == 0:
                    balance(ledger, direction)
                    assert [line for line in changed(expected) if line[0] in "+-"] == [], count
                undo(ledger)
                assert changed(before) == [], f"after a crash at change {count}"
            else:
                raise AssertionError("it never ended")
        assert Ledger(ledger).host_addresses == {}


@isolated
def test_what_the_administrator_changes_meanwhile_is_kept(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        machine()
        balance(ledger)
        command("ip", "addr", "add", "203.0.113.88/24", "dev", "eth0")
        command("ip", "addr", "del", "198.51.100.5/24", "dev", "eth0")
        command("ip", "route", "add", "10.7.0.0/16", "via", "10.0.0.4")
        command("ip", "route", "del", "10.9.0.0/16")
        command("ip", "route", "add", "10.6.0.0/16", "via", "10.0.0.4", "src", "10.0.0.12")
        assert differences(ledger) == []
        undo(ledger)
        assert set(addresses("eth0")) == {"203.0.113.11/24", "203.0.113.77/24", "203.0.113.88/24"}
        routes = command("ip", "route")
        assert "10.7.0.0/16" in routes
        assert "10.9.0.0/16" not in routes


@isolated
def test_drift_is_named_and_put_right(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        machine()
        before = snapshot()
        balance(ledger)
        balanced = snapshot()
        command("ip", "addr", "add", "203.0.113.11/24", "brd", "+", "label", "eth0:da", "dev", "eth0")
        assert differences(ledger) == ["remove address 203.0.113.11/24 on eth0"]
        balance(ledger)
        command("ip", "addr", "del", "10.0.0.12/24", "dev", "eth1")
        command("ip", "addr", "del", "10.0.0.2/32", "dev", "lo")
        assert set(differences(ledger)) == {"add address 10.0.0.12/24 on eth1", "add address 10.0.0.2/32 on lo"}
        balance(ledger)
        assert set(snapshot()[0]) == set(balanced[0])
        undo(ledger)
        assert snapshot()[0] == before[0]


@isolated
def test_dedicated_addresses_change_in_place(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        machine()
        before = snapshot()
        balance(ledger)
        other = (WANTED[0], HostAddresses("eth0", (ip_interface("203.0.113.14/24"),), WANTED[1].absent), WANTED[2])
        balance(ledger, other)
        assert "203.0.113.12/24" not in addresses("eth0")
        assert "src 203.0.113.14" in command("ip", "route", "show", "198.18.0.0/15")
        undo(ledger)
        assert changed(before) == []


@isolated
def test_a_joined_server_keeps_its_own_addresses(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        command("ip", "addr", "flush", "dev", "eth0")
        command("ip", "addr", "add", "203.0.113.12/24", "dev", "eth0")
        before = snapshot()
        balance(ledger, WANTED[:2])
        assert addresses("eth0") == ["203.0.113.12/24"]
        undo(ledger)
        assert changed(before) == [], "what was the administrator's before is not taken away"


@isolated
def test_a_missing_interface_is_named(tmp_path: Path) -> None:
    with corporate_network(), pytest.raises(Unavailable, match="eth9"):
        balance(tmp_path / "kernel.json", (HostAddresses("eth9", (ip_interface("10.0.0.5/24"),)),))


@isolated
def test_an_interface_that_was_replaced_is_a_new_one(tmp_path: Path) -> None:
    ledger = tmp_path / "kernel.json"
    with corporate_network():
        balance(ledger, WANTED[:2])
        command("ip", "link", "del", "eth0")
        command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "inet2")
        command("ip", "link", "set", "eth0", "up")
        command("ip", "addr", "add", "203.0.113.11/24", "dev", "eth0")
        balance(ledger, WANTED[:2])
        assert addresses("eth0")[-1] == "203.0.113.12/24"
        undo(ledger)
        assert addresses("eth0") == ["203.0.113.11/24"]
        assert addresses("lo") == []
