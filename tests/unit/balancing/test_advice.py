"""Platforms by what they say of themselves, and what each mode asks for there."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from portico.balancing.nlb.advice import advise, modes_that_work
from portico.balancing.nlb.plan import NicPlan
from portico.balancing.nlb.platform import Facts, detect, read_facts
from portico.balancing.nlb.routers import static_entries

VIPS = (IPv4Address("203.0.113.10"), IPv6Address("2001:db8::10"))
NIC = NicPlan("eth0", "external", bytes(6), VIPS)


def dmi(**values: str) -> Facts:
    return Facts(tuple(values.items()))


@pytest.mark.parametrize(
    ("facts", "name", "title"),
    [
        (dmi(sys_vendor="VMware, Inc.", product_name="VMware7,1"), "vmware", "VMware"),
        (dmi(sys_vendor="Microsoft Corporation", product_name="Virtual Machine"), "hyperv", "Hyper-V"),
        (
            dmi(
                sys_vendor="Microsoft Corporation",
                product_name="Virtual Machine",
                chassis_asset_tag="7783-7084-3265-9085-8269-3286-77",
            ),
            "cloud",
            "Azure",
        ),
        (dmi(sys_vendor="Microsoft Corporation", product_name="Surface Pro"), "hardware", "hardware"),
        (dmi(sys_vendor="Amazon EC2", product_name="m5.large"), "cloud", "Amazon EC2"),
        (Facts((("bios_version", "4.11.amazon"),), (), "ec2e1916-9099-7caf-fd21-012345abcdef"), "cloud", "Amazon EC2"),
        (dmi(sys_vendor="Google", product_name="Google Compute Engine"), "cloud", "Google Cloud"),
        (dmi(sys_vendor="QEMU", product_name="Standard PC (Q35 + ICH9, 2009)"), "kvm", "KVM"),
        (dmi(sys_vendor="OpenStack Foundation", product_name="OpenStack Nova"), "openstack", "OpenStack"),
        (dmi(sys_vendor="Xen", product_name="HVM domU"), "xen", "Xen"),
        (dmi(sys_vendor="innotek GmbH", product_name="VirtualBox"), "virtualbox", "VirtualBox"),
        (dmi(sys_vendor="Dell Inc.", product_name="PowerEdge R650"), "hardware", "hardware"),
        (Facts((), ("vmxnet3",)), "vmware", "VMware"),
        (Facts((), ("ena",)), "cloud", "Amazon EC2"),
        (Facts(), "hardware", "hardware"),
    ],
)
def test_platforms(facts: Facts, name: str, title: str) -> None:
    found = detect(facts)
    assert (found.name, found.title) == (name, title)
    assert found.layer2 == (name != "cloud")
    assert found.evidence
    assert bool(modes_that_work(found)) == found.layer2


def test_facts_come_from_the_machine(tmp_path: Path) -> None:
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/sys_vendor").write_text("QEMU\n")
    driver = tmp_path / "bus/virtio/drivers/virtio_net"
    driver.mkdir(parents=True)
    (tmp_path / "class/net/eth0/device").mkdir(parents=True)
    (tmp_path / "class/net/eth0/device/driver").symlink_to(driver)
    found = read_facts(["eth0", "lo"], tmp_path)
    assert found == Facts((("sys_vendor", "QEMU"),), ("virtio_net",), "")
    assert read_facts(["eth0"], tmp_path / "nothing") == Facts()


@pytest.mark.parametrize(
    ("facts", "changes", "code", "severity", "command"),
    [
        (dmi(sys_vendor="VMware, Inc."), {}, "NLB_VMWARE_UNICAST", "warning", "-NotifySwitches $false"),
        (dmi(sys_vendor="VMware, Inc."), {}, "NLB_VMWARE_UNICAST", "warning", "-ForgedTransmits $true"),
        (Facts((), ("hv_netvsc",)), {}, "NLB_HYPERV_SPOOFING", "warning", "-MacAddressSpoofing On"),
        (dmi(sys_vendor="QEMU"), {"mode": "igmp"}, "NLB_LINUX_BRIDGE_IGMP", "warning", "mcast_flood off"),
        (Facts(), {"mode": "igmp"}, "NLB_IGMP_SNOOPING", "note", "ip igmp snooping querier"),
        (Facts(), {"mode": "multicast"}, "NLB_STATIC_NEIGHBOUR", "note", "arp 203.0.113.10 03bf.cb00.710a ARPA"),
        (Facts(), {}, "NLB_UNICAST_FLOODS", "note", "no switchport block unicast"),
        (Facts(), {}, "NLB_UNICAST_ROUTER", "note", "ip vlan-flooding"),
        (dmi(product_name="OpenStack Nova"), {}, "NLB_OPENSTACK_PORT_SECURITY", "warning", "ip-address=2001:db8::10"),
    ],
)
def test_advice(facts: Facts, changes: dict[str, str], code: str, severity: str, command: str) -> None:
    found = {advice.code: advice for advice in advise(replace(NIC, **changes), detect(facts))}  # type: ignore[arg-type]
    assert found[code].severity == severity
    lines = [line for commands in found[code].commands for line in commands.lines]
    assert any(command in line for line in lines), lines


def test_multicast_needs_nothing_of_vmware() -> None:
    found = advise(replace(NIC, mode="multicast"), detect(dmi(sys_vendor="VMware, Inc.")))
    assert [advice.code for advice in found] == ["NLB_STATIC_NEIGHBOUR"]


def test_no_mode_works_in_a_cloud() -> None:
    found = advise(NIC, detect(dmi(sys_vendor="Amazon EC2")))
    assert (found[0].code, found[0].severity) == ("NLB_NO_LAYER2", "error")


def test_a_bridge_hears_nothing() -> None:
    found = advise(NIC, detect(Facts()), bridge=True)
    assert found[0].code == "NLB_BRIDGE_FILTER", "the worst comes first"
    assert "ip link set portico-nlb-port master eth0 up" in found[0].commands[0].lines
    promiscuous = replace(NIC, acceptance="promiscuous")
    assert "NLB_BRIDGE_FILTER" not in [advice.code for advice in advise(promiscuous, detect(Facts()), bridge=True)]


def test_static_entries_name_every_vip_and_the_mac() -> None:
    entries = static_entries(VIPS, NIC.cluster_mac)
    assert len(entries) == 11
    digits = NIC.cluster_mac.hex()
    for entry in entries:
        text = "\n".join(entry.commands)
        for vip in VIPS:
            assert str(vip) in text, entry.router
        assert digits in re.sub("[.:-]", "", text).lower(), entry.router
    by_router = {entry.router: entry.commands for entry in entries}
    assert (
        by_router["Linux"][0] == "ip neigh replace 203.0.113.10 lladdr 02:bf:cb:00:71:0a nud permanent dev <interface>"
    )
    assert "03-bf-cb-00-71-0a" in static_entries(VIPS, replace(NIC, mode="multicast").cluster_mac)[-1].commands[0]
