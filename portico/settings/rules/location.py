"""Network location server, web probe, and the records of the corporate DNS."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from portico.settings.addresses import EVERY_IPV4, Address, AddressPlan, PrefixMapping, mapping_of
from portico.settings.facts import CertificateFile, Facts
from portico.settings.localise import single_interface, virtual_addresses
from portico.settings.located import (
    corp_connectivity_name,
    native_ipv6,
    nls_name,
    nls_port,
    serves_nls,
    web_probe_name,
    within_zone,
    zone,
)
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem
from portico.settings.rules.certificates import names_cover
from portico.settings.rules.nat64 import serves

NLS_IS_SERVER = CATALOGUE.add(
    "NLS_NAME_IS_SERVER",
    what="The network location server has the name of a server",
    why="{name} is {what}: clients must reach that name from outside or through the tunnel, and this one must not "
    "be reached there",
    resolution="Give it a name of its own, such as directaccess-nls.{domain}",
    example="network_location_server: {name: da1.corp.example.net}   # server.name: da1",
)
NLS_THROUGH_TUNNEL = CATALOGUE.add(
    "NLS_THROUGH_TUNNEL",
    what="Clients would find the network location server through the tunnel",
    why="the NRPT rule for '{name}' sends its name to DNS servers on the intranet, and a client that reaches it takes "
    "itself to be inside",
    resolution="Remove the rule; the exemption for the name is made by itself",
    example="nrpt: {rules: [{namespace: directaccess-nls.corp.example.net}]}",
)
NLS_NO_CERTIFICATE = CATALOGUE.add(
    "NLS_CERTIFICATE_NOT_NAMED",
    severity="warning",
    what="The network location server has no certificate",
    why="certificates.mode is imported and {setting} is empty, so the page is not served",
    resolution="Name the PEM file in {setting}, give network_location_server.url, or set its state to disabled",
    example="certificates: {mode: imported, ...}   # network_location_server.certificate is not set",
)
NLS_CERTIFICATE_IGNORED = CATALOGUE.add(
    "NLS_CERTIFICATE_IGNORED",
    severity="warning",
    what="A certificate of the network location server is named but not used",
    why="{why}, so {setting} has no effect",
    resolution="Remove {setting}",
    example="network_location_server: {certificate: /etc/ssl/nls.pem}   # certificates.mode: built-in",
)
NLS_CERTIFICATE_NAME = CATALOGUE.add(
    "NLS_CERTIFICATE_NAME",
    what="The certificate of the network location server is not for its name",
    why="{file} is for {names}, and clients ask for {name}",
    resolution="Get a certificate with {name} as its only subject alternative name",
    example="network_location_server: {certificate: /etc/ssl/www.pem, ...}   # for www.corp.example.net",
)
NLS_CERTIFICATE_SERVER = CATALOGUE.add(
    "NLS_CERTIFICATE_IS_SERVERS",
    what="The certificate of the network location server is also for a server",
    why="{file} has {other} among its names; its one subject must be no server's name",
    resolution="Get a certificate for {name} alone",
    example="network_location_server: {certificate: /etc/ssl/both.pem, ...}   # also for da.example.net",
)
NLS_CERTIFICATE_KEY = CATALOGUE.add(
    "NLS_CERTIFICATE_KEY_MISMATCH",
    what="The private key is not that of the network location server's certificate",
    why="{key} does not hold the key of {file}",
    resolution="Name the key that the certificate was requested with in network_location_server.key",
    example="network_location_server: {certificate: /etc/ssl/nls.pem, key: /etc/ssl/other.key}",
)
PORT_CONFLICT = CATALOGUE.add(
    "LOCATION_PORT_CONFLICT",
    what="Two listeners would have one port",
    why="{setting} is {port}, which {other} has on the same addresses",
    resolution="Choose another port; without {setting} the usual one is taken",
    example="web_probe: {port: 443}",
)
PORT_IN_USE = CATALOGUE.add(
    "LOCATION_PORT_IN_USE",
    severity="warning",
    what="A page for clients cannot be served",
    why="{process} listens on TCP port {port} of {address}, where {setting} wants to",
    resolution="Stop {process}, or set {setting}.state to disabled",
    example="web_probe: {state: enabled}   # a web server has port 80",
)
ZONE = CATALOGUE.add(
    "CORPORATE_DNS_ZONE",
    what="The zone does not hold the deployment's names",
    why="{name} is not in the zone {zone}",
    resolution="Correct corporate_dns.zone; without it the zone is deployment.domain",
    example="corporate_dns: {zone: other.example.net}",
)
NO_KEY = CATALOGUE.add(
    "CORPORATE_DNS_NO_KEY",
    what="DNS updates cannot be signed",
    why="corporate_dns.update is {update} and {setting} is empty",
    resolution="{resolution}",
    example="corporate_dns: {update: tsig}",
)
KEY_IGNORED = CATALOGUE.add(
    "CORPORATE_DNS_KEY_IGNORED",
    severity="warning",
    what="A key for DNS updates is named but not used",
    why="corporate_dns.update is {update}, so {setting} has no effect",
    resolution="Set corporate_dns.update to {other}, or remove {setting}",
    example="corporate_dns: {key_file: /etc/portico/dns.key}",
)
KEY_FILE = CATALOGUE.add(
    "CORPORATE_DNS_KEY_FILE",
    what="The key for DNS updates cannot be used",
    why="{file}: {detail}",
    resolution="{resolution}",
    example="corporate_dns: {update: tsig, key_file: /etc/portico/dns.key}   # everybody may read the file",
)
NO_PREFIX = CATALOGUE.add(
    "CORP_CONNECTIVITY_UNTRANSLATED",
    severity="warning",
    what="directaccess-corpConnectivityHost cannot be reached by clients",
    why="it is 127.0.0.1 on an intranet without IPv6, and no mapping of nat64.prefix_mapping covers that address",
    resolution="Add a mapping for 0.0.0.0/0 or 127.0.0.0/8, or set corporate_dns.native_ipv6 to true",
    example='nat64: {prefix_mapping: ["fd7c:1a2b:3c4d:7777::/96,10.0.0.0/8"]}   # an IPv4-only intranet',
)


def location_server(settings: Settings, facts: Facts) -> Iterator[Problem]:
    name = nls_name(settings)
    if name is None:
        return
    path = f"network_location_server.{'url' if settings.network_location_server.url is not None else 'name'}"
    for other, what in _server_names(settings).items():
        if name == other:
            yield NLS_IS_SERVER.problem(path, name=name, what=what, domain=settings.deployment.domain)
            break
    for index, rule in enumerate(settings.nrpt.rules):
        if rule.namespace == name and rule.dns_servers != []:
            yield NLS_THROUGH_TUNNEL.problem(f"nrpt.rules[{index}]", name=name)
    yield from _certificate(settings, facts, name)


def _server_names(settings: Settings) -> dict[str, str]:
    """Names that belong to servers or to the entrance, with what each is."""
    names = {settings.deployment.connect_to: "the ConnectTo name", web_probe_name(settings).lower(): "the web probe"}
    servers = [settings.server.name]
    if settings.load_balancing is not None:
        servers += [server.name for server in settings.load_balancing.servers]
    for server in servers:
        names[f"{server}.{settings.deployment.domain}"] = f"the name of the server {server}"
    return names


def _certificate(settings: Settings, facts: Facts, name: str) -> Iterator[Problem]:
    section = settings.network_location_server
    named = {"certificate": section.certificate, "key": section.key}
    imported = settings.certificates.mode == "imported"
    if imported and serves_nls(settings):
        for key, value in named.items():
            if value is None:
                setting = f"network_location_server.{key}"
                yield NLS_NO_CERTIFICATE.problem(setting, setting=setting)
        for found in facts.certificate_files:
            if found.setting == "network_location_server.certificate" and found.trouble is None:
                yield from _names(settings, found, name)
        return
    why = "certificates.mode is built-in" if not imported else "the page is on another web server"
    for key, value in named.items():
        if value is not None:
            setting = f"network_location_server.{key}"
            yield NLS_CERTIFICATE_IGNORED.problem(setting, setting=setting, why=why)


def _names(settings: Settings, found: CertificateFile, name: str) -> Iterator[Problem]:
    if found.key_matches is False:
        key = settings.network_location_server.key
        yield NLS_CERTIFICATE_KEY.problem("network_location_server.key", key=key, file=found.file)
    if not names_cover(found.names, name):
        names = ", ".join(found.names[:5]) or "no name"
        yield NLS_CERTIFICATE_NAME.problem(found.setting, file=found.file, names=names, name=name)
    servers = _server_names(settings)
    for other in dict.fromkeys([*found.names, *([found.common_name] if found.common_name else [])]):
        if other.lower() in servers and other.lower() != name:
            yield NLS_CERTIFICATE_SERVER.problem(found.setting, file=found.file, other=other, name=name)
            break


def ports(settings: Settings, facts: Facts) -> Iterator[Problem]:
    nls, probe = serves_nls(settings), settings.web_probe.state == "enabled"
    single = single_interface(settings)
    taken: dict[int, str] = {settings.ip_https.port: "ip_https.port"} if single else {}
    if nls:
        port = nls_port(settings)
        if port in taken:
            path = "network_location_server.port"
            yield PORT_CONFLICT.problem(path, setting=path, port=port, other=taken[port])
        taken.setdefault(port, "network_location_server.port")
    if probe and settings.web_probe.port in taken:
        path, port = "web_probe.port", settings.web_probe.port
        yield PORT_CONFLICT.problem(path, setting=path, port=port, other=taken[port])
    internal = facts.interface(settings.server.internal_interface)
    own: set[Address] = {address.ip for address in internal.addresses} if internal is not None else set()
    own |= set(virtual_addresses(settings))
    wanted = {nls_port(settings): "network_location_server"} if nls else {}
    if probe:
        wanted.setdefault(settings.web_probe.port, "web_probe")
    for other in facts.listeners:
        section = wanted.get(other.port)
        if other.protocol != "tcp" or section is None or not serves(other.address, own):
            continue
        yield PORT_IN_USE.problem(
            section,
            process=other.process or "a process",
            port=other.port,
            address=other.address,
            setting=section,
        )


def corporate_dns(settings: Settings, facts: Facts) -> Iterator[Problem]:
    section = settings.corporate_dns
    if section.state == "disabled":
        return
    if not within_zone(corp_connectivity_name(settings), zone(settings)):
        yield ZONE.problem("corporate_dns.zone", name=corp_connectivity_name(settings), zone=zone(settings))
    needs = {"tsig": ("key_file",), "gss-tsig": ("keytab", "principal"), "none": ()}
    hints = {
        "key_file": "Make one on the DNS server and name its file: tsig-keygen portico > dns.key",
        "keytab": "Export one on a domain controller: samba-tool domain exportkeytab, or ktpass",
        "principal": "Name whose key of the keytab is used; list them with: klist -k",
    }
    for update, keys in needs.items():
        for key in keys:
            path, given = f"corporate_dns.{key}", getattr(section, key) is not None
            if update == section.update and not given:
                yield NO_KEY.problem(path, update=update, setting=path, resolution=hints[key])
            elif update != section.update and given:
                yield KEY_IGNORED.problem(path, update=section.update, setting=path, other=update)
    for secret in facts.secret_files:
        if secret.trouble:
            yield KEY_FILE.problem(
                secret.setting, file=secret.file, detail=secret.trouble, resolution=secret.resolution
            )
    if not native_ipv6(settings) and settings.deployment.organisation_prefix.prefixlen == 48:
        default = settings.nat64.prefix or AddressPlan.of(settings.deployment.organisation_prefix).nat64
        mappings = settings.nat64.prefix_mapping or [PrefixMapping(default, EVERY_IPV4)]
        if mapping_of(mappings, IPv4Address("127.0.0.1")) is None:
            yield NO_PREFIX.problem("corporate_dns.native_ipv6")


RULES = (location_server, ports, corporate_dns)
