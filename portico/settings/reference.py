"""docs/settings.md, written from the model: every key with its type, default, meaning and Windows counterpart. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from portico.settings import (
    accounting,
    alerts,
    assistant,
    backup,
    cluster_store,
    kinds,
    load_balancing,
    location,
    management,
    model,
    remote_access,
    urls,
    users,
)
from portico.settings.document import dump, load
from portico.settings.model import Settings

_NAMES: Final = (
    (kinds.HostName, "DNS name"),
    (kinds.ShortName, "name without a dot"),
    (kinds.PublicHost, "DNS name or address"),
    (kinds.Namespace, "name or .suffix"),
    (kinds.Suffix, "DNS name"),
    (kinds.Exclusion, "name, .suffix or IPv6 prefix"),
    (kinds.InterfaceName, "interface"),
    (kinds.Ipv6Prefix, "IPv6 prefix"),
    (kinds.AnyPrefix, "prefix"),
    (kinds.Destination, "`any` or prefix"),
    (kinds.Ipv4, "IPv4 address"),
    (kinds.Ipv6, "IPv6 address"),
    (kinds.AnyAddress, "address"),
    (kinds.HostAddress, "address/length"),
    (kinds.VirtualAddress, "`all` or address"),
    (kinds.PortPool, "address and ports"),
    (kinds.Mapping, "IPv6 /96 and IPv4 prefix"),
    (kinds.Upstream, "address, or [address]:port"),
    (kinds.DirectoryPath, "directory"),
    (kinds.FilePath, "file"),
    (kinds.SecretPath, "file"),
    (kinds.CertificatePath, "file"),
    (kinds.KeyPath, "file"),
    (kinds.CrlPath, "file"),
    (management.Word, "text"),
    (management.Url, "URL"),
    (cluster_store.Endpoint, "https://host:port"),
    (cluster_store.Generation, "hex number"),
    (cluster_store.Serial, "hex number"),
    (accounting.StoreLimit, "time as `12m`"),
    (remote_access.Range, "first and last address"),
    (backup.TimeOfDay, "time as `02:30`"),
    (urls.HttpsUrl, "https:// URL"),
    (alerts.SyslogAddress, "address of a syslog receiver"),
    (urls.PageUrl, "https URL"),
    (location.Principal, "Kerberos principal"),
    (assistant.ProbeText, r"`HTTP:URL`, `PING:HOST` or `FILE:\\HOST\SHARE\FILE`"),
    (assistant.Email, "mail address"),
)

_WINDOWS: Final = {
    "accounting.inbox": "`Set-RemoteAccessAccounting -EnableAccountingType`",
    "accounting.store_limit": "`Set-RemoteAccessInboxAccountingStore -StoreLimit`",
    "deployment.domain": "`Add-DAClientDnsConfiguration -DnsSuffix`",
    "deployment.connect_to": "`Set-DAServer -ConnectToAddress`",
    "ip_https.client_prefix": "`Set-DAServer -ClientIPv6Prefix`",
    "addresses.intranet_prefixes": "`Set-DAServer -InternalIPv6Prefix`",
    "nat64.state": "`Set-NetNatTransitionConfiguration -State`",
    "nat64.prefix": "`Set-NetNatTransitionConfiguration -PrefixMapping`",
    "nat64.prefix_mapping": "`Set-NetNatTransitionConfiguration -PrefixMapping`",
    "nat64.ipv4_address_port_pool": "`Set-NetNatTransitionConfiguration -IPv4AddressPortPool`",
    "nat64.tcp_mapping_timeout_seconds": "`Set-NetNatTransitionConfiguration -TcpMappingTimeoutSeconds`",
    "dns64.state": "`Set-NetDnsTransitionConfiguration -State`",
    "dns64.accept_interface": "`Set-NetDnsTransitionConfiguration -AcceptInterface`",
    "dns64.prefix_mapping": "`Set-NetDnsTransitionConfiguration -PrefixMapping`",
    "dns64.only_send_a_query": "`Set-NetDnsTransitionConfiguration -OnlySendAQuery`",
    "dns64.always_synthesize": "`Set-NetDnsTransitionConfiguration -AlwaysSynthesize`",
    "dns64.latency_milliseconds": "`Set-NetDnsTransitionConfiguration -LatencyMilliseconds`",
    "dns64.exclusion_list": "`Set-NetDnsTransitionConfiguration -ExclusionList`",
    "dns64.conditional_forwarding[].suffix": "`Add-DnsServerConditionalForwarderZone -Name`",
    "dns64.conditional_forwarding[].servers": "`Add-DnsServerConditionalForwarderZone -MasterServers`",
    "nrpt.rules": "`Add-DAClientDnsConfiguration`",
    "nrpt.rules[].namespace": "`Add-DAClientDnsConfiguration -DnsSuffix`",
    "nrpt.rules[].dns_servers": "`Add-DAClientDnsConfiguration -DnsIPAddress`",
    "nrpt.exemptions": "`Add-DAClientDnsConfiguration` without `-DnsIPAddress`",
    "load_balancing.internet_virtual_addresses": "`Set-RemoteAccessLoadBalancer -InternetVirtualIPAddress`",
    "load_balancing.internal_virtual_addresses": "`Set-RemoteAccessLoadBalancer -InternalVirtualIPAddress`",
    "load_balancing.mode": "`Set-NlbCluster -OperationMode`",
    "load_balancing.port_rules[].first_port": "`Add-NlbClusterPortRule -StartPort`",
    "load_balancing.port_rules[].last_port": "`Add-NlbClusterPortRule -EndPort`",
    "load_balancing.port_rules[].virtual_address": "`Add-NlbClusterPortRule -IP`",
    "load_balancing.port_rules[].protocol": "`Add-NlbClusterPortRule -Protocol`",
    "load_balancing.port_rules[].mode": "`Add-NlbClusterPortRule -Mode`",
    "load_balancing.port_rules[].affinity": "`Add-NlbClusterPortRule -Affinity`",
    "load_balancing.port_rules[].timeout_minutes": "`Add-NlbClusterPortRule -Timeout`",
    "load_balancing.servers[].name": "`Add-RemoteAccessLoadBalancerNode -RemoteAccessServer`",
    "load_balancing.servers[].priority": "`Set-NlbClusterNode -HostPriority`",
    "load_balancing.servers[].weight": "`Set-NlbClusterPortRuleNodeWeight -LoadWeight`",
    "load_balancing.servers[].internet_interface": "`Add-RemoteAccessLoadBalancerNode -InternetInterface`",
    "load_balancing.servers[].internal_interface": "`Add-RemoteAccessLoadBalancerNode -InternalInterface`",
    "load_balancing.servers[].internet_dedicated_addresses": (
        "`Set-RemoteAccessLoadBalancer -InternetDedicatedIPAddress`"
    ),
    "load_balancing.servers[].internal_dedicated_addresses": (
        "`Set-RemoteAccessLoadBalancer -InternalDedicatedIPAddress`"
    ),
    "load_balancing.servers[].vpn_ip_address_ranges": "`Add-RemoteAccessLoadBalancerNode -VpnIPAddressRange`",
    "vpn.state": "`Install-RemoteAccess -VpnType`",
    "vpn.ip_address_assignment": "`Set-VpnIPAddressAssignment -IPAssignmentMethod`",
    "vpn.ip_address_ranges": "`Set-VpnIPAddressAssignment -IPAddressRange`",
    "vpn.ipv6_prefix": "`Set-VpnIPAddressAssignment -IPv6Prefix`",
    "teredo.state": "`Set-DAServer -TeredoState`",
    "authentication.two_factor": "`Set-DAServer -UserAuthentication TwoFactor`",
    "remote_clients.force_tunnel": "`Set-DAClient -ForceTunnel`",
    "remote_clients.downlevel": "`Set-DAClient -Downlevel`",
    "network_location_server.url": "`Set-DANetworkLocationServer -Url`",
    "network_location_server.certificate": "`Set-DANetworkLocationServer -NlsOnDAServer -Certificate`",
    "certificates.server_certificate": "`Set-RemoteAccess -SslCertificate`",
    "certificates.client_ca": "`Set-DAServer -IPsecRootCertificate`",
}

EXAMPLE: Final = """\
schema_version: 1
deployment:
  domain: corp.example.net
  connect_to: da.example.net
  organisation_prefix: fd7c:1a2b:3c4d::/48
server:
  name: da1
  internet_interface: eth0
  internal_interface: eth1
  internal_ipv4: 10.0.0.2
ip_https:
  port: 443
  max_clients: 2000
  minimum_tls: "1.3"
addresses:
  intranet_prefixes: ["fd7c:1a2b:3c4d:1::/64", "2001:db8:20::/48"]
nat64:
  prefix_mapping: ["fd7c:1a2b:3c4d:7777::/96,0.0.0.0/0", "fd7c:1a2b:3c4d:7778::/96,10.9.0.0/16"]
  ipv4_address_port_pool: ["10.0.0.2,20000-60999"]
  static_bindings:                  # 10.0.0.2 port 50022 is the SSH server of a client
    - {protocol: tcp, client: "fd7c:1a2b:3c4d:1000::5", client_port: 22, address: 10.0.0.2, port: 50022}
  log_bindings: true
  tcp_mapping_timeout_seconds: 14400
dns64:
  only_send_a_query: false          # the intranet has IPv6 servers
  exclusion_list: [.voice.corp.example.net]
  upstream_servers: [10.0.0.53, "[fd7c:1a2b:3c4d:1::53]:53"]
  conditional_forwarding:
    - {suffix: branch.example.org, servers: [10.9.0.53]}
nrpt:
  rules:
    - namespace: .lab.example.org   # resolved by DNS64, like the deployment's domain
    - namespace: .branch.example.net
      dns_servers: ["2001:db8:20::53"]
  exemptions: [.voip.corp.example.net]
network_location_server:
  certificate: /etc/portico/nls.pem
  key: /etc/portico/nls.key
web_probe: {port: 80}
corporate_dns:
  update: tsig
  key_file: /etc/portico/dns.key
access:
  intranet: ["fd7c:1a2b:3c4d:1::/64", "2001:db8:20::/48", 10.0.0.0/16]
  manage_out: {from: ["fd7c:1a2b:3c4d:1::/64", 10.0.0.9/32]}
  client_to_client: false
certificates:
  mode: imported
  server_certificate: /etc/portico/server.pem
  server_key: /etc/portico/server.key
  client_ca: [/etc/portico/clients-ca.pem]
  crl: [/etc/portico/clients-ca.crl]
management:
  oidc:
    issuer: https://login.example.net
    client_id: portico
  roles:
    - {source: oidc_group, name: network-operators, role: operator}
    - {source: certificate, name: backup, role: viewer}
alerts:
  webhooks: [{url: "https://alerts.corp.example.net/portico", secret_file: /etc/portico/alerts.secret}]
  syslog: [{address: "unix:/dev/log"}]
drift: repair
"""

BALANCED_EXAMPLE: Final = """\
load_balancing:
  mode: unicast
  internet_virtual_addresses: [203.0.113.11/24]
  internal_virtual_addresses: [10.0.0.2/24, "fd7c:1a2b:3c4d:1::2/64"]
  servers:
    - name: da1
      priority: 1
      internet_dedicated_addresses: [203.0.113.12/24]
      internal_dedicated_addresses: [10.0.0.12/24, "fd7c:1a2b:3c4d:1::12/64"]
    - name: da2
      priority: 2
      internet_dedicated_addresses: [203.0.113.13/24]
      internal_dedicated_addresses: [10.0.0.13/24, "fd7c:1a2b:3c4d:1::13/64"]
"""

_HEAD = """\
# Settings

The settings are one YAML document. `portico settings show` prints it, `portico settings plan FILE` checks it and shows
what it would change, `portico settings apply FILE` puts it in force, `portico settings edit` does all three in an
editor. Keys that are left out have their default. Unknown keys are refused. What `plan` and `apply` can report is in
[problems.md](problems.md).

`null` means derived. `portico settings show --effective` shows every derived value and where it came from. P stands for
the first 48 bits of `deployment.organisation_prefix`: with `fd7c:1a2b:3c4d::/48`, `P:3333::1` is
`fd7c:1a2b:3c4d:3333::1`.

*Windows* names the cmdlet and parameter that sets the same thing on Windows Server; an empty cell means that Windows
has no such parameter.
"""


def reference_markdown() -> str:
    """The whole of docs/settings.md."""
    lines = [_HEAD]
    top = []
    for name, info, annotation in _fields(Settings):
        section = _section(annotation)
        if section is None:
            top.append((name, info, annotation))
            continue
        lines += [f"## {name}", "", _sentence(section.__doc__), "", *_table(name, section)]
        if name == "access":
            lines += _manage_out()
        if name == "management":
            lines += ["Of `management.oidc`:", "", *_table("management.oidc", management.Oidc)]
        if name == "load_balancing":
            lines += _load_balancing()
    lines += ["## The document", "", *_rows(top, "")]
    each = _rows(list(_fields(users.ManagementServer)), "management_servers[].")
    lines += ["Each of `management_servers`:", "", *each]
    lines += ["## A full example", "", "```yaml", EXAMPLE.rstrip(), "```", "", *_smallest()]
    return "\n".join(lines)


def _smallest() -> list[str]:
    kept = {"schema_version:", "deployment:", "server:", "  domain:", "  connect_to:", "  organisation_prefix:"}
    kept |= {"  name:", "  internet_interface:", "  internal_interface:"}
    text = [line for line in EXAMPLE.splitlines() if any(line.startswith(word) for word in kept)]
    smallest = "\n".join([*text, "dns64:", "  upstream_servers: [10.0.0.53]"])
    whole = dump(load(smallest))
    return [
        "## The smallest document, and what is stored",
        "",
        "This is enough:",
        "",
        "```yaml",
        smallest,
        "```",
        "",
        "and is stored, with every default, as:",
        "",
        "```yaml",
        whole.rstrip(),
        "```",
        "",
    ]


def _manage_out() -> list[str]:
    return [
        "`manage_out: {from: [prefixes]}` takes IPv6 prefixes, and IPv4 prefixes where `nat64.static_bindings` give",
        "IPv4-only hosts a way to a client. Answers to what a client asked are always let through.",
        "",
    ]


def _load_balancing() -> list[str]:
    return [
        "The section is null while one server serves alone; `portico lb enable` makes it. It is the same on every",
        "server, and each reads its own part: what `server` says of name, interfaces and addresses is replaced by its",
        "entry of `servers`. Its DIPs are on its interfaces; the VIPs are on `lo` of every server.",
        "",
        "Shared by all servers: the VIPs, the ConnectTo name, the DNS64 address (`P:3333::1`; each server answers its",
        "own clients) and, with `client_addresses: roaming`, the first /64 of the client prefix with the tunnel",
        "endpoints `P:1000::1` and `P:1000::2`. Of each server alone: its DIPs, NAT64's addresses (its first internal",
        "IPv4 DIP; a VIP in `nat64.ipv4_address_port_pool` stands for that DIP) and, with `per-server`, one /64 of the",
        "client prefix with the endpoints `::1` and `::2` in it.",
        "",
        "```yaml",
        BALANCED_EXAMPLE.rstrip(),
        "```",
        "",
    ]


def _table(path: str, section: type[BaseModel]) -> list[str]:
    lines = _rows(list(_fields(section)), f"{path}.")
    for name, _, annotation in _fields(section):
        inner = _list_item(annotation)
        item = _section(inner) if inner is not None else None
        if item is not None:
            lines += [f"Each of `{path}.{name}`:", "", *_rows(list(_fields(item)), f"{path}.{name}[].")]
    return lines


def _rows(fields: list[tuple[str, FieldInfo, Any]], prefix: str) -> list[str]:
    lines = ["| key | type | default | meaning | Windows |", "|---|---|---|---|---|"]
    for name, info, annotation in fields:
        cells = [f"`{name}`", _type(annotation, info), _default(info), _meaning(info), _WINDOWS.get(prefix + name, "")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Any]]:
    hints = get_type_hints(section, include_extras=True)
    for name, info in section.model_fields.items():
        yield info.alias or name, info, hints[name]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation stands for, also where there may be none (null)."""
    if get_origin(annotation) in (Union, UnionType):
        sections = [_section(part) for part in get_args(annotation) if part is not NoneType]
        return sections[0] if len(sections) == 1 else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _list_item(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def _type(annotation: Any, info: FieldInfo | None = None) -> str:
    for alias, text in _NAMES:
        if annotation == alias:
            return text
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        field = next((item for item in arguments[1:] if isinstance(item, FieldInfo)), None)
        return _type(arguments[0], field)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(part, info) for part in arguments if part is not NoneType)
    if origin is list:
        return f"list of: {_type(arguments[0])}"
    if annotation is bool:
        return "`true` or `false`"
    if annotation is int:
        return _range(info)
    if annotation in (model.NrptRule, load_balancing.PortRule):
        return "rule, see below"
    if annotation in (model.StaticBinding, model.ConditionalForwarding, load_balancing.ClusterServer):
        return "entry, see below"
    if annotation in (management.RoleMapping, users.ManagementServer):
        return "entry, see below"
    if annotation is management.Oidc:
        return "section, see below"
    if annotation in (alerts.Webhook, alerts.Syslog):
        return "receiver, see below"
    if annotation is cluster_store.Witness:
        return "`{name, address, fingerprint, serial}`"
    if annotation is model.ManageOut:
        return "`{from: [prefixes]}`"
    raise TypeError(f"{annotation} has no name for people: add it to _NAMES")


def _range(info: FieldInfo | None) -> str:
    bounds = {
        kind: value
        for item in (info.metadata if info is not None else ())
        for kind in ("ge", "le")
        if (value := getattr(item, kind, None)) is not None
    }
    return f"{bounds['ge']} to {bounds['le']}" if len(bounds) == 2 else "whole number"


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == [load_balancing.PortRule()]:
        return "one rule for everything"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _meaning(info: FieldInfo) -> str:
    assert info.description, "every setting has a description"
    return info.description


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())
