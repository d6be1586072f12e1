"""The order in which a cluster is made: single server, prefix, load balancing, further servers. Rules about changes.

A change that skips a step would leave servers in the document that nobody prepared, and addresses with clients that
nobody told them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from portico.settings.addresses import CLUSTER_CLIENT_PREFIX_LENGTH
from portico.settings.localise import default_client_prefix
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

SINGLE_FIRST = CATALOGUE.add(
    "ORDER_SINGLE_SERVER_FIRST",
    what="A cluster begins as a single server",
    why="nothing is installed yet, and the document has load balancing already",
    resolution="Install it without the section load_balancing, then: portico lb enable",
    example="portico settings apply cluster.yaml   # on a server without settings",
)
PREFIX_FIRST = CATALOGUE.add(
    "ORDER_PREFIX_FIRST",
    what="The client prefix changes before load balancing is enabled",
    why="{before} becomes {after} in the change that enables load balancing; clients and the intranet's routers follow "
    "a new prefix, and nobody could tell that from a fault of the cluster",
    resolution="Set ip_https.client_prefix to {after} first, let the routers follow, then enable load balancing",
    example='load_balancing: {...}   # and ip_https: {client_prefix: "2001:db8:1:1000::/59"}, in one change',
)
SERVERS_LATER = CATALOGUE.add(
    "ORDER_SERVERS_LATER",
    what="Load balancing begins with one server",
    why="the document enables it with {count}: {names}; the others do not know the cluster's keys",
    resolution="Enable it with {first} alone, then add each: portico lb add NAME",
    example="load_balancing: {servers: [{name: da1, ...}, {name: da2, ...}]}   # while one server serves alone",
)
FIRST_IS_SELF = CATALOGUE.add(
    "ORDER_FIRST_SERVER",
    what="The first server of a cluster is the one that serves alone",
    why="load balancing is enabled with {name}, and {own} serves",
    resolution="Begin with {own}: portico lb enable, there",
    example="load_balancing: {servers: [{name: da2, ...}]}   # while da1 serves alone",
)

ChangeRule = Callable[[Settings | None, Settings], Iterable[Problem]]


def single_server_first(before: Settings | None, after: Settings) -> Iterator[Problem]:
    if before is None and after.load_balancing is not None:
        yield SINGLE_FIRST.problem("load_balancing")


def prefix_first(before: Settings | None, after: Settings) -> Iterator[Problem]:
    if before is None or before.load_balancing is not None or after.load_balancing is None:
        return
    was = before.ip_https.client_prefix or default_client_prefix(before)
    now = after.ip_https.client_prefix or default_client_prefix(after)
    # In the /59 around the /64 there was nobody gets a new address. Other lengths are a problem of their own.
    if was is None or now is None or now.prefixlen != CLUSTER_CLIENT_PREFIX_LENGTH or was.subnet_of(now):
        return
    yield PREFIX_FIRST.problem("ip_https.client_prefix", before=was, after=now)


def servers_later(before: Settings | None, after: Settings) -> Iterator[Problem]:
    if before is None or before.load_balancing is not None or after.load_balancing is None:
        return
    servers = after.load_balancing.servers
    if len(servers) > 1:
        names = ", ".join(server.name for server in servers)
        yield SERVERS_LATER.problem("load_balancing.servers", count=len(servers), names=names, first=before.server.name)
    elif servers and servers[0].name != before.server.name:
        yield FIRST_IS_SELF.problem("load_balancing.servers[0]", name=servers[0].name, own=before.server.name)


CHANGE_RULES: tuple[ChangeRule, ...] = (single_server_first, prefix_first, servers_later)


def verify_change(before: Settings | None, after: Settings) -> list[Problem]:
    """What forbids going from one document (None: nothing configured) to the other in one step. Pure."""
    return [problem for rule in CHANGE_RULES for problem in rule(before, after)]
