"""What a mode asks of the network around a server, with the commands to paste. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from portico.balancing.nlb import mac
from portico.balancing.nlb.mac import igmp_group
from portico.balancing.nlb.plan import NicPlan
from portico.balancing.nlb.platform import Platform
from portico.balancing.nlb.routers import static_entries


@dataclass(frozen=True)
class Commands:
    """Something to paste, and where."""

    where: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """One thing to know about a mode on this network.

    Attributes:
        severity: an error means that it cannot work; a warning that it will not until something is done; a note that
            some equipment needs it.
    """

    code: str
    severity: Literal["error", "warning", "note"]
    what: str
    why: str
    commands: tuple[Commands, ...] = ()


def advise(nic: NicPlan, platform: Platform, *, bridge: bool = False) -> list[Advice]:
    """Everything that this mode needs here, the worst first. `bridge`: whether the interface is a Linux bridge."""
    found = [*_platform(nic, platform), *_interface(nic, bridge), *_switch(nic, platform), *_routers(nic)]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda advice: order[advice.severity])


def _platform(nic: NicPlan, platform: Platform) -> list[Advice]:
    if not platform.layer2:
        return [
            Advice(
                "NLB_NO_LAYER2",
                "error",
                f"Network load balancing does not work in {platform.title}",
                "its network delivers a frame only to the address it has assigned, to one machine; there is no segment"
                " that all servers hear; run one server there, or the cluster on machines of your own",
            )
        ]
    if platform.name == "vmware" and nic.mode == "unicast":
        return [
            Advice(
                "NLB_VMWARE_UNICAST",
                "warning",
                "Unicast needs settings of the VMware port group; multicast needs none",
                "the host tells the physical switch where a virtual NIC's address is (RARP, at power-on, vMotion and"
                " failover), after which one server gets everything; and a virtual NIC hears registered addresses only",
                (
                    Commands("the cluster, instead", ("portico lb mode multicast",)),
                    Commands(
                        "VMware PowerCLI, for the port group of the servers",
                        (
                            'Get-VirtualPortGroup -Name "<port group>" | Get-NicTeamingPolicy |'
                            " Set-NicTeamingPolicy -NotifySwitches $false",
                            'Get-VirtualPortGroup -Name "<port group>" | Get-SecurityPolicy |'
                            " Set-SecurityPolicy -ForgedTransmits $true -MacChanges $true -AllowPromiscuous $true",
                        ),
                    ),
                ),
            )
        ]
    if platform.name == "hyperv":
        return [
            Advice(
                "NLB_HYPERV_SPOOFING",
                "warning",
                "The virtual network adapter must be allowed to use the cluster's hardware address",
                "without it the virtual switch delivers no frame for that address here, and takes none from it; with"
                " takeover set it before, or the adapter loses its connection",
                (
                    Commands(
                        "PowerShell on the Hyper-V host, for each server",
                        ('Set-VMNetworkAdapter -VMName "<server>" -MacAddressSpoofing On',),
                    ),
                ),
            )
        ]
    if platform.name == "openstack":
        return [
            Advice(
                "NLB_OPENSTACK_PORT_SECURITY",
                "warning",
                "The port of each server must be allowed to use the VIPs and the cluster's hardware address",
                "port security drops frames of addresses that are not the port's",
                (
                    Commands(
                        "openstack, for each server's port",
                        tuple(
                            "openstack port set --allowed-address"
                            f" ip-address={vip},mac-address={mac.text(nic.source_mac)} <port>"
                            for vip in nic.vips
                        ),
                    ),
                ),
            )
        ]
    return []


def _interface(nic: NicPlan, bridge: bool) -> list[Advice]:
    if bridge and nic.acceptance == "filter" and not nic.takeover:
        return [
            Advice(
                "NLB_BRIDGE_FILTER",
                "error",
                f"{nic.interface} is a bridge, which does not hear the cluster's hardware address",
                "a Linux bridge delivers to itself what its own table says, not what its filter says; give Portico an"
                " interface that is no bridge, such as a veth of which the other end is a port of the bridge",
                (
                    Commands(
                        "this server; Portico's interface is then portico-nlb",
                        (
                            "ip link add portico-nlb type veth peer name portico-nlb-port",
                            f"ip link set portico-nlb-port master {nic.interface} up",
                            "ip link set portico-nlb up",
                        ),
                    ),
                ),
            )
        ]
    return []


def _switch(nic: NicPlan, platform: Platform) -> list[Advice]:
    found = []
    cluster = mac.text(nic.cluster_mac)
    if nic.mode == "igmp":
        found.append(
            Advice(
                "NLB_IGMP_SNOOPING",
                "note",
                f"The switch must snoop IGMP ({igmp_group(nic.primary)}) and prune by hardware address ({cluster})",
                "each server reports the group itself every 60 s; without snooping the switch floods, as in multicast",
                (
                    Commands("Cisco IOS", ("ip igmp snooping", "ip igmp snooping querier")),
                    Commands("Juniper Junos", ("set protocols igmp-snooping vlan <vlan>",)),
                ),
            )
        )
    if nic.mode == "igmp" and platform.name in ("kvm", "hardware", "openstack"):
        found.append(
            Advice(
                "NLB_LINUX_BRIDGE_IGMP",
                "note" if platform.name == "hardware" else "warning",
                "A Linux bridge does not confine frames of IGMP mode to the servers by itself",
                "it looks up the IP destination, which is the VIP and no group",
                (
                    Commands(
                        "the hypervisor, for each port that is not a server's",
                        ("bridge link set dev <port> mcast_flood off",),
                    ),
                ),
            )
        )
    if nic.mode == "unicast":
        found.append(
            Advice(
                "NLB_UNICAST_FLOODS",
                "note",
                f"The switch floods frames for {cluster} to every port of the VLAN",
                "it never learns where the address is, which is how all servers hear it; give the servers a VLAN of"
                " their own, and do not let the switch block unknown unicast on their ports",
                (Commands("Cisco IOS, on the servers' ports", ("no switchport block unicast",)),),
            )
        )
    return found


def _routers(nic: NicPlan) -> list[Advice]:
    if nic.mode == "unicast":
        return [
            Advice(
                "NLB_UNICAST_ROUTER",
                "note",
                f"A router may send frames for {mac.text(nic.cluster_mac)} to the port of one server only",
                "answers for the VIP name that address and come from another one, the server's own; a switch that"
                " routes must flood such frames like any switch, which some do only when told",
                (Commands("Dell OS9", ("ip vlan-flooding",)),),
            )
        ]
    entries = static_entries(nic.vips, nic.cluster_mac)
    return [
        Advice(
            "NLB_STATIC_NEIGHBOUR",
            "note",
            f"Routers may refuse to learn {mac.text(nic.cluster_mac)}, and need it by hand",
            "RFC 1812 section 3.3.2 tells routers not to believe a multicast hardware address of a unicast address;"
            " check the commands against the manual of your router's release",
            tuple(Commands(entry.router, entry.commands) for entry in entries),
        )
    ]


def modes_that_work(platform: Platform) -> Collection[str]:
    """The modes to offer on a platform, the best first; none where only an external load balancer works."""
    if not platform.layer2:
        return ()
    return ("multicast", "igmp") if platform.name == "vmware" else ("unicast", "multicast", "igmp")
