"""Looks at the machine for health: disks, interfaces, certificates. Blocking, and quick."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.certificates.renewal import SERVER_NAME, covers
from portico.certificates.trust import parse_certificates
from portico.errors import PorticoError
from portico.files import read_file
from portico.health.observations import Card, Certificate, Volume
from portico.server.credentials import Credentials
from portico.settings.model import Settings

_NO_DEVICE = 19
_UP = 1


def volumes(paths: Iterable[Path]) -> tuple[Volume, ...]:
    """The file systems of these directories, each once."""
    found: dict[int, Volume] = {}
    for path in paths:
        try:
            device, seen = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue  # nothing was written there yet
        found.setdefault(
            device,
            Volume(
                str(path),
                free_bytes=seen.f_bavail * seen.f_frsize,
                total_bytes=seen.f_blocks * seen.f_frsize,
                free_files=seen.f_favail,
                total_files=seen.f_files,
            ),
        )
    return tuple(found.values())


def cards(settings: Settings) -> tuple[tuple[Card, int], ...] | None:
    """The interfaces of the settings, each with the number of its damaged frames since it is there.

    None when the kernel cannot be asked.
    """
    server = settings.server
    sides = {server.internal_interface: "internal", server.internet_interface: "internet"}
    try:
        with IPRoute() as ip:
            return tuple(_card(ip, name, side) for name, side in reversed(sides.items()))
    except (NetlinkError, OSError):
        return None


def _card(ip: IPRoute, name: str, side: str) -> tuple[Card, int]:
    try:
        (link,) = ip.link("get", ifname=name)
    except NetlinkError as error:
        if error.code != _NO_DEVICE:
            raise
        return Card(name, side, present=False), 0
    counts = link.get_attr("IFLA_STATS64") or {}
    errors = int(counts.get("rx_errors", 0)) + int(counts.get("tx_errors", 0))
    carrier = link.get_attr("IFLA_CARRIER")
    return Card(name, side, up=bool(link["flags"] & _UP), carrier=None if carrier is None else bool(carrier)), errors


def certificates(settings: Settings, credentials: Credentials) -> tuple[Certificate, ...]:
    """The certificates that serving depends on."""
    return tuple(_certificates(settings, credentials))


def _certificates(settings: Settings, credentials: Credentials) -> Iterator[Certificate]:
    section = settings.certificates
    if section.mode == "built-in":
        path = credentials.directory / SERVER_NAME
        yield from _server(path, settings, automatic=True)
        if credentials.authority is not None:
            yield _dated(credentials.authority.certificate, "the built-in CA", purpose="authority")
    elif section.server_certificate is not None:
        yield from _server(Path(section.server_certificate), settings, automatic=False)
    for name in section.client_ca:
        try:
            found: Sequence[x509.Certificate] = parse_certificates(read_file(Path(name)), source=name)
        except (PorticoError, ValueError) as error:
            yield Certificate("client_ca", name, trouble=str(error))
            continue
        yield _dated(min(found, key=lambda one: one.not_valid_after_utc), name, purpose="client_ca")


def _server(path: Path, settings: Settings, *, automatic: bool) -> Iterator[Certificate]:
    try:
        certificate = parse_certificates(read_file(path), source=str(path))[0]
        fits = covers(certificate, settings.deployment.connect_to)
    except (PorticoError, ValueError) as error:
        yield Certificate("server", str(path), trouble=str(error))
        return
    yield Certificate(
        "server",
        str(path),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        automatic=automatic,
        covers=fits,
    )


def _dated(certificate: x509.Certificate, name: str, *, purpose: str) -> Certificate:
    return Certificate(
        "authority" if purpose == "authority" else "client_ca",
        name,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
