"""Looks at the machine and the files the settings name, for `verify` and for what is derived. Blocking."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico import __version__
from portico.balancing.nlb import mac
from portico.certificates.revocation import read_crl
from portico.certificates.trust import common_name, parse_certificates
from portico.errors import PorticoError
from portico.files import read_file
from portico.naming.records.keys import secret_files
from portico.server.proc_net import endpoint
from portico.server.reconcile.wanted import MAIN_TABLE, TRANSLATOR, TUNNEL, HostAddress
from portico.settings.addresses import Address, Network
from portico.settings.facts import CertificateFile, Facts, FileTrouble, Interface, Kernel, Listener
from portico.settings.localise import dedicated_by_interface, localise
from portico.settings.model import Settings

SERVER_CERTIFICATE = "certificates.server_certificate"
NETWORK_LOCATION_CERTIFICATE = "network_location_server.certificate"

_TROUBLE: dict[str, FileTrouble] = {
    "FILE_MISSING": "missing",
    "FILE_EMPTY": "empty",
    "FILE_NOT_READABLE": "not_readable",
    "PEM_TRUNCATED": "truncated",
    "CRL_FOREIGN": "foreign",
}

_CLUSTER_MODES: tuple[Literal["unicast", "multicast", "igmp"], ...] = ("unicast", "multicast", "igmp")
_LISTEN = "0A"
_NOBODY = "0"
_PERMANENT = 0x80
_RESOLVE_SECONDS = 5.0


class Prober(Protocol):
    """Asks the link of an interface who has some addresses (ARP, neighbour solicitations); returns those that another
    machine answered for, with its MAC address. Blocking, for a second at most.

    Args:
        ignored: MAC addresses of those that may have them.
    """

    def __call__(
        self, interface: str, addresses: Sequence[Address], ignored: Sequence[str] = (), /
    ) -> Mapping[Address, str]: ...


def read_facts(
    settings: Settings | None = None,
    *,
    authority: Path | None = None,
    resolve: bool = False,
    own_name: str | None = None,
    administrators: Mapping[str, Sequence[HostAddress]] | None = None,
    probe: Prober | None = None,
    probe_own: bool = False,
    server_certificate: Path | None = None,
    basis: bool = False,
) -> Facts:
    """What is true of this machine now.

    Args:
        settings: names the files and names to look at; None looks at the machine only.
        authority: the file of the built-in CA, when it is in use.
        resolve: whether names are looked up (takes up to 5 s when the resolver is silent).
        own_name: this machine's name within its cluster.
        administrators: addresses of interfaces as the administrator has them, where load balancing changed them.
        probe: asks whether other machines have the DIPs that this machine does not have yet; None does not ask.
        probe_own: asks about the addresses that this machine has, too.
        server_certificate: the file of the certificate that clients are shown, when it is not an imported one.
        basis: nothing beyond what `effective` derives from is looked at: the kernel looks through all it could have
            for its tables of sockets, which takes most of the time of everything here, at each change again.
    """
    interfaces, routes = _network()
    in_use: dict[Address, str] = {}
    if settings is not None and probe is not None:
        in_use = _in_use(settings, own_name, interfaces, probe, own=probe_own)
    files = tuple(_certificate_files(settings)) if settings is not None else ()
    named = {file.setting: file for file in files}
    shown = named.get(SERVER_CERTIFICATE)
    if server_certificate is not None:
        shown = _certificate(SERVER_CERTIFICATE, server_certificate)
    for name, addresses in (administrators or {}).items():
        if interfaces is not None and name in interfaces:
            interfaces[name] = replace(interfaces[name], addresses=_with_link_local(interfaces[name], addresses))
    listeners, connections = _sockets() if not basis else ((), ())
    return Facts(
        now=datetime.now(UTC),
        own_name=own_name,
        in_use=in_use,
        interfaces=interfaces,
        listeners=listeners,
        connections=connections,
        resolved=_resolve([settings.deployment.connect_to]) if settings is not None and resolve else {},
        routes=routes,
        kernel=_kernel(),
        processors=len(os.sched_getaffinity(0)),
        certificate_files=files,
        built_in_ca=_certificate("certificates.mode", authority) if authority is not None else None,
        server_certificate=shown,
        network_location_certificate=named.get(NETWORK_LOCATION_CERTIFICATE),
        version=__version__,
        secret_files=tuple(secret_files(settings)) if settings is not None else (),
    )


def _in_use(
    settings: Settings,
    own_name: str | None,
    interfaces: Mapping[str, Interface] | None,
    probe: Prober,
    *,
    own: bool,
) -> dict[Address, str]:
    """Whoever else has the DIPs of this machine; `own`: also the VIPs, and its addresses when it serves alone."""
    if interfaces is None:
        return {}
    if settings.load_balancing is None:
        return _in_use_alone(settings, interfaces, probe) if own else {}
    name = own_name if own_name is not None else settings.server.name
    if settings.load_balancing.server(name) is None:
        return {}  # told by the rules
    present = {address.ip for interface in interfaces.values() for address in interface.addresses}
    found: dict[Address, str] = {}
    for interface, dedicated in dedicated_by_interface(localise(settings, name)).items():
        asked = [address.ip for address in dedicated if own or address.ip not in present]
        if asked and interface in interfaces:
            found |= probe(interface, asked)
    return found | _virtual_in_use(localise(settings, name), interfaces, probe) if own else found


def _virtual_in_use(local: Settings, interfaces: Mapping[str, Interface], probe: Prober) -> dict[Address, str]:
    """Whoever has virtual addresses and is no server of the cluster, which answers with a MAC address of its own."""
    balancing = local.load_balancing
    assert balancing is not None
    sides = {local.server.internet_interface: balancing.internet_virtual_addresses}
    sides[local.server.internal_interface] = balancing.internal_virtual_addresses
    found: dict[Address, str] = {}
    for name, virtual in sides.items():
        ours = [mac.text(mac.cluster_mac(mode, vip.ip)) for vip in virtual for mode in _CLUSTER_MODES]
        if virtual and name in interfaces and interfaces[name].up:
            found |= probe(name, list(dict.fromkeys(vip.ip for vip in virtual)), ours)
    return found


def _in_use_alone(settings: Settings, interfaces: Mapping[str, Interface], probe: Prober) -> dict[Address, str]:
    found: dict[Address, str] = {}
    for name in dict.fromkeys((settings.server.internet_interface, settings.server.internal_interface)):
        interface = interfaces.get(name)
        asked = [address.ip for address in interface.addresses if not address.ip.is_link_local] if interface else []
        if asked and interface is not None and interface.up:
            found |= probe(name, asked)
    return found


def _with_link_local(interface: Interface, addresses: Sequence[HostAddress]) -> tuple[HostAddress, ...]:
    return (*addresses, *(a for a in interface.addresses if a.version == 6 and a.ip.is_link_local))


def _network() -> tuple[dict[str, Interface] | None, tuple[Network, ...]]:
    try:
        with IPRoute() as ip:
            links = {link["index"]: link for link in ip.get_links()}
            addresses: dict[int, list[Any]] = {index: [] for index in links}
            temporary: dict[int, set[Address]] = {index: set() for index in links}
            for message in ip.get_addr():
                # On a point-to-point link IFA_ADDRESS is the other end.
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if message["index"] in addresses:
                    address = ipaddress.ip_interface(f"{text}/{message['prefixlen']}")
                    addresses[message["index"]].append(address)
                    if not (message.get_attr("IFA_FLAGS") or message["flags"]) & _PERMANENT:
                        temporary[message["index"]].add(address.ip)
            interfaces = {
                link.get_attr("IFLA_IFNAME"): Interface(
                    name=link.get_attr("IFLA_IFNAME"),
                    up=bool(link["flags"] & 1),
                    addresses=tuple(addresses[index]),
                    mtu=link.get_attr("IFLA_MTU") or 1500,
                    temporary=frozenset(temporary[index]),
                )
                for index, link in links.items()
            }
            ours = {index for index, link in links.items() if link.get_attr("IFLA_IFNAME") in (TUNNEL, TRANSLATOR)}
            return interfaces, tuple(_routes(ip, ours))
    except (NetlinkError, OSError):
        return None, ()


def _routes(ip: IPRoute, ours: set[int]) -> Iterator[Network]:
    for message in ip.get_routes():
        target = message.get_attr("RTA_DST")
        table = message.get_attr("RTA_TABLE") or message["table"]
        if table != MAIN_TABLE or target is None or message.get_attr("RTA_OIF") in ours:
            continue
        network = ipaddress.ip_network(f"{target}/{message['dst_len']}", strict=False)
        if not network.is_link_local and not network.is_multicast:
            yield network


def _sockets() -> tuple[tuple[Listener, ...], tuple[Listener, ...]]:
    """Where sockets listen (all of UDP), and where TCP connections end here; without those of this process and those of
    nobody any more, which the kernel only closes.

    A server has tens of thousands of connections, nearly all to one address and port: each place is told once, and no
    table is ever in memory as a whole.
    """
    ours = _own_sockets() | {_NOBODY}
    listeners: dict[Listener, None] = {}
    connections: dict[Listener, None] = {}
    tables: tuple[tuple[Literal["tcp", "udp"], str], ...] = (
        ("tcp", "tcp"),
        ("tcp", "tcp6"),
        ("udp", "udp"),
        ("udp", "udp6"),
    )
    for protocol, name in tables:
        for place, listening in _places(Path(f"/proc/net/{name}"), ours):
            try:
                found = Listener(protocol, *endpoint(place))
            except ValueError:
                continue
            (listeners if protocol == "udp" or listening else connections)[found] = None
    return tuple(listeners), tuple(connections)


def _places(table: Path, ours: Collection[str]) -> dict[tuple[str, bool], None]:
    """Address and port of the sockets of others, as the kernel prints them, and whether they listen."""
    found: dict[tuple[str, bool], None] = {}
    with contextlib.suppress(OSError), table.open() as lines:
        next(lines, None)
        for line in lines:
            parts = line.split()
            if len(parts) >= 10 and parts[9] not in ours:
                found[parts[1], parts[3] == _LISTEN] = None
    return found


def _own_sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _resolve(names: Iterable[str]) -> dict[str, tuple[Address, ...]]:
    """Addresses by name; names whose lookup does not end in time are left out (not looked at)."""
    found: dict[str, tuple[Address, ...]] = {}
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        lookups = {name: pool.submit(_lookup, name) for name in names}
        for name, lookup in lookups.items():
            try:
                found[name] = lookup.result(_RESOLVE_SECONDS)
            except TimeoutError:
                continue
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _lookup(name: str) -> tuple[Address, ...]:
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows))


def _kernel() -> Kernel:
    return Kernel(
        release=os.uname().release,
        tun=Path("/dev/net/tun").exists(),
        nftables=any(Path(p, "nft").exists() for p in ("/usr/sbin", "/sbin", "/usr/bin", "/bin")),
        ipv6=Path("/proc/sys/net/ipv6/conf/all/forwarding").exists(),
    )


def _certificate_files(settings: Settings) -> Iterator[CertificateFile]:
    certificates = settings.certificates
    if certificates.server_certificate is not None:
        key = Path(certificates.server_key) if certificates.server_key is not None else None
        yield _certificate(SERVER_CERTIFICATE, Path(certificates.server_certificate), key)
    if certificates.server_key is not None:
        yield _key("certificates.server_key", Path(certificates.server_key))
    location = settings.network_location_server
    if certificates.mode == "imported" and location.certificate is not None:
        key = Path(location.key) if location.key is not None else None
        yield _certificate("network_location_server.certificate", Path(location.certificate), key)
    if certificates.mode == "imported" and location.key is not None:
        yield _key("network_location_server.key", Path(location.key))
    issuers: list[x509.Certificate] = []
    for index, name in enumerate(certificates.client_ca):
        yield _certificate(f"certificates.client_ca[{index}]", Path(name), authority=True)
        try:
            issuers += parse_certificates(read_file(Path(name)))
        except PorticoError:
            continue  # reported above
    for index, name in enumerate(certificates.crl):
        yield _revocation_list(f"certificates.crl[{index}]", Path(name), issuers)


def _certificate(setting: str, path: Path, key: Path | None = None, *, authority: bool = False) -> CertificateFile:
    try:
        certificate = parse_certificates(read_file(path), source=str(path))[0]
        names = _extension(certificate, x509.SubjectAlternativeName)
        usage = _extension(certificate, x509.ExtendedKeyUsage)
        basic = _extension(certificate, x509.BasicConstraints)
    except PorticoError as error:
        return _troubled(setting, path, error)
    except ValueError as error:
        return CertificateFile(setting, str(path), trouble="not_pem", detail=str(error))
    return CertificateFile(
        setting,
        str(path),
        trouble="not_ca" if authority and (basic is None or not basic.ca) else None,
        names=tuple(str(name.value) for name in names) if names is not None else (),
        common_name=common_name(certificate.subject),
        has_subject=bool(certificate.subject.rdns),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_matches=_matches(certificate, key) if key is not None else None,
        server_auth=usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage,
        issuer=_issuer(certificate),
        self_signed=certificate.issuer == certificate.subject,
    )


def _issuer(certificate: x509.Certificate) -> str | None:
    """Who issued it; CAs change the names of their intermediate certificates more often than that of their house."""
    for attribute in certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME):
        return str(attribute.value)
    return common_name(certificate.issuer)


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _matches(certificate: x509.Certificate, path: Path) -> bool | None:
    try:
        key = serialization.load_pem_private_key(read_file(path), password=None)
        return key.public_key() == certificate.public_key()
    except Exception:
        return None  # the key's own entry says why


def _key(setting: str, path: Path) -> CertificateFile:
    try:
        data = read_file(path)
    except PorticoError as error:
        return _troubled(setting, path, error)
    try:
        serialization.load_pem_private_key(data, password=None)
    except TypeError:
        return CertificateFile(setting, str(path), trouble="encrypted", detail="the private key has a passphrase")
    except Exception as error:
        return CertificateFile(setting, str(path), trouble="not_pem", detail=type(error).__name__)
    return CertificateFile(setting, str(path))


def _revocation_list(setting: str, path: Path, issuers: list[x509.Certificate]) -> CertificateFile:
    try:
        crl, _ = read_crl(path, issuers)
    except PorticoError as error:
        return _troubled(setting, path, error)
    return CertificateFile(setting, str(path), next_update=crl.next_update_utc)


def _troubled(setting: str, path: Path, error: PorticoError) -> CertificateFile:
    return CertificateFile(setting, str(path), trouble=_TROUBLE.get(error.code, "not_pem"), detail=error.why)
