"""The listening sockets of the pages, on the server's intranet addresses, kept across their process' deaths.

Each is bound to an address and not to an interface: VIPs are on `lo`, and a client's probe comes out of NAT64 there. On
the Internet interface these addresses are refused by the packet filter.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from portico.errors import Conflict, NotPermitted, PorticoError, Unavailable
from portico.location.pages import Site
from portico.settings.addresses import Address
from portico.settings.effective import Effective
from portico.settings.located import nls_port, serves_nls
from portico.settings.model import Settings

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_BACKLOG = 128
_FIRST_WORD = 5
"""Seconds that a silent connection stays with the kernel."""


@dataclass(frozen=True, order=True)
class Place:
    """Where one site is listened for."""

    site: Site
    address: Address = field(compare=False)
    port: int
    text: str

    @classmethod
    def of(cls, site: Site, address: Address, port: int) -> Place:
        return cls(site, address, port, str(address))


def places(local: Settings, values: Effective) -> tuple[Place, ...]:
    """Every place, from a localised document. Pure."""
    found: list[Place] = []
    for address in values.internal_addresses:
        if serves_nls(local):
            found.append(Place.of(Site.NLS, address, nls_port(local)))
        if local.web_probe.state == "enabled":
            found.append(Place.of(Site.WEB_PROBE, address, local.web_probe.port))
    return tuple(sorted(found))


@dataclass
class Listeners:
    """What is open.

    Attributes:
        problems: why a place is not, by place.
    """

    sockets: dict[Place, socket.socket] = field(default_factory=dict)
    problems: dict[Place, PorticoError] = field(default_factory=dict)

    def follow(self, wanted: tuple[Place, ...]) -> bool:
        """Opens and closes until these places are open, as far as possible; whether anything changed.

        A place that cannot be had costs no other one, and is tried again at the next call.
        """
        changed = False
        for place in [place for place in self.sockets if place not in wanted]:
            self.sockets.pop(place).close()
            changed = True
        self.problems = {}
        for place in wanted:
            if place in self.sockets:
                continue
            try:
                self.sockets[place] = _open(place)
                changed = True
            except PorticoError as error:
                self.problems[place] = error
        return changed

    def of(self, site: Site) -> list[int]:
        """Descriptors of one site."""
        return [item.fileno() for place, item in sorted(self.sockets.items()) if place.site is site]

    def close(self) -> None:
        for item in self.sockets.values():
            item.close()
        self.sockets.clear()
        self.problems.clear()


def _open(place: Place) -> socket.socket:
    family = socket.AF_INET6 if place.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The entrance has the same port on the Internet interface, also with SO_REUSEPORT. The address decides.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _FIRST_WORD)
        listener.bind((place.text, place.port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refused(place, error) from None
    return listener


def _refused(place: Place, error: OSError) -> PorticoError:
    what = "network location server" if place.site is Site.NLS else "web probe"
    text = f"The {what} is not served on TCP port {place.port} of {place.address}"
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotPermitted(text, why=why, resolution="Run as root")
    if error.errno == 98:  # EADDRINUSE
        resolution = f"Find who has it: ss -lntp 'sport = :{place.port}'"
        return Conflict(text, why=why, resolution=resolution, code="PORT_IN_USE")
    return Unavailable(text, why=why, resolution="Check the addresses of the internal interface: ip addr")
