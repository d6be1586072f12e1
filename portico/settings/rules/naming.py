"""DNS64 and the name resolution policy table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from portico.settings.addresses import DnsServer
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

NO_UPSTREAM = CATALOGUE.add(
    "DNS64_NO_UPSTREAM",
    what="DNS64 has no server to ask",
    why="dns64.upstream_servers is empty",
    resolution="List the intranet's DNS servers, or set dns64.state to disabled",
    example="dns64: {upstream_servers: []}",
)
UPSTREAM_LOOP = CATALOGUE.add(
    "DNS64_UPSTREAM_LOOP",
    what="DNS64 would ask itself",
    why="{server} is the address DNS64 listens on",
    resolution="List the intranet's DNS servers instead",
    example='dns64: {address: "fd00:9::53", upstream_servers: ["fd00:9::53"]}',
)
UPSTREAM_DUPLICATE = CATALOGUE.add(
    "DNS64_UPSTREAM_DUPLICATE",
    severity="warning",
    what="A DNS server is listed twice",
    why="{server} would be asked again after it did not answer",
    resolution="Remove one of the two",
    example='dns64: {upstream_servers: ["10.0.0.53", "10.0.0.53"]}',
)
SYNTHESIS_CONFLICT = CATALOGUE.add(
    "DNS64_SYNTHESIS_CONFLICT",
    severity="warning",
    what="A setting of DNS64 has no effect",
    why="with only_send_a_query no AAAA record is ever seen, so every answer is synthesised",
    resolution="Set only_send_a_query to false, or always_synthesize to false",
    example="dns64: {only_send_a_query: true, always_synthesize: true}",
)
ONLY_A_WITHOUT_IPV4 = CATALOGUE.add(
    "DNS64_WITHOUT_NAT64",
    severity="warning",
    what="DNS64 synthesises nothing",
    why="NAT64 is disabled, so an IPv6 address made from an IPv4 one would lead nowhere; DNS64 only forwards",
    resolution="Set nat64.state to enabled if clients are to reach IPv4-only servers",
    example="nat64: {state: disabled}",
)
FORWARDING_DUPLICATE = CATALOGUE.add(
    "DNS64_FORWARDING_DUPLICATE",
    what="A domain is forwarded twice",
    why="'{suffix}' is given at {first} too, and only one of them could count",
    resolution="Put all its servers into one of the two and remove the other",
    example="dns64: {conditional_forwarding: [{suffix: x.example, servers: [...]}, {suffix: .X.example., ...}]}",
)
FORWARDING_EMPTY = CATALOGUE.add(
    "DNS64_FORWARDING_EMPTY",
    what="A domain is forwarded to no server",
    why="the list of servers for '{suffix}' is empty",
    resolution="List the DNS servers of '{suffix}', or remove the entry: dns64.upstream_servers are asked then",
    example="dns64: {conditional_forwarding: [{suffix: x.example, servers: []}]}",
)
ACCEPT_INTERNET = CATALOGUE.add(
    "DNS64_ACCEPT_INTERNET",
    what="DNS64 would answer the Internet",
    why="{interface} is the Internet interface, and an open resolver is used to attack others",
    resolution="Remove it from dns64.accept_interface; clients ask through their tunnel",
    example="dns64: {accept_interface: [eth0]}   # server.internet_interface: eth0",
)
ACCEPT_SINGLE = CATALOGUE.add(
    "DNS64_ACCEPT_SINGLE",
    severity="warning",
    what="DNS64 answers whoever reaches the one interface",
    why="{interface} is the interface to the Internet and to the intranet",
    resolution="Remove it from dns64.accept_interface unless a firewall in front keeps others away from port 53",
    example="dns64: {accept_interface: [eth0]}   # a server with one interface",
)
NRPT_DUPLICATE = CATALOGUE.add(
    "NRPT_DUPLICATE",
    what="A namespace is in the table twice",
    why="'{namespace}' is given at {first} too, and only one of them could count",
    resolution="Remove one of them",
    example="nrpt: {rules: [{namespace: .x.example}], exemptions: [.x.example]}",
)
NRPT_CONNECT_TO = CATALOGUE.add(
    "NRPT_CONNECT_TO",
    what="Clients would look for the server through the tunnel they have not opened yet",
    why="the rule for '{namespace}' sends the ConnectTo name to DNS servers on the intranet",
    resolution="Remove the rule; an exemption for the ConnectTo name is made by itself where one is needed",
    example="nrpt: {rules: [{namespace: da.example.net}]}   # connect_to: da.example.net",
)
NRPT_NO_SERVERS = CATALOGUE.add(
    "NRPT_NO_SERVERS",
    what="A rule has no DNS servers",
    why="'{namespace}' is to use the DNS64 address, but DNS64 is disabled and no upstream server has an IPv6 address",
    resolution="Enable DNS64, or name IPv6 DNS servers in dns64.upstream_servers or in the rule",
    example="dns64: {state: disabled, upstream_servers: [10.0.0.53]}",
)
NRPT_IPV4_SERVER = CATALOGUE.add(
    "NRPT_IPV4_SERVER",
    what="Clients cannot reach a DNS server of the table",
    why="{server} is an IPv4 address, and only IPv6 goes through the tunnel",
    resolution="Leave dns_servers out to use DNS64, or give the server's IPv6 address",
    example="nrpt: {rules: [{namespace: .x.example, dns_servers: [10.0.0.53]}]}",
)
NRPT_EVERYTHING = CATALOGUE.add(
    "NRPT_EVERYTHING",
    severity="warning",
    what="Clients resolve every name on the Internet through the tunnel",
    why="the rule for '.' covers all names",
    resolution="Keep it only if that is meant; it makes the intranet's DNS servers carry all of it",
    example='nrpt: {rules: [{namespace: "."}]}',
)


def dns64(settings: Settings, facts: Facts) -> Iterator[Problem]:
    dns = settings.dns64
    if dns.state == "disabled":
        return
    if not dns.upstream_servers:
        yield NO_UPSTREAM.problem("dns64.upstream_servers")
    organisation = settings.deployment.organisation_prefix
    own: IPv6Address | None = dns.address
    if own is None and organisation.prefixlen == 48:
        own = organisation.network_address + (0x3333 << 64) + 1
    yield from _servers("dns64.upstream_servers", dns.upstream_servers, own)
    seen: dict[str, str] = {}
    for index, entry in enumerate(dns.conditional_forwarding):
        path = f"dns64.conditional_forwarding[{index}]"
        if entry.suffix in seen:
            yield FORWARDING_DUPLICATE.problem(path, suffix=entry.suffix, first=seen[entry.suffix])
        seen.setdefault(entry.suffix, path)
        if not entry.servers:
            yield FORWARDING_EMPTY.problem(f"{path}.servers", suffix=entry.suffix)
        yield from _servers(f"{path}.servers", entry.servers, own)
    yield from _accepting(settings)
    if settings.nat64.state == "disabled":
        yield ONLY_A_WITHOUT_IPV4.problem("dns64.state")
    elif dns.only_send_a_query and dns.always_synthesize:
        yield SYNTHESIS_CONFLICT.problem("dns64.always_synthesize")


def _servers(path: str, servers: Sequence[DnsServer], own: IPv6Address | None) -> Iterator[Problem]:
    for index, server in enumerate(servers):
        if server.address == own and server.port == 53:
            yield UPSTREAM_LOOP.problem(f"{path}[{index}]", server=server)
        if server in servers[:index]:
            yield UPSTREAM_DUPLICATE.problem(f"{path}[{index}]", server=server)


def _accepting(settings: Settings) -> Iterator[Problem]:
    server = settings.server
    for index, name in enumerate(settings.dns64.accept_interface):
        if name == server.internet_interface:
            kind = ACCEPT_SINGLE if name == server.internal_interface else ACCEPT_INTERNET
            yield kind.problem(f"dns64.accept_interface[{index}]", interface=name)


def nrpt(settings: Settings, facts: Facts) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    entries = [(f"nrpt.rules[{index}]", rule.namespace) for index, rule in enumerate(settings.nrpt.rules)]
    entries += [(f"nrpt.exemptions[{index}]", namespace) for index, namespace in enumerate(settings.nrpt.exemptions)]
    for path, namespace in entries:
        if namespace in seen:
            yield NRPT_DUPLICATE.problem(path, namespace=namespace, first=seen[namespace])
        seen.setdefault(namespace, path)
    has_default = settings.dns64.state == "enabled" or any(
        server.address.version == 6 for server in settings.dns64.upstream_servers
    )
    for index, rule in enumerate(settings.nrpt.rules):
        path = f"nrpt.rules[{index}]"
        if rule.dns_servers is None and not has_default:
            yield NRPT_NO_SERVERS.problem(path, namespace=rule.namespace)
        if rule.namespace == settings.deployment.connect_to and rule.dns_servers != []:
            yield NRPT_CONNECT_TO.problem(path, namespace=rule.namespace)
        if rule.namespace == "." and rule.dns_servers != []:
            yield NRPT_EVERYTHING.problem(path)
        for number, server in enumerate(rule.dns_servers or []):
            if server.version == 4:
                yield NRPT_IPV4_SERVER.problem(f"{path}.dns_servers[{number}]", server=server)
    domain = f".{settings.deployment.domain}"
    if domain not in seen and not has_default:
        yield NRPT_NO_SERVERS.problem("nrpt.rules", namespace=domain)


RULES = (dns64, nrpt)
