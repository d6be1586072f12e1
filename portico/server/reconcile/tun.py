"""TUN devices: multi-queue, with virtio headers, one queue descriptor per worker, held by the agent.

The devices are not persistent: they live as long as the agent holds a queue. A gateway that dies leaves them, with
their addresses and routes, to its successor.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import IPRoute

from portico.errors import PorticoError, Unavailable
from portico.server.reconcile.wanted import Change, Device

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

_IFF_UP = 0x1


@dataclass
class Queues:
    """An open TUN device."""

    name: str
    index: int
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


@dataclass(frozen=True)
class LinkState:
    index: int
    up: bool
    mtu: int


def open_queues(device: Device) -> Queues:
    """Creates the device with all its queues.

    Raises:
        Unavailable: the kernel refuses; the cause is in the message.
    """
    queues = Queues(device.name, 0)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE
    request = struct.pack("16sH22x", device.name.encode(), flags)
    try:
        for _ in range(device.queues):
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            queues.fds.append(fd)
            fcntl.ioctl(fd, _TUNSETIFF, request)
        # The device makes link-local addresses of its own otherwise; it must be told before it comes up.
        Path(f"/proc/sys/net/ipv6/conf/{device.name}/addr_gen_mode").write_text("1")
        with IPRoute() as ip:
            found = ip.link_lookup(ifname=device.name)
        queues.index = found[0]
    except FileNotFoundError as error:
        queues.close()
        raise Unavailable(
            f"Cannot create the device {device.name}",
            why=f"{error.filename} does not exist",
            resolution="Load the module: modprobe tun; in a container, pass /dev/net/tun into it. IPv6 must be on",
        ) from None
    except (OSError, IndexError) as error:
        queues.close()
        raise Unavailable(
            f"Cannot create the device {device.name}",
            why=str(error),
            resolution="It needs root (CAP_NET_ADMIN) and no other program may hold a device of this name",
        ) from None
    except PorticoError:
        queues.close()
        raise
    return queues


def observe(ip: IPRoute, names: Sequence[str]) -> dict[str, LinkState]:
    """The named links that exist."""
    found = {}
    for link in ip.get_links():
        name = link.get_attr("IFLA_IFNAME")
        if name in names:
            found[name] = LinkState(link["index"], bool(link["flags"] & _IFF_UP), link.get_attr("IFLA_MTU"))
    return found


def plan(wanted: Sequence[Device], state: Mapping[str, LinkState]) -> list[Change]:
    """Devices to create, and those to bring up or give their MTU."""
    changes = []
    for device in wanted:
        link = state.get(device.name)
        if link is None:
            changes.append(Change("devices", "add", device.name, after=f"mtu {device.mtu}", key=device))
            continue
        if link.mtu != device.mtu:
            changes.append(Change("devices", "set", f"{device.name} mtu", str(link.mtu), str(device.mtu), device))
        if not link.up:
            changes.append(Change("devices", "set", f"{device.name} state", "down", "up", device))
    return changes


def apply(ip: IPRoute, changes: Sequence[Change], state: Mapping[str, LinkState]) -> None:
    """Configures devices that exist; creating them is the holder's business (`open_queues`)."""
    for change in changes:
        device = change.key
        if isinstance(device, Device) and device.name in state:
            ip.link("set", index=state[device.name].index, mtu=device.mtu, state="up")
