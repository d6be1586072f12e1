"""What the machine and the files are, as far as the rules need it. Data only: whoever builds it does the looking.

Every field has a value that means "not looked at" (None or empty), and rules say nothing about what was not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Literal

from portico.settings.addresses import Address, Network

FileTrouble = Literal["missing", "empty", "not_readable", "truncated", "not_pem", "encrypted", "not_ca", "foreign"]


@dataclass(frozen=True)
class Interface:
    """A network interface with its addresses, in the order the kernel lists them."""

    name: str
    up: bool = True
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mtu: int = 1500
    temporary: frozenset[Address] = frozenset()
    """Those that DHCP or a router gave and may take back."""

    @property
    def ipv4(self) -> tuple[IPv4Address, ...]:
        return tuple(address.ip for address in self.addresses if isinstance(address, IPv4Interface))


@dataclass(frozen=True)
class Listener:
    """A TCP or UDP socket with its local address, of a process other than Portico's."""

    protocol: Literal["tcp", "udp"]
    address: Address
    port: int
    process: str = ""


@dataclass(frozen=True)
class Kernel:
    """What the kernel offers."""

    release: str = ""
    tun: bool = True
    nftables: bool = True
    ipv6: bool = True


@dataclass(frozen=True)
class CertificateFile:
    """One imported file as it was found.

    Attributes:
        setting: the path of the setting that names it, `certificates.client_ca[0]`.
        file: its path on disk.
        trouble: None when it could be read as what it should be; `detail` says more.
        names: DNS names and addresses of the (first) certificate's SAN; `common_name` of its subject.
        key_matches: server certificate only: whether the key file holds its key; None when the key was not readable.
        server_auth, client_auth: allowed by the extended key usage (also when there is none).
        next_update: revocation lists only.
        issuer: who issued it: the organisation, or else the common name; None when that is not known.
        self_signed: whether it is its own issuer.
    """

    setting: str
    file: str
    trouble: FileTrouble | None = None
    detail: str = ""
    names: tuple[str, ...] = ()
    common_name: str | None = None
    has_subject: bool = True
    not_before: datetime | None = None
    not_after: datetime | None = None
    key_matches: bool | None = None
    server_auth: bool = True
    next_update: datetime | None = None
    issuer: str | None = None
    self_signed: bool = False


@dataclass(frozen=True)
class SecretFile:
    """A file with a key that the settings name, as it was found.

    Attributes:
        trouble: why it cannot be used, empty when it can; `resolution` says what to do about it.
    """

    setting: str
    file: str
    trouble: str = ""
    resolution: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything known about the machine. `Facts()` knows nothing, and then only the document itself is judged.

    Attributes:
        now: UTC; needed for rules about certificates' lifetimes.
        own_name: what this machine is called within its cluster; None when not known.
        interfaces: by name, as the administrator has them, without what load balancing moves; None when not looked at.
        version: of Portico; empty when not known.
        in_use: addresses that another machine on the link answers for, and its MAC address.
        resolved: addresses that public or intranet names resolve to; a name that was looked up and has none maps to ().
        routes: prefixes that the machine routes to somewhere else than Portico's own interfaces.
        connections: local ends of TCP connections.
        processors: processor cores.
        server_certificate: what clients are shown by this machine, in both modes of `certificates`.
        network_location_certificate: the same of the network location server, where this machine is one.
    """

    now: datetime | None = None
    own_name: str | None = None
    version: str = ""
    in_use: Mapping[Address, str] = field(default_factory=dict)
    interfaces: Mapping[str, Interface] | None = None
    listeners: tuple[Listener, ...] = ()
    connections: tuple[Listener, ...] = ()
    resolved: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    routes: tuple[Network, ...] = ()
    kernel: Kernel | None = None
    processors: int | None = None
    certificate_files: tuple[CertificateFile, ...] = ()
    built_in_ca: CertificateFile | None = None
    server_certificate: CertificateFile | None = None
    network_location_certificate: CertificateFile | None = None
    secret_files: tuple[SecretFile, ...] = ()

    def interface(self, name: str) -> Interface | None:
        return self.interfaces.get(name) if self.interfaces is not None else None
