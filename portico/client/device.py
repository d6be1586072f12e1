"""The client's TUN device: made by the root agent, held by it across lives of the child, gone with it.

Addresses and routes come from the server's router advertisements and are made by the kernel. The device keeps them
while the child redials, so that inner connections survive. Its interface identifiers are stable for each prefix (RFC
7217) with a secret of this computer: a client that comes back, even after a restart of the agent, has the same
addresses.

Everything here blocks for milliseconds and must not run in an event loop's thread (pyroute2 has a loop of its own).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.errors import Conflict, Unavailable

log = logging.getLogger("portico.client.device")

INTERFACE = "portico-iphttps"
MTU = 1280
RULE_PRIORITIES = (6464, 6465)
"""Policy rules for the server's own addresses: past the tunnel's routes, or nowhere."""
LINK_GROUP = 6464
"""Device group of the tunnel, by which policy rules leave its routes out."""

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

_SYSCTLS = Path("/proc/sys/net/ipv6/conf")
_RT_SCOPE_LINK = 253
_FR_ACT_TO_TBL = 1
_FR_ACT_UNREACHABLE = 7
_MAIN_TABLE = 254


@dataclass(frozen=True)
class DeviceState:
    """What the kernel has for the tunnel."""

    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0


class Tunnel:
    """The device and its one queue.

    Args:
        secret: 16 bytes, kept by the caller, from which the kernel makes the interface identifiers.
        default_router: whether a default route that the server advertises is taken.
    """

    def __init__(self, name: str = INTERFACE, *, secret: bytes, default_router: bool = False) -> None:
        self.name = name
        self.fd = -1
        self.index = 0
        self.link_local = ""
        self._secret = IPv6Address(secret)
        self._default_router = default_router

    @property
    def is_open(self) -> bool:
        """Whether the device exists."""
        return self.fd >= 0

    def open(self) -> None:
        """Makes the device, sets it up and waits for its link-local address.

        Raises:
            Conflict: code TUNNEL_IN_USE, another program holds a device of this name.
            Unavailable: code TUNNEL_NOT_MADE, the kernel refuses.
        """
        try:
            self.fd = self._attach()
            self._set_sysctls()
            with IPRoute() as ip:
                self.index = ip.link_lookup(ifname=self.name)[0]
                ip.link("set", index=self.index, mtu=MTU, group=LINK_GROUP, state="up")
            self._wait_for_link_local()
        except Unavailable:
            self.close()
            raise
        except (OSError, NetlinkError, IndexError) as error:
            self.close()
            if isinstance(error, OSError) and error.errno == errno.EBUSY:
                raise Conflict(
                    f"Cannot make the device {self.name}",
                    why="another program holds it",
                    resolution="Is another agent running? systemctl status portico-client",
                    code="TUNNEL_IN_USE",
                ) from None
            raise _not_made(self.name, str(error)) from None

    def close(self) -> None:
        """Removes the device with its addresses and routes."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.link_local = ""

    def state(self) -> DeviceState:
        """Addresses, routes and counters as the kernel has them now."""
        if not self.is_open:
            return DeviceState()
        try:
            with IPRoute() as ip:
                addresses = sorted(
                    str(message.get_attr("IFA_ADDRESS"))
                    for message in ip.get_addr(family=socket.AF_INET6, index=self.index)
                    if message["scope"] != _RT_SCOPE_LINK
                )
                routes = sorted(
                    _route_text(message.get_attr("RTA_DST"), message["dst_len"])
                    for message in ip.get_routes(family=socket.AF_INET6, oif=self.index, table=_MAIN_TABLE)
                    if message.get_attr("RTA_DST") not in ("fe80::", "ff00::")
                )
                # Not from /sys: that shows the network namespace in which it was mounted.
                counters = next(iter(ip.get_links(self.index))).get_attr("IFLA_STATS64") or {}
        except (NetlinkError, OSError, StopIteration) as error:
            log.warning("device=%s cannot be read: %s", self.name, error)
            return DeviceState()
        return DeviceState(
            tuple(addresses),
            tuple(dict.fromkeys(routes)),
            int(counters.get("rx_bytes", 0)),
            int(counters.get("tx_bytes", 0)),
        )

    def _attach(self) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(
                fd, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
            )
        except OSError:
            os.close(fd)
            raise
        return fd

    def _set_sysctls(self) -> None:
        directory = _SYSCTLS / self.name
        values = {
            "disable_ipv6": "0",
            "forwarding": "0",
            # 2: also on a computer that forwards on other interfaces (containers, virtual machines).
            "accept_ra": "2",
            "accept_ra_rt_info_max_plen": "128",
            "accept_ra_defrtr": "1" if self._default_router else "0",
            "accept_ra_pinfo": "1",
            "autoconf": "1",
            "accept_redirects": "0",
            "use_tempaddr": "0",
            "router_solicitations": "-1",
            # Also switches the generation of addresses to RFC 7217.
            "stable_secret": str(self._secret.exploded),
        }
        for name, value in values.items():
            path = directory / name
            try:
                path.write_text(value)
            except OSError as error:
                raise _not_made(self.name, f"{path}: {error.strerror}") from None

    def _wait_for_link_local(self) -> None:
        for _ in range(100):
            with IPRoute() as ip:
                for message in ip.get_addr(family=socket.AF_INET6, index=self.index):
                    if message["scope"] == _RT_SCOPE_LINK:
                        self.link_local = str(message.get_attr("IFA_ADDRESS"))
                        return
            time.sleep(0.02)
        raise _not_made(self.name, "the kernel gives it no link-local IPv6 address")


def announce(addresses: Sequence[str]) -> None:
    """Tells the router of the link whose these addresses are: gratuitous neighbour advertisements (RFC 9131).

    The router forgot them with the last connection, and a download waits for packets that only it can send: without
    this the client may have nothing to say for minutes.
    """
    index = socket.if_nametoindex(INTERFACE)
    for address in addresses:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sender.bind((address, 0))
            # type 136, no flag: nothing is overridden and nobody asked; the kernel fills in the checksum
            sender.sendto(struct.pack("!BBHI", 136, 0, 0, 0) + IPv6Address(address).packed, ("ff02::2", 0, 0, index))


def protect(addresses: Sequence[str]) -> None:
    """Keeps the way to the server's IPv6 addresses out of the tunnel, whatever routes are advertised; replaces earlier.

    For each address one rule looks into the main table without the routes of the tunnel's device group, and one behind
    it says unreachable instead of letting a later rule find them.
    """
    unprotect()
    wanted = [address for address in addresses if ":" in address]
    if not wanted:
        return
    with IPRoute() as ip:
        for address in wanted:
            common = {"family": socket.AF_INET6, "dst": address, "dst_len": 128}
            ip.rule(
                "add",
                priority=RULE_PRIORITIES[0],
                action=_FR_ACT_TO_TBL,
                table=_MAIN_TABLE,
                FRA_SUPPRESS_IFGROUP=LINK_GROUP,
                **common,
            )
            ip.rule("add", priority=RULE_PRIORITIES[1], action=_FR_ACT_UNREACHABLE, **common)


def unprotect() -> None:
    """Removes the rules of `protect`, also those of an agent that was killed."""
    with IPRoute() as ip:
        for rule in list(ip.get_rules(family=socket.AF_INET6)):
            priority, destination = rule.get_attr("FRA_PRIORITY"), rule.get_attr("FRA_DST")
            if priority in RULE_PRIORITIES and destination is not None:
                with contextlib.suppress(NetlinkError):
                    ip.rule(
                        "del",
                        family=socket.AF_INET6,
                        priority=priority,
                        dst=destination,
                        dst_len=rule["dst_len"],
                        action=rule["action"],
                        table=rule.get_attr("FRA_TABLE") or 0,
                    )


def _route_text(destination: object, length: int) -> str:
    return f"{destination or '::'}/{length}"


def _not_made(name: str, why: str) -> Unavailable:
    return Unavailable(
        f"Cannot make the device {name}",
        why=why,
        resolution="It needs root, /dev/net/tun (modprobe tun) and IPv6 (sysctl net.ipv6.conf.all.disable_ipv6)",
        code="TUNNEL_NOT_MADE",
    )
