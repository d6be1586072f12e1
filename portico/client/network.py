"""Notices that the network under the tunnel has changed, and that the computer has slept.

Netlink says that something changed; whether it matters is decided by asking the kernel how it would reach the server
now. Router advertisements that only refresh lifetimes, addresses of other interfaces and the tunnel's own come and go
without a redial.

The functions that ask the kernel block for about a millisecond and must not run in an event loop's thread (pyroute2 has
a loop of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.client.resolver.core import is_private

log = logging.getLogger("portico.client.network")

# linux/rtnetlink.h: LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_SETTLE = 0.15
"""Seconds in which the messages of one change arrive: addresses and routes follow the link."""
_IFF_LOWER_UP = 0x10000

SLEPT = 2.0
"""Seconds of difference between the clocks that count as sleep rather than as their reading one after the other."""


@dataclass(frozen=True)
class Path:
    """How the kernel would reach one address; None for what it has not."""

    address: str
    interface: int | None
    gateway: str | None
    source: str | None
    carrier: bool

    @property
    def usable(self) -> bool:
        """Whether packets can leave on it."""
        return self.interface is not None and self.carrier


def paths_to(addresses: Sequence[str]) -> tuple[Path, ...]:
    """The paths to some addresses, now."""
    found = []
    with IPRoute() as ip:
        for address in addresses:
            try:
                route = next(iter(ip.route("get", dst=address)))
            except (NetlinkError, StopIteration, OSError):
                found.append(Path(address, None, None, None, False))
                continue
            index = route.get_attr("RTA_OIF")
            carrier = False
            if index is not None:
                with contextlib.suppress(NetlinkError, StopIteration):
                    carrier = bool(next(iter(ip.get_links(index)))["flags"] & _IFF_LOWER_UP)
            found.append(Path(address, index, route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_PREFSRC"), carrier))
    return tuple(found)


def private_network() -> bool:
    """Whether every global IPv4 address of this computer is private (RFC 1918)."""
    with IPRoute() as ip:
        addresses = [m.get_attr("IFA_ADDRESS") for m in ip.get_addr(family=socket.AF_INET) if m["scope"] == 0]
    return bool(addresses) and all(is_private(str(address)) for address in addresses)


class SleepDetector:
    """Compares the clock that runs on while the computer sleeps with the one that stands still."""

    def __init__(self, boottime: float, monotonic: float) -> None:
        self._difference = boottime - monotonic

    def slept(self, boottime: float, monotonic: float) -> float:
        """Seconds slept since the last call; 0 for less than `SLEPT`."""
        difference = boottime - monotonic
        slept, self._difference = difference - self._difference, difference
        return slept if slept >= SLEPT else 0.0


class Watch:
    """Calls back when the paths to the server have changed or the computer has slept.

    Args:
        addresses: returns what is dialled (the server's addresses, or the proxy's).
        on_change: called with a reason after a change that matters.
        on_any: called after any change of addresses, routes or links (the resolver's servers may have changed).
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[str]],
        on_change: Callable[[str], None],
        on_any: Callable[[], None],
        *,
        interval: float = 1.0,
    ) -> None:
        self.paths: tuple[Path, ...] = ()
        self._addresses = addresses
        self._on_change = on_change
        self._on_any = on_any
        self._interval = interval
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watches until cancelled."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
            netlink.setblocking(False)
            netlink.bind((0, _GROUPS))
            loop = asyncio.get_running_loop()
            loop.add_reader(netlink, self._readable, netlink)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow())
                    tasks.create_task(self._clocks())
            finally:
                loop.remove_reader(netlink)

    async def look(self) -> bool:
        """Asks the kernel for the paths again; True when they are not what they were."""
        paths = await asyncio.to_thread(paths_to, list(self._addresses()))
        changed = paths != self.paths
        self.paths = paths
        return changed

    def _readable(self, netlink: socket.socket) -> None:
        while True:
            try:
                netlink.recv(65_536)
            except BlockingIOError:
                break
            except OSError as error:  # ENOBUFS: so many messages that some were lost, which is a change as well
                log.debug("netlink: %s", error)
                break
        self._changed.set()

    async def _follow(self) -> None:
        await self.look()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE)
            self._changed.clear()
            before = self.paths
            if await self.look():
                log.info("paths before=%s now=%s", before, self.paths)
                if {path.address for path in before} == {path.address for path in self.paths}:
                    self._on_change("the network changed")
            self._on_any()

    async def _clocks(self) -> None:
        detector = SleepDetector(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())
        while True:
            await asyncio.sleep(self._interval)
            slept = detector.slept(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())
            if slept:
                log.info("slept seconds=%.0f", slept)
                self._on_change(f"the computer slept for {slept:.0f} s")


async def lookup(host: str, port: int) -> tuple[str, ...]:
    """The addresses of a name by the machine's own means (hosts file, DNS). Raises OSError."""
    with contextlib.suppress(ValueError):
        return (str(ip_address(host)),)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
