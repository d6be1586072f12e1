"""What the machine says of itself, for the wizard's defaults. Blocking, and never fails: what is not found is asked."""

from __future__ import annotations

import secrets
import socket
from ipaddress import ip_address
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.client.resolv_conf import ResolvConf, parse
from portico.management.wizard.questions import Detected
from portico.server.facts import read_facts
from portico.transition.addressing import generate_organisation_prefix

_LIMIT = 64 << 10
_RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
"""systemd-resolved names itself in the second, and the servers that it asks in the first."""


def detect() -> Detected:
    """Looks at interfaces, routes, resolver and names of this machine."""
    resolver = _resolver()
    name, _, domain = socket.gethostname().partition(".")
    if not domain:
        domain = socket.getfqdn().partition(".")[2]
    return Detected(
        read_facts(),
        host_name=name,
        organisation_prefix=str(generate_organisation_prefix(secrets.token_bytes)),
        domain="" if domain in ("localdomain", "local") else domain,
        default_interface=_default_interface(),
        resolvers=tuple(text for text in resolver.nameservers if not ip_address(text).is_loopback),
        search=tuple(text for text in resolver.search if text != "."),
    )


def _resolver() -> ResolvConf:
    for path in _RESOLV_CONF:
        try:
            with path.open("rb") as file:
                found = parse(file.read(_LIMIT).decode("utf-8", "replace"))
        except OSError:
            continue
        if found.nameservers:
            return found
    return ResolvConf()


def _default_interface() -> str | None:
    try:
        with IPRoute() as ip:
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
            routes = [route for route in ip.get_default_routes(family=socket.AF_INET) if route.get_attr("RTA_OIF")]
            best = min(routes, key=lambda route: route.get_attr("RTA_PRIORITY") or 0, default=None)
            return str(names[best.get_attr("RTA_OIF")]) if best is not None else None
    except (NetlinkError, OSError, KeyError):
        return None
