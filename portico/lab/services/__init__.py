"""Programs that hosts of the lab run. Each is a function that writes their configuration and starts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from portico.lab.hosts import Host
from portico.lab.services.bind import corporate_dns, public_dns
from portico.lab.services.nginx import web_server
from portico.lab.topology import Topology

START: Mapping[str, Callable[[Host, Topology], None]] = {
    "corporate_dns": corporate_dns,
    "public_dns": public_dns,
    "nginx": web_server,
}
"""Names as they stand in `topology.Host.services`."""
