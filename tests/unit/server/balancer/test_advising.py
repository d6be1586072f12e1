"""What `portico lb enable` and `lb mode` say about the network around this machine."""

from __future__ import annotations

from pathlib import Path

from portico.errors import Unavailable
from portico.server.balancer.advising import advised
from portico.settings.document import load_data
from portico.settings.localise import localise
from portico.settings.model import Settings
from tests.unit.server.balancer.test_plans import MACS, document


def local(**balancing: object) -> Settings:
    return localise(load_data(document(**balancing)), "da2")


def machine(path: Path, vendor: str) -> Path:
    (path / "class/dmi/id").mkdir(parents=True)
    (path / "class/dmi/id/sys_vendor").write_text(f"{vendor}\n")
    return path


def test_each_interface_has_advice_for_the_mode_and_the_platform(tmp_path: Path) -> None:
    system = machine(tmp_path, "VMware, Inc.")
    found = advised(local(mode="unicast"), MACS.__getitem__, system)
    assert {(one.interface, one.advice.code) for one in found} >= {
        ("eth0", "NLB_VMWARE_UNICAST"),
        ("eth1", "NLB_VMWARE_UNICAST"),
    }
    found = advised(local(mode="multicast"), MACS.__getitem__, system)
    assert [one.advice.code for one in found] == ["NLB_STATIC_NEIGHBOUR"] * 2
    shown = found[0].as_dict()
    assert shown["platform"] == "VMware"
    commands = [line for one in shown["commands"] for line in one["lines"]]
    assert any("203.0.113.11" in line and "03:bf:cb:00:71:0b" in line for line in commands)


def test_a_bridge_is_noticed(tmp_path: Path) -> None:
    system = machine(tmp_path, "Dell Inc.")
    (system / "class/net/eth1/bridge").mkdir(parents=True)
    found = advised(local(), MACS.__getitem__, system)
    assert [(one.interface, one.advice.severity) for one in found if one.advice.code == "NLB_BRIDGE_FILTER"] == [
        ("eth1", "error")
    ]


def test_an_interface_without_a_hardware_address_and_one_server_alone_need_no_advice(tmp_path: Path) -> None:
    def nothing(interface: str) -> bytes:
        raise Unavailable(f"The hardware address of {interface} cannot be read")

    assert advised(local(), nothing, tmp_path) == []
    alone = load_data({**document(), "load_balancing": None})
    assert advised(alone, MACS.__getitem__, tmp_path) == []
