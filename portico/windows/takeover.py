"""A Portico settings document from what was exported of a Windows deployment, and a report of each setting. Pure.

Every property that says something ends in the report, as carried over, changed, or left with the reason: what an
administrator decided once must not be lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from portico.settings.addresses import AddressPlan
from portico.settings.location import NLS_LABEL
from portico.settings.model import SCHEMA_VERSION
from portico.windows import policy
from portico.windows.exported import Export, Exported
from portico.windows.registry_pol import RegistryValue

Outcome = Literal["carried over", "changed", "left", "missing"]

_ABSENT: Final[tuple[Any, ...]] = (None, "", [], {}, "NotConfigured", "Disabled", "None", "Uninstalled")


@dataclass(frozen=True)
class Entry:
    """One line of the report.

    Attributes:
        origin: file and property.
        setting: the key in the document, empty for what was left.
        text: what was done and why; for what was left also what to do.
    """

    outcome: Outcome
    origin: str
    value: str
    setting: str
    text: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class Takeover:
    """The document as plain data, and the report."""

    data: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def set(self, path: str, value: Any, origin: str, shown: object, text: str = "", *, changed: bool = False) -> None:
        """The first source that has a value for a setting wins; a second one that disagrees is reported."""
        section, _, key = path.rpartition(".")
        place = self.data.setdefault(section, {}) if section else self.data
        if key in place and place[key] != value:
            self.leave(origin, shown, f"{path} is {_shown(place[key])} already, from another export")
            return
        place[key] = value
        self.entries.append(Entry("changed" if changed else "carried over", origin, _shown(shown), path, text))

    def append(self, path: str, value: Any, origin: str, shown: object, text: str = "") -> None:
        """Adds to a list once."""
        section, _, key = path.rpartition(".")
        items: list[Any] = self.data.setdefault(section, {}).setdefault(key, [])
        if value not in items:
            items.append(value)
        self.entries.append(Entry("carried over", origin, _shown(shown), path, text))

    def leave(self, origin: str, shown: object, text: str) -> None:
        self.entries.append(Entry("left", origin, _shown(shown), "", text))

    def get(self, path: str) -> Any:
        """A value of the document so far, None when there is none."""
        section, _, key = path.rpartition(".")
        return self.data.get(section, {}).get(key) if section else self.data.get(key)


def take_over(exports: Iterable[Export], given: Mapping[str, Any] | None = None) -> Takeover:
    """The document and the report.

    Args:
        given: settings by path that the caller decides (interfaces have other names on Linux); they win.
    """
    result = Takeover({"schema_version": SCHEMA_VERSION})
    for path, value in (given or {}).items():
        result.set(path, value, "given", value)
    everything = list(exports)
    objects = [item for export in everything for item in export.objects]
    # Objects that say the deployment's domain come first: rules of other domains are extra rules.
    for item in sorted(objects, key=_order):
        _object(result, item)
    for export in everything:
        _registry(result, export.values)
    _derive(result)
    return result


def missing(result: Takeover) -> list[Entry]:
    """What a document needs and no export had."""
    needed = {
        "deployment.domain": "the DNS domain of the intranet: --set deployment.domain=corp.example.net",
        "deployment.connect_to": "the public name that clients dial: --set deployment.connect_to=da.example.net",
        "deployment.organisation_prefix": "the /48 of the organisation: --set deployment.organisation_prefix=PREFIX",
        "dns64.upstream_servers": "the DNS servers of the intranet: --dns-server ADDRESS",
        "server.name": "the server's name: --server-name NAME",
        "server.internet_interface": "the interface that clients reach: --internet-interface NAME",
        "server.internal_interface": "the interface to the intranet: --internal-interface NAME",
    }
    return [
        Entry("missing", "", "", path, f"No export has {text}")
        for path, text in needed.items()
        if result.get(path) is None
    ]


def _order(item: Exported) -> int:
    names = item.properties
    return 2 if _is_dns_rule(names) else 0 if "ConnectToAddress" in names else 1


def _is_dns_rule(properties: Mapping[str, Any]) -> bool:
    return "DnsSuffix" in properties and "DnsIPAddress" in properties


def _object(result: Takeover, item: Exported) -> None:
    names = dict(item.properties)
    if _is_dns_rule(names):
        _dns_rule(result, item, names)
        return
    for name, value in names.items():
        origin = f"{item.source}: {name}"
        # Read together with the others of its object, or by another name below.
        rule = _PROPERTIES.get(name)
        if rule is not None:
            if value not in _ABSENT:
                rule(result, origin, value)
        elif value not in _ABSENT:
            result.leave(origin, value, "Portico has no setting for it")


def _text(value: object) -> str:
    """A scalar, or the only one of a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value).strip()


def _list(value: object) -> list[Any]:
    items = value if isinstance(value, list) else re.split(r"[;,]", value) if isinstance(value, str) else [value]
    return [item.strip() if isinstance(item, str) else item for item in items if item not in _ABSENT]


def _connect_to(result: Takeover, origin: str, value: object) -> None:
    text = _text(value)
    host, port = _host(text)
    if not host:
        result.leave(origin, text, "it is neither a name nor an address")
        return
    result.set("deployment.connect_to", host, origin, text)
    if port not in (None, 443):
        result.set("ip_https.port", port, origin, text)


def _host(text: str) -> tuple[str | None, int | None]:
    """Host and port of a URL, or of a bare name; (None, None) for what is neither."""
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _client_prefix(result: Takeover, origin: str, value: object) -> None:
    prefix = _prefix(value)
    if prefix is None or prefix.prefixlen not in (59, 64):
        result.leave(origin, value, "a client prefix is a /64, or a /59 with load balancing")
        return
    result.set("ip_https.client_prefix", str(prefix), origin, value)


def _intranet(result: Takeover, origin: str, value: object) -> None:
    for item in _list(value):
        prefix = _prefix(item)
        if prefix is None:
            result.leave(origin, item, "it is not an IPv6 prefix")
        else:
            result.append("addresses.intranet_prefixes", str(prefix), origin, item)


def _prefix(value: object) -> IPv6Network | None:
    try:
        return IPv6Network(_text(value), strict=False)
    except ValueError:
        return None


def _nls(result: Takeover, origin: str, value: object) -> None:
    """The servers' own page unless another one was given: then the page stays where it is."""
    text = _text(value)
    host, _ = _host(text)
    if host is None:
        result.leave(origin, value, "it is not a URL")
    elif host.startswith(NLS_LABEL):
        result.set("network_location_server.name", host, origin, value, "the new servers have the page")
    else:
        result.set("network_location_server.url", text, origin, value)


def _domain(result: Takeover, origin: str, value: object) -> None:
    r"""`CORP.EXAMPLE.NET\DirectAccess Client Settings`: the domain of the GPO is the intranet's."""
    domain = _text(value).partition("\\")[0].strip().lower().lstrip(".")
    if "." in domain:
        if result.get("deployment.domain") in (None, domain):
            result.set("deployment.domain", domain, origin, value)
    else:
        result.leave(origin, value, "it names no DNS domain")


def _left(text: str) -> Callable[[Takeover, str, object], None]:
    return lambda result, origin, value: result.leave(origin, value, text)


def _interface(setting: str) -> Callable[[Takeover, str, object], None]:
    def take(result: Takeover, origin: str, value: object) -> None:
        given = result.get(f"server.{setting}")
        if given is not None:
            result.entries.append(
                Entry("changed", origin, _shown(value), f"server.{setting}", f"is {given} on the new server")
            )
        else:
            result.leave(origin, value, "network interfaces have other names on Linux")

    return take


def _force_tunnel(result: Takeover, origin: str, value: object) -> None:
    if _text(value) == "Enabled":
        result.leave(origin, value, "all traffic through the tunnel is not supported; intranet and Internet stay apart")
    else:
        _derived_by_portico(result, origin, value)


def _install_type(result: Takeover, origin: str, value: object) -> None:
    """With ManageOut the intranet reaches clients and clients reach nothing but what answers."""
    if _text(value) == "ManageOut":
        result.set("access.intranet", [], origin, value, "clients are managed and reach nothing themselves")
    else:
        _derived_by_portico(result, origin, value)


def _derived_by_portico(result: Takeover, origin: str, value: object) -> None:
    result.entries.append(Entry("carried over", origin, _shown(value), "", "made automatically"))


def _virtual(result: Takeover, origin: str, value: object) -> None:
    side = "internet" if "Internet" in origin else "internal"
    addresses = ", ".join(map(str, _list(value)))
    result.leave(
        origin,
        value,
        f"give one server {addresses} on its {side} side; 'portico lb enable' makes them virtual addresses",
    )


def _servers(result: Takeover, origin: str, value: object) -> None:
    names = [str(item.get("HostName", "")) if isinstance(item, Mapping) else str(item) for item in _list(value)]
    names = [name.partition(".")[0].lower() for name in names if name]
    if names and result.get("server.name") is None:
        result.set("server.name", names[0], origin, ", ".join(names), "the first server; add the others after")
    if len(names) > 1:
        result.leave(origin, ", ".join(names[1:]), "add them one by one: portico lb add SERVER")


_PROPERTIES: Final[dict[str, Callable[[Takeover, str, object], None]]] = {
    "ConnectToAddress": _connect_to,
    "InternetInterface": _interface("internet_interface"),
    "InternalInterface": _interface("internal_interface"),
    "ClientIPv6Prefix": _client_prefix,
    "InternalIPv6Prefix": _intranet,
    "ClientGpoName": _domain,
    "ServerGpoName": _domain,
    "NlsUrl": _nls,
    "Url": _nls,
    "InternetVirtualIPAddress": _virtual,
    "InternalVirtualIPAddress": _virtual,
    "NlbNodeStatus": _servers,
    "ForceTunnel": _force_tunnel,
    "SslCertificate": _left(
        "export it with its key, then: portico settings set certificates.mode=imported "
        "certificates.server_certificate=FILE certificates.server_key=FILE"
    ),
    "NlsCertificate": _left("a key does not travel in an export; export the certificate with its key"),
    "IPsecRootCertificate": _left("there is no IPsec; clients authenticate to IP-HTTPS with certificates of the CA"),
    "IntermediateRootCertificate": _left("there is no IPsec"),
    "UserAuthentication": _left("user authentication is chosen anew"),
    "ComputerCertAuthentication": _left("clients always authenticate with a certificate"),
    "TeredoState": _left("Teredo is not offered; clients use IP-HTTPS"),
    "ClientSecurityGroupNameList": _left("who is a client is decided by enrolment: portico ca token create"),
    "MgmtServer": _left("management servers are entered anew"),
    "VpnStatus": _left("the VPN is configured separately"),
    "IPAddressRangeList": _left("address pools of the VPN are configured separately"),
    "IPv6Prefix": _left("the prefix of the VPN is configured separately"),
    "RadiusServerList": _left("RADIUS servers are configured separately"),
    "DAStatus": _derived_by_portico,
    "DAInstallType": _install_type,
    "ThirdPartyLoadBalancer": _left("an external load balancer is configured anew"),
    "SecureNameQueryFallback": _left("names outside the tunnel are resolved as the client's network does"),
}


def _dns_rule(result: Takeover, item: Exported, names: Mapping[str, Any]) -> None:
    origin = f"{item.source}: DnsSuffix"
    suffix = _text(names["DnsSuffix"]).lower()
    servers = [str(server) for server in _list(names["DnsIPAddress"])]
    if proxy := names.get("ProxyServer"):
        result.leave(f"{item.source}: ProxyServer", proxy, f"web proxy for {suffix}: there is none in the tunnel")
    _rule(result, origin, suffix, servers)


def _rule(result: Takeover, origin: str, suffix: str, servers: list[str]) -> None:
    domain = result.get("deployment.domain")
    if domain is None and servers and suffix.startswith("."):
        result.set("deployment.domain", suffix[1:], origin, suffix)
        domain = suffix[1:]
    if not servers and suffix == result.get("network_location_server.name"):
        result.entries.append(Entry("carried over", origin, suffix, "", "made automatically for the page"))
        return
    if not servers:
        result.append("nrpt.exemptions", suffix, origin, suffix)
        return
    if suffix == f".{domain}":
        result.entries.append(
            Entry("carried over", origin, f"{suffix} at {', '.join(servers)}", "", "made automatically for the domain")
        )
    else:
        result.append("nrpt.rules", {"namespace": suffix}, origin, f"{suffix} at {', '.join(servers)}", "asks DNS64")
    _dns64(result, origin, servers)


def _dns64(result: Takeover, origin: str, servers: list[str]) -> None:
    try:
        first = ip_address(servers[0])
    except ValueError:
        result.leave(origin, servers[0], "it is not an address")
        return
    if isinstance(first, IPv6Address) and result.get("dns64.address") is None:
        result.data.setdefault("dns64", {})["address"] = str(first)


def _registry(result: Takeover, values: tuple[RegistryValue, ...]) -> None:
    rules: dict[str, dict[str, Any]] = {}
    for value in values:
        origin = f"registry.pol: {value.name}"
        key = value.key.lower()
        if key.startswith(policy.DNS_POLICY.lower() + "\\"):
            rules.setdefault(key, {})[value.name] = value.data
        elif (take := _REGISTRY.get(value.name)) is not None:
            take(result, origin, value.data)
        elif value.name.startswith("Probe") and str(value.data).lower().startswith(
            "http://directaccess-webprobehost", 5
        ):
            _derived_by_portico(result, origin, value.data)
        elif value.name.startswith("DTE"):
            _tunnel_endpoint(result, origin, value.data)
        elif value.data not in (0, "", "Disabled", "Default"):
            result.leave(origin, value.data, "Portico has no setting for it")
    for rule in rules.values():
        for suffix in rule.get("Name") or ():
            servers = [part for part in str(rule.get("DirectAccessDNSServers") or "").split(";") if part]
            _rule(result, "registry.pol: DnsPolicyConfig", str(suffix).lower(), servers)


def _probe_content(result: Takeover, origin: str, value: object) -> None:
    try:
        address = IPv6Address(_text(value))
    except ValueError:
        result.leave(origin, value, "it is not an IPv6 address")
        return
    if address == IPv6Address("::1"):
        result.set("nat64.state", "disabled", origin, value, "the intranet has IPv6 only")
    elif int(address) & 0xFFFFFFFF == 0x7F000001:
        result.set("nat64.prefix", str(IPv6Network((int(address) >> 32 << 32, 96))), origin, value)
    else:
        result.leave(origin, value, "it is no NAT64 form of 127.0.0.1")


def _tunnel_endpoint(result: Takeover, origin: str, value: object) -> None:
    try:
        address = IPv6Address(_text(value).removeprefix("PING:"))
    except ValueError:
        result.leave(origin, value, "it is not PING: and an address")
        return
    if result.get("ip_https.client_prefix") is None:
        prefix = str(IPv6Network((int(address) >> 64 << 64, 64)))
        result.set("ip_https.client_prefix", prefix, origin, value, "the endpoints lie in it")


def _site_prefixes(result: Takeover, origin: str, value: object) -> None:
    for item in _list(value):
        prefix = _prefix(item)
        if prefix is not None and prefix.prefixlen < 96:
            result.append("addresses.intranet_prefixes", str(prefix), origin, item)


_REGISTRY: Final[dict[str, Callable[[Takeover, str, object], None]]] = {
    "IPHTTPS_ClientUrl": _connect_to,
    "DnsProbeContent": _probe_content,
    "SitePrefixes": _site_prefixes,
    "DomainLocationDeterminationUrl": _nls,
    "WebProbeUrl": _derived_by_portico,
    "DnsProbeHost": _derived_by_portico,
    "IPHTTPS_ClientState": _derived_by_portico,
    "DnsSecureNameQueryFallback": _left("names outside the tunnel are resolved as the client's network does"),
    "DirectAccessQueryOrder": _derived_by_portico,
    "EnableDAForAllNetworks": _derived_by_portico,
    "ShowUI": _derived_by_portico,
    "FriendlyName": _left("give it when you export: portico client export --friendly-name"),
    "SupportEmail": _left("give it when you export: portico client export --support-email"),
    "Force_Tunneling": _force_tunnel,
}


def _derive(result: Takeover) -> None:
    """The organisation's /48 from what lies in it; what that derives anyway is left to be derived."""
    prefix = result.get("ip_https.client_prefix")
    if result.get("deployment.organisation_prefix") is None and prefix is not None:
        organisation = IPv6Network(prefix).supernet(new_prefix=48)
        result.set("deployment.organisation_prefix", str(organisation), "client prefix", prefix, "its /48")
    organisation = result.get("deployment.organisation_prefix")
    try:
        plan = AddressPlan.of(IPv6Network(str(organisation)))
    except ValueError:
        return
    derived = {
        "network_location_server.name": f"{NLS_LABEL}.{result.get('deployment.domain')}",
        "nat64.prefix": str(plan.nat64),
        "dns64.address": str(plan.dns64),
        "addresses.intranet_prefixes": [str(plan.intranet)],
    }
    for path, value in derived.items():
        section, _, key = path.rpartition(".")
        if result.get(path) == value:
            del result.data[section][key]
    result.data = {section: content for section, content in result.data.items() if content != {}}


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
