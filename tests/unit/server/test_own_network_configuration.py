"""A machine whose own network configuration has a virtual address is found before it restarts, and after."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from portico.health.heuristics.boot import Configured
from portico.server import returned as module
from portico.server.health.boot_probe import look
from portico.server.reconcile.wanted import Change, HostAddresses
from portico.server.returned import Returned
from portico.settings.document import load_data
from portico.settings.localise import localise
from portico.settings.model import Settings

VIP4, VIP6 = "203.0.113.11", "2001:db8:ffff::11"
WANTED = (
    HostAddresses(
        "eth0",
        (ip_interface("203.0.113.21/24"), ip_interface("2001:db8:ffff::21/64")),
        (ip_address(VIP4), ip_address(VIP6), ip_address("10.0.0.2")),
    ),
)
NETPLAN = f"""
network:
  ethernets:
    eth0:
      # once {VIP4}/24
      addresses:
        - "203.0.113.21/24"
        - 2001:0db8:ffff:0::0011/64
      routes:
        - to: default
          via: {VIP4}
"""


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("etc/netplan/01.yaml", NETPLAN, [(VIP6, "2001:db8:ffff::21/64")]),
        ("etc/network/interfaces", f"iface eth0 inet static\n  address {VIP4}/24\n", [(VIP4, "203.0.113.21/24")]),
        ("etc/network/interfaces.d/eth1", "iface eth1 inet static\n  address 10.0.0.2\n", [("10.0.0.2", "")]),
        ("etc/network/interfaces", f"#  address {VIP4}\n  gateway {VIP4}\n", []),
        (
            "etc/systemd/network/10.network",
            f"[Network]\nAddress={VIP4}/24\nDNS=10.0.0.2\n",
            [(VIP4, "203.0.113.21/24")],
        ),
        ("etc/NetworkManager/system-connections/a", f"address1={VIP4}/24,203.0.113.1\n", [(VIP4, "203.0.113.21/24")]),
        ("etc/network/interfaces", "  address 203.0.113.111/24\n", []),
        ("etc/network/interfaces", "\x00\xff:::::....\n", []),
    ],
)
def test_files_that_give_a_virtual_address_to_an_interface(
    tmp_path: Path, path: str, text: str, found: list[tuple[str, str]]
) -> None:
    write(tmp_path, path, text)
    seen = look(WANTED, (), tmp_path)
    assert seen.virtual == tuple(Configured(address, f"/{path}", instead) for address, instead in found)


def test_what_came_with_the_boot_is_told_without_a_place(tmp_path: Path) -> None:
    seen = look(WANTED, (f"{VIP4}/24 on eth0", "198.51.100.7/24 on eth0"), tmp_path)
    assert seen.virtual == (Configured(VIP4, "", "203.0.113.21/24"),)
    write(tmp_path, "etc/network/interfaces", f"address {VIP4}")
    assert look(WANTED, (f"{VIP4}/24 on eth0",), tmp_path).virtual[0].place == "/etc/network/interfaces"


def cluster(servers: int) -> Settings:
    document: dict[str, Any] = {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fd7c:1a2b:3c4d::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
        "load_balancing": {
            "internet_virtual_addresses": [f"{VIP4}/24"],
            "internal_virtual_addresses": ["10.0.0.2/24"],
            "servers": [
                {
                    "name": f"da{n}",
                    "priority": n,
                    "internet_dedicated_addresses": [f"203.0.113.2{n}/24"],
                    "internal_dedicated_addresses": [f"10.0.0.2{n}/24"],
                }
                for n in range(1, servers + 1)
            ],
        },
    }
    return localise(load_data(document), "da1")


def removed(*subjects: str) -> list[Change]:
    return [Change("host_addresses", "remove", subject) for subject in subjects]


def test_what_a_boot_brought_is_known_until_a_boot_brings_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(module, "BOOT", boot)
    boot.write_text("one\n")
    Returned(tmp_path).note(cluster(2), [])
    assert Returned(tmp_path).addresses() == ()
    boot.write_text("two\n")
    Returned(tmp_path).note(cluster(2), removed(f"{VIP4}/24 on eth0", f"{VIP4}/32 on lo", "198.51.100.5/24 on eth0"))
    assert Returned(tmp_path).addresses() == (f"{VIP4}/24 on eth0",)
    Returned(tmp_path).note(cluster(2), [])
    assert Returned(tmp_path).addresses() == (f"{VIP4}/24 on eth0",), "the agent was started again, not the machine"
    boot.write_text("three\n")
    Returned(tmp_path).note(cluster(2), [])
    assert Returned(tmp_path).addresses() == ()


def test_the_only_server_may_have_what_it_had(tmp_path: Path) -> None:
    """It gives its virtual addresses back when it stops, and nobody misses them."""
    Returned(tmp_path).note(cluster(1), removed(f"{VIP4}/24 on eth0"))
    assert Returned(tmp_path).addresses() == ()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"addresses": 7}'])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / module.FILE_NAME).write_text(text)
    assert Returned(tmp_path).addresses() == ()
