"""Which server of the cluster a machine is, and what it makes of its interfaces."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, cast

import pytest

from portico.errors import PorticoError
from portico.server.desired import desired_kernel
from portico.server.machine import NAME_FILE, Machine, read_own_name, write_own_name
from portico.server.reconcile import host_addresses, messages, nftables
from portico.server.reconcile.host_addresses import Observed
from portico.server.reconcile.host_entry import Entry, Held
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import HostAddresses, Wanted
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.localise import localise
from portico.settings.model import Settings

P = "fd7c:1a2b:3c4d"


def document(*names: str, **section: Any) -> Settings:
    servers = [
        {
            "name": name,
            "priority": number,
            "internet_dedicated_addresses": [f"203.0.113.{20 + number}/24"],
            "internal_dedicated_addresses": [f"10.0.0.{20 + number}/24", f"{P}:1::{20 + number}/64"],
        }
        for number, name in enumerate(names, 1)
    ]
    balancing = {
        "internet_virtual_addresses": ["203.0.113.11/24"],
        "internal_virtual_addresses": ["10.0.0.2/24", f"{P}:1::2/64"],
        "servers": servers,
        **section,
    }
    return load_data(
        {
            "schema_version": 1,
            "deployment": {
                "domain": "corp.example.net",
                "connect_to": "da.example.net",
                "organisation_prefix": f"{P}::/48",
            },
            "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
            "dns64": {"upstream_servers": ["10.0.0.53"]},
            "load_balancing": balancing if names else None,
        }
    )


def machine(state: Path) -> Machine:
    return Machine(state, cast("Any", None), cast("Any", None))


def test_the_first_server_is_known_by_the_document_and_written_down(tmp_path: Path) -> None:
    local = machine(tmp_path).localise(document("da1"))
    assert str(local.server.internal_ipv4) == "10.0.0.21"
    assert read_own_name(tmp_path) is None
    machine(tmp_path).settle(local)
    assert read_own_name(tmp_path) == "da1"
    machine(tmp_path).settle(document())
    assert read_own_name(tmp_path) is None


def test_nobody_guesses_which_server_a_machine_is(tmp_path: Path) -> None:
    with pytest.raises(PorticoError) as caught:
        machine(tmp_path).localise(document("da1", "da2"))
    assert caught.value.code == "CLUSTER_NAME_LOST"
    write_own_name(tmp_path, "da2")
    assert machine(tmp_path).localise(document("da1", "da2")).server.name == "da2"
    with pytest.raises(PorticoError) as caught:
        machine(tmp_path).localise(document("da1"))
    assert caught.value.code == "NOT_IN_CLUSTER"
    with pytest.raises(PorticoError, match="taken out of its cluster"):
        machine(tmp_path).localise(document())
    write_own_name(tmp_path, None)
    assert machine(tmp_path).localise(document()).load_balancing is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"server": 7}', b'{"server": "a b"}', b"\xff", b'{"name": "x"}']
)
def test_a_damaged_name_is_told_not_guessed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME_FILE).write_bytes(content)
    with pytest.raises(PorticoError) as caught:
        read_own_name(tmp_path)
    assert NAME_FILE in str(caught.value)
    assert caught.value.resolution


def wanted(name: str, **section: Any) -> Wanted:
    local = localise(document("da1", "da2", **section), name)
    return desired_kernel(local, effective(local), closed=frozenset())


def test_virtual_addresses_are_on_lo_and_dedicated_ones_on_the_interfaces() -> None:
    vips = tuple(map(ip_address, ("203.0.113.11", "10.0.0.2", f"{P}:1::2")))
    kernel = wanted("da2")
    assert kernel.host_addresses == (
        HostAddresses("lo", tuple(map(ip_interface, ("203.0.113.11/32", "10.0.0.2/32", f"{P}:1::2/128")))),
        HostAddresses("eth0", (ip_interface("203.0.113.22/24"),), vips),
        HostAddresses("eth1", (ip_interface("10.0.0.22/24"), ip_interface(f"{P}:1::22/64")), vips),
    )
    assert kernel.sysctls["net/ipv4/conf/eth0/promote_secondaries"] == "1"
    assert "net/ipv4/conf/lo/promote_secondaries" not in kernel.sysctls
    assert [str(pool.address) for pool in kernel.filter.pools] == ["10.0.0.22"]
    alone = document()
    assert desired_kernel(alone, effective(alone), closed=frozenset()).host_addresses == ()


def test_packets_to_clients_of_other_servers_go_nowhere() -> None:
    kernel = wanted("da2", client_addresses="per-server")
    assert f"{P}:1001::/64" in {route.destination for route in kernel.routes}
    forward = [comment for chain, _, comment in nftables.rules(kernel.filter) if chain == "forward"]
    assert "clients of other servers, which see this packet too" in forward
    assert forward.index("intranet to client") < forward.index("clients of other servers, which see this packet too")


def held(text: str) -> Held:
    return Held(ip_interface(text), text.encode())


def test_what_the_administrator_has_is_known_whatever_was_moved() -> None:
    former = [held("203.0.113.11/24"), held("203.0.113.77/24"), held("198.51.100.5/24")]
    entry = Entry(3, former, removed={former[0].address.ip}, added={ip_address("203.0.113.12")})
    now = Observed(3, (held("203.0.113.77/24"), held("203.0.113.12/24"), held("203.0.113.88/24")))
    assert host_addresses.theirs(entry, now) == [*former[:2], held("203.0.113.88/24")], "one removed, one added by him"
    assert host_addresses.theirs(entry, Observed(4, now.held)) == list(now.held), "another interface of the same name"
    assert host_addresses.theirs(None, now) == list(now.held)


def test_the_ledger_keeps_addresses_over_a_restart_and_not_over_a_boot(tmp_path: Path) -> None:
    entry = Entry(3, [held("203.0.113.11/24")], {ip_address("203.0.113.11")}, set(), [b"route"], [(b"a", b"b")])
    ledger = Ledger(tmp_path / "kernel.json", "boot")
    ledger.set_host_addresses("eth0", entry)
    again = Ledger(tmp_path / "kernel.json", "boot").host_addresses
    assert again == {"eth0": entry}
    assert again["eth0"].former[0].message == b"203.0.113.11/24"
    assert Ledger(tmp_path / "kernel.json", "other").host_addresses == {}
    ledger.set_host_addresses("eth0", None)
    assert Ledger(tmp_path / "kernel.json", "boot").host_addresses == {}


def test_a_route_is_the_same_whatever_the_kernel_noted_about_it() -> None:
    def route(flags: int, *attributes: tuple[int, bytes]) -> bytes:
        packed = b"".join(
            (4 + len(value)).to_bytes(2, "little") + kind.to_bytes(2, "little") + value for kind, value in attributes
        )
        return bytes([2, 24, 0, 0, 254, 3, 0, 1]) + flags.to_bytes(4, "little") + packed

    gateway, source, used = (5, bytes([10, 0, 0, 1])), (7, bytes([10, 0, 0, 2])), (12, bytes(32))
    assert messages.same_route(route(0, gateway, source)) == messages.same_route(route(0x10, source, used, gateway))
    assert messages.same_route(route(0, gateway)) != messages.same_route(route(0, gateway, source))
    other = messages.with_source(route(0, gateway, source), bytes([10, 0, 0, 9]))
    assert messages.source_of(other) == bytes([10, 0, 0, 9])
    assert messages.source_of(route(0, gateway)) is None
