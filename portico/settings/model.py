"""The settings document: everything the administrator decided, and nothing that can be derived.

A value of null means "derived"; `portico.settings.effective` does that. Keys use the words of Windows Remote Access.
Unknown keys are refused: a misspelt setting that is silently ignored is a setting that is wrong.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from portico.settings.accounting import Accounting
from portico.settings.alerts import Alerts
from portico.settings.assistant import ConnectivityAssistant
from portico.settings.backup import Backup
from portico.settings.cluster_store import ClusterStore
from portico.settings.kinds import (
    AnyAddress,
    AnyPrefix,
    CertificatePath,
    Cipher,
    CrlPath,
    Destination,
    EachOnce,
    Exclusion,
    FilePath,
    HostName,
    InterfaceName,
    Ipv4,
    Ipv6,
    Ipv6Prefix,
    KeyPath,
    Mapping,
    Namespace,
    PortPool,
    PublicHost,
    Section,
    ShortName,
    State,
    Suffix,
    TlsVersion,
    Upstream,
)
from portico.settings.load_balancing import LoadBalancing
from portico.settings.location import CorporateDns, NetworkLocationServer, WebProbe
from portico.settings.management import Management, Oidc
from portico.settings.remote_access import Authentication, Isatap, RemoteClients, Teredo, Vpn
from portico.settings.users import ManagementServer, UserAuthentication

SCHEMA_VERSION: Final = 1


class Deployment(Section):
    """What the deployment is called and where its addresses come from."""

    domain: HostName = Field(description="DNS domain of the intranet; names in it are resolved through the tunnel")
    connect_to: PublicHost = Field(description="ConnectTo address: the public name or address that clients dial")
    organisation_prefix: Ipv6Prefix = Field(
        description="the organisation's IPv6 /48, from which all prefixes are derived"
    )


class Server(Section):
    """This server's name and network interfaces."""

    name: ShortName = Field(description="name of the server")
    internet_interface: InterfaceName = Field(description="interface that clients reach")
    internal_interface: InterfaceName = Field(
        description="interface to the intranet; the same one on a single-NIC server"
    )
    internal_ipv4: Ipv4 | None = Field(
        default=None, description="null: the first IPv4 address of the internal interface"
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="gateway threads; null: one per core"
    )


class IpHttps(Section):
    """The IP-HTTPS listener."""

    port: int = Field(default=443, ge=1, le=65535, description="TCP port of the listener and in the clients' URL")
    authentication: Literal["certificates", "none"] = Field(
        default="certificates", description="whether the tunnel asks for a client certificate"
    )
    client_prefix: Ipv6Prefix | None = Field(default=None, description="ClientIPv6Prefix; null: P:1000::/64")
    max_clients: int = Field(
        default=10_000, ge=1, le=1_000_000, description="tunnels at once; one more is disconnected"
    )
    segments: bool = Field(default=True, description="whole super-segments between two Portico ends")
    minimum_tls: TlsVersion = Field(default="1.2", description="lowest TLS version that is accepted")
    ciphers: Annotated[list[Cipher], Field(min_length=1), EachOnce] = Field(
        default=["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"],
        description="ciphers that are accepted, in the order of preference of the servers, which counts",
    )
    route_lifetime: int = Field(
        default=1800,
        ge=60,
        le=65_535,
        description="seconds an advertised route stays valid on a client that hears nothing more",
    )


class Addresses(Section):
    """The IPv6 prefixes of the intranet."""

    intranet_prefixes: list[Ipv6Prefix] | None = Field(default=None, description="InternalIPv6Prefix; null: P:1::/64")


class StaticBinding(Section):
    """An IPv4 address and port that always stand for one port of one client."""

    protocol: Literal["tcp", "udp"] = Field(description="protocol of both ports")
    client: Ipv6 = Field(description="IPv6 address of the client, in the client prefix")
    client_port: int = Field(ge=1, le=65_535, description="port on the client")
    address: Ipv4 | None = Field(default=None, description="null: the first address of the pool")
    port: int = Field(ge=1, le=65_535, description="port of that address; it may lie outside the pool's ranges")


class Nat64(Section):
    """Access to intranet servers that have only IPv4."""

    state: State = Field(default="enabled", description="whether clients reach servers that have only IPv4")
    prefix: Ipv6Prefix | None = Field(
        default=None, description="the one prefix for all of IPv4; null: P:7777::/96, unless there are mappings"
    )
    prefix_mapping: list[Mapping] = Field(
        default_factory=list,
        max_length=64,
        description="'IPv6 /96,IPv4 prefix', for several prefixes; the longest IPv4 prefix decides. "
        "Empty: `prefix` for all of IPv4",
    )
    ipv4_address_port_pool: list[PortPool] = Field(
        default_factory=list,
        max_length=256,
        description="'address,first-last' or 'address,*'; empty: the internal IPv4, ports 32768-60999",
    )
    static_bindings: list[StaticBinding] = Field(
        default_factory=list,
        max_length=4096,
        description="IPv4 addresses and ports at which hosts of the intranet reach a client, see below",
    )
    filtering: Literal["endpoint_independent", "address_dependent"] = Field(
        default="endpoint_independent",
        description="whether any host may send to a mapping of a client, or only those the client sent to (RFC 6146)",
    )
    traffic_class: Literal["copy", "zero"] = Field(
        default="copy", description="whether traffic class and type of service are carried over (RFC 7915)"
    )
    tcp_mapping_timeout_seconds: int = Field(
        default=7200, ge=1800, le=604_800, description="an idle established TCP connection is forgotten after this time"
    )
    tcp_transitory_timeout_seconds: int = Field(
        default=240,
        ge=240,
        le=7200,
        description="the same for a TCP connection that is opening or closing (RFC 6146: at least 240)",
    )
    udp_mapping_timeout_seconds: int = Field(
        default=300, ge=120, le=86_400, description="an idle UDP mapping is forgotten (RFC 4787: at least 120)"
    )
    icmp_mapping_timeout_seconds: int = Field(
        default=60, ge=60, le=3600, description="an idle ping is forgotten (RFC 5508: at least 60)"
    )
    max_bindings: int = Field(
        default=262_144, ge=1, le=16_777_216, description="translated ports and echo identifiers of all clients at once"
    )
    max_bindings_per_client: int = Field(default=4096, ge=1, le=65_536, description="the same for one client")
    max_sessions: Annotated[int, Field(ge=1, le=67_108_864)] | None = Field(
        default=None, description="pairs of a binding and a server at once; null: twice `max_bindings`"
    )
    max_sessions_per_client: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        default=None, description="the same for one client; null: four times `max_bindings_per_client`"
    )
    errors_per_second: int = Field(
        default=100, ge=0, le=100_000, description="ICMP errors that NAT64 itself sends; 0: none (RFC 7915)"
    )
    log_bindings: bool = Field(
        default=False, description="write down who had which IPv4 address and port, for `portico nat64 log`"
    )
    binding_log_retention_days: int = Field(
        default=30, ge=1, le=3650, description="days after which the written bindings are deleted"
    )


class ConditionalForwarding(Section):
    """DNS servers of their own for one domain and all below it."""

    suffix: Suffix = Field(description="the domain, as branch.example.net; the longest that fits a name decides")
    servers: list[Upstream] = Field(max_length=8, description="its DNS servers, in order of preference")


class Dns64(Section):
    """The DNS server that clients ask for intranet names."""

    state: State = Field(
        default="enabled",
        description="whether this server answers DNS; when disabled, NRPT rules must name other servers",
    )
    address: Ipv6 | None = Field(default=None, description="null: P:3333::1")
    accept_interface: list[InterfaceName] = Field(
        default_factory=list,
        max_length=64,
        description="interfaces whose hosts may ask too; the clients' tunnel and the server itself always may",
    )
    prefix_mapping: list[Mapping] = Field(
        default_factory=list,
        max_length=64,
        description="prefixes of the addresses that are synthesised; empty: those of NAT64",
    )
    only_send_a_query: bool = Field(
        default=True, description="ask upstream for A records only; set to false when the intranet has IPv6 servers too"
    )
    always_synthesize: bool = Field(default=False, description="synthesise even when the name has IPv6 addresses")
    latency_milliseconds: int = Field(default=0, ge=0, le=2000, description="delay between the AAAA and the A query")
    exclusion_list: list[Exclusion] = Field(
        default_factory=list,
        max_length=4096,
        description="names (and all below) never synthesised for, or IPv6 prefixes whose AAAA records count as none",
    )
    upstream_servers: list[Upstream] = Field(
        default_factory=list, max_length=8, description="the intranet's DNS servers, in order of preference"
    )
    conditional_forwarding: list[ConditionalForwarding] = Field(
        default_factory=list, max_length=1023, description="other DNS servers for some domains, see below"
    )
    prefetch: bool = Field(default=True, description="ask again for a much used name shortly before its answer expires")
    serve_stale_seconds: int = Field(
        default=86_400,
        ge=0,
        le=604_800,
        description="how long an expired answer is given while no DNS server answers (RFC 8767); 0: never",
    )
    queries_per_second_per_client: int = Field(
        default=100,
        ge=0,
        le=500_000,
        description="queries of one client, twice as many in a burst; more get no answer. 0: no limit",
    )


class NrptRule(Section):
    """Where clients resolve one namespace."""

    namespace: Namespace = Field(description="a leading dot makes a suffix rule; without it one exact name")
    dns_servers: list[AnyAddress] | None = Field(default=None, description="null: the DNS64 address; []: an exemption")


class Nrpt(Section):
    """The Name Resolution Policy Table of the clients."""

    rules: list[NrptRule] = Field(
        default_factory=list, description="besides the rule for the deployment's domain, which is made automatically"
    )
    exemptions: list[Namespace] = Field(
        default_factory=list,
        description="names or .suffixes that clients resolve where they are, not through the tunnel",
    )


class ManageOut(Section):
    """Who on the intranet may open connections to clients."""

    sources: list[AnyPrefix] = Field(alias="from", description="intranet prefixes that may")


def _anywhere() -> list[IPv4Network | IPv6Network | Literal["any"]]:
    return ["any"]


class Access(Section):
    """What clients may reach, and who may reach clients."""

    intranet: list[Destination] = Field(
        default_factory=_anywhere,
        description="'any', or the IPv6 and (through NAT64) IPv4 prefixes clients may reach",
    )
    manage_out: bool | ManageOut = Field(default=True, description="true, false, or {from: [prefixes]}")
    client_to_client: bool = Field(default=False, description="whether clients reach each other through the server")
    user_authentication: UserAuthentication = Field(
        default="none",
        description="none: a computer reaches all of `intranet` at once; otherwise it reaches `management_servers` "
        "until its user has shown a certificate, or logged in at a provider: `portico client login`",
    )
    user_lifetime_hours: int = Field(
        default=12, ge=1, le=168, description="what a user is allowed ends after this time, or earlier when revoked"
    )
    user_ca: list[FilePath] = Field(
        default_factory=list,
        max_length=16,
        description="PEM files of CAs that issue certificates to users, and to users only",
    )
    user_crl: list[CrlPath] = Field(
        default_factory=list, max_length=16, description="files of revocation lists (PEM or DER) of these CAs"
    )
    user_oidc: Oidc | None = Field(
        default=None, description="the OpenID Connect provider of the users; null: `management.oidc`"
    )


class Certificates(Section):
    """Where the server's and the clients' certificates come from."""

    mode: Literal["built-in", "imported"] = Field(
        default="built-in", description="built-in: Portico's own CA issues and renews; imported: files of your CA"
    )
    server_certificate: CertificatePath | None = Field(
        default=None, description="imported: PEM file, the server's certificate and its chain"
    )
    server_key: KeyPath | None = Field(default=None, description="imported: PEM file of the private key")
    client_ca: list[FilePath] = Field(
        default_factory=list, description="PEM files of CAs whose client certificates are accepted"
    )
    client_lifetime_days: int = Field(default=90, ge=1, le=3650, description="of client certificates, built-in CA")
    server_lifetime_days: int = Field(default=90, ge=1, le=825, description="of the server's certificate, built-in CA")
    renew_before_days: int = Field(default=30, ge=0, le=365, description="renew when less than this remains")
    crl: list[CrlPath] = Field(
        default_factory=list, description="files of revocation lists (PEM or DER) of the imported CAs"
    )


class Settings(Section):
    """The whole document."""

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, description="version of the document's form")
    deployment: Deployment
    server: Server
    ip_https: IpHttps = Field(default_factory=IpHttps)
    addresses: Addresses = Field(default_factory=Addresses)
    nat64: Nat64 = Field(default_factory=Nat64)
    dns64: Dns64 = Field(default_factory=Dns64)
    nrpt: Nrpt = Field(default_factory=Nrpt)
    network_location_server: NetworkLocationServer = Field(default_factory=NetworkLocationServer)
    web_probe: WebProbe = Field(default_factory=WebProbe)
    corporate_dns: CorporateDns = Field(default_factory=CorporateDns)
    connectivity_assistant: ConnectivityAssistant = Field(default_factory=ConnectivityAssistant)
    access: Access = Field(default_factory=Access)
    management_servers: list[ManagementServer] = Field(
        default_factory=list,
        max_length=256,
        description="servers that computers reach before their user has authenticated, see `access`",
    )
    certificates: Certificates = Field(default_factory=Certificates)
    vpn: Vpn = Field(default_factory=Vpn)
    teredo: Teredo = Field(default_factory=Teredo)
    isatap: Isatap = Field(default_factory=Isatap)
    authentication: Authentication = Field(default_factory=Authentication)
    remote_clients: RemoteClients = Field(default_factory=RemoteClients)
    load_balancing: LoadBalancing | None = Field(default=None, description="null: this server serves alone")
    management: Management = Field(default_factory=Management)
    store: ClusterStore = Field(default_factory=ClusterStore)
    accounting: Accounting = Field(default_factory=Accounting)
    alerts: Alerts = Field(default_factory=Alerts)
    backup: Backup = Field(default_factory=Backup)
    drift: Literal["repair", "report"] = Field(
        default="repair", description="what happens when something else changes what Portico manages"
    )

    @property
    def user_oidc(self) -> Oidc | None:
        """The provider that users log in at."""
        return self.access.user_oidc or self.management.oidc

    def as_data(self) -> dict[str, Any]:
        """The document as plain JSON data, in the order of the model."""
        return self.model_dump(mode="json", by_alias=True)
