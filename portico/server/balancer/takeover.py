"""The hardware address of interfaces that have the cluster MAC themselves (unicast with takeover). Blocking; each call
is an ioctl or two.

The filter that masks the source of frames must be there before an interface gets the cluster MAC, and go after it has
its own again: one frame with the cluster MAC as its source, and the switch has learned it.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

from portico.balancing.nlb import mac, wire
from portico.balancing.nlb.packet import ADDRESS_RESOLUTION, PacketSocket
from portico.balancing.nlb.plan import NicPlan
from portico.errors import PorticoError, Unavailable
from portico.server.balancer.link import interface_mac

log = logging.getLogger("portico.balancer")

_SIOCSIFHWADDR, _SIOCETHTOOL = 0x8924, 0x8946
_GPERMADDR = 0x20  # ETHTOOL_GPERMADDR in linux/ethtool.h
_ARPHRD_ETHER = 1


class HardwareAddresses:
    """Which interfaces have the cluster MAC now, and what they had before."""

    def __init__(self) -> None:
        self._before: dict[str, bytes] = {}

    def own(self, interface: str) -> bytes:
        """The address that an interface has without load balancing. Raises Unavailable.

        What a process left that was killed is told from its first bytes: then it is the one that the device was made
        with, or none where it has no such address (virtual ones), which is said in the log.
        """
        if interface in self._before:
            return self._before[interface]
        found = interface_mac(interface)
        if not found.startswith(mac.UNICAST_PREFIX):
            return found
        permanent = permanent_mac(interface)
        if permanent is None:
            log.error(
                "interface=%s has a cluster MAC and no permanent address: it keeps %s", interface, mac.text(found)
            )
            return found
        self._before[interface] = permanent
        return permanent

    def take(self, nics: Iterable[NicPlan]) -> None:
        """Gives the interfaces of a plan the cluster MAC where it says so, and tells the network about their own
        addresses, which it knows under the former one. Raises Unavailable."""
        for nic in nics:
            if nic.takeover and interface_mac(nic.interface) != nic.cluster_mac:
                self._before[nic.interface] = nic.mac
                set_mac(nic.interface, nic.cluster_mac)
                announce(nic, nic.cluster_mac)

    def give_back(self, nics: Iterable[NicPlan], *, everything: bool = False) -> None:
        """Gives interfaces their own addresses back that a plan does not take over, or all of them; goes on where one
        fails, which is said in the log."""
        plans = {nic.interface: nic for nic in nics}
        for interface, own in list(self._before.items()):
            nic = plans.get(interface)
            if nic is not None and nic.takeover and not everything:
                continue
            try:
                set_mac(interface, own)
            except PorticoError as error:
                log.error("%s", error)
                continue
            del self._before[interface]
            if nic is not None:
                announce(nic, own)


def permanent_mac(interface: str) -> bytes | None:
    """The address that a device was made with; None where it has none."""
    request = ctypes.create_string_buffer(struct.pack("II", _GPERMADDR, 32) + bytes(32))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, suppress(OSError):
        fcntl.ioctl(asking, _SIOCETHTOOL, struct.pack("16sQ16x", interface.encode(), ctypes.addressof(request)))
        size = struct.unpack_from("I", request, 4)[0]
        found = request.raw[8 : 8 + size]
        return found if len(found) == 6 and any(found) else None
    return None


def set_mac(interface: str, address: bytes) -> None:
    """Changes an interface's hardware address. Raises Unavailable."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            request = struct.pack("16sH6s16x", interface.encode(), _ARPHRD_ETHER, address)
            fcntl.ioctl(asking, _SIOCSIFHWADDR, request)
    except OSError as error:
        raise Unavailable(
            f"{interface} cannot be given the hardware address {mac.text(address)}",
            why=error.strerror or str(error),
            resolution="Its driver or its hypervisor must allow that (MAC address changes, forged transmits); without "
            "that set load_balancing.takeover to false",
            code="LB_TAKEOVER_REFUSED",
        ) from None


def announce(nic: NicPlan, address: bytes) -> None:
    """Tells the network under which hardware address this server's own addresses are from now on."""
    with suppress(PorticoError):  # caches find out by themselves, later
        sending = PacketSocket(nic.interface, ADDRESS_RESOLUTION)
        try:
            source = nic.source_mac if address == nic.cluster_mac else address
            sending.send(
                [
                    wire.Arp(1, address, own, wire.UNKNOWN, own).frame(wire.BROADCAST, source)
                    if own.version == 4
                    else wire.group_frame(wire.Advertisement(own, wire.ALL_NODES, own, address), source)
                    for own in nic.dedicated
                ]
            )
        finally:
            sending.close()
