"""Everything secret or revocable that the gateway needs, gathered from disk; and the background work on it.

A source that fails never makes the service weaker: revoked certificates stay revoked, the certificate in use stays in
use until it expires, and the failure is a warning with a name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from portico.certificates.ca import AUTHORITY_NAME, PUBLIC_NAME, CertificateAuthority
from portico.certificates.imported import load_kept, load_server, save_kept
from portico.certificates.issue import Identity, Issuer
from portico.certificates.renewal import SERVER_NAME, covers, ensure_server_identity, load_identity, renewal_time
from portico.certificates.revocation import (
    CRL_NAME,
    Revoked,
    current_revocations,
    load_revoked,
    recover,
    restore_lost,
    save_revoked,
    write_crl,
)
from portico.certificates.store import CertificateStore
from portico.certificates.tickets import TicketKey, load_tickets, next_rotation, rotate_tickets, save_tickets
from portico.certificates.trust import merge, parse_certificates, to_pem
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import not_written, private_directory, read_file, remove_tree
from portico.settings.model import Certificates, Settings
from portico.transition.gateway_config import GatewaySecrets

log = logging.getLogger("portico.server")

DIRECTORY = "certificates"
MAXIMUM_HANDED_OUT = 512 << 10
"""Bytes of a revocation list that clients are given: some 15,000 entries."""


@dataclass
class Credentials:
    """The certificates side of one server.

    Attributes:
        store: None while its database cannot be used; nothing can be issued or newly revoked then.
        authority: None without a built-in CA.
        warnings: what is wrong now, by source.
    """

    directory: Path
    store: CertificateStore | None = None
    authority: CertificateAuthority | None = None
    tickets: tuple[TicketKey, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    warnings: dict[str, PorticoError] = field(default_factory=dict)
    leads: Callable[[], bool] = field(default=lambda: True, repr=False)
    """Whether this server rotates what several have in common."""
    _identity: Identity | None = field(default=None, repr=False)
    _kept: dict[str, str] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, state: Path) -> Credentials:
        """Opens what is there; never fails, see `warnings`."""
        directory = state / DIRECTORY
        opened = cls(directory)
        with opened._noting("directory"):
            private_directory(directory)
        with opened._noting("store"):
            opened.store = CertificateStore.open(directory)
        opened.reload_authority()
        with opened._noting("tickets"):
            opened.tickets = load_tickets(directory)
        with opened._noting("revoked"):
            opened.revoked = load_revoked(directory)
        opened._restore_lost()
        return opened

    def reload_authority(self) -> None:
        """Reads the built-in CA (again). Its absence is no warning: imported certificates need none."""
        self.warnings.pop("authority", None)
        try:
            self.authority = CertificateAuthority.load(self.directory)
        except PorticoError as error:
            if error.code != "CA_MISSING" or (self.directory / PUBLIC_NAME).exists():
                self._warn("authority", error)

    def close(self) -> None:
        if self.store is not None:
            self.store.close()

    def forget(self) -> None:
        """Deletes everything: a server that was taken out of its cluster keeps none of its keys. Raises Unavailable."""
        self.close()
        try:
            if self.directory.exists():
                remove_tree(self.directory)
        except OSError as error:
            raise not_written(self.directory, error) from None
        self.store = self.authority = self._identity = self._kept = None
        self.tickets, self.revoked = (), ()
        self.warnings.clear()

    @property
    def authority_file(self) -> Path:
        return self.directory / AUTHORITY_NAME

    def issuer(self) -> Issuer:
        """What signs.

        Raises:
            PorticoError: there is no usable built-in CA or no usable store; the cause is in it.
        """
        if self.authority is None:
            raise self.warnings.get("authority") or _no_authority(self.directory)
        return Issuer(self.authority, self.usable_store())

    def usable_store(self) -> CertificateStore:
        """The records. Raises the PorticoError that keeps them closed."""
        if self.store is None:
            with self._noting("store"):
                self.store = CertificateStore.open(self.directory)
            self._restore_lost()
        if self.store is None:
            raise self.warnings["store"]
        self.warnings.pop("store", None)
        return self.store

    def repair(self, now: datetime) -> Path | None:
        """Puts damaged records aside and starts new ones that know what was revoked.

        Returns:
            The damaged file's new name; None when the records are sound.

        Raises:
            PorticoError: there is no built-in CA to verify the revocation list with, or the list cannot be read.
        """
        try:
            self.usable_store()
        except PorticoError as error:
            if error.code != "DATABASE_CORRUPT":
                raise
            if self.authority is None:
                raise self.warnings.get("authority") or _no_authority(self.directory) from None
            self.store, aside = recover(self.directory, self.authority, now)
            self.warnings.pop("store", None)
            return aside
        return None

    def trust(self, settings: Settings) -> str:
        """PEM that clients verify the server by.

        Raises:
            PorticoError: an imported file cannot be read and never could, or there is no CA.
        """
        if settings.certificates.mode == "imported" and settings.certificates.server_certificate is not None:
            chain = parse_certificates(self._imported_server(settings.certificates)[0])
            # The last certificate of the file is the nearest to the root that the administrator gave.
            return to_pem(chain[-1])
        return to_pem(self._authority_certificate())

    def secrets(self, settings: Settings, now: datetime) -> GatewaySecrets:
        """Everything for the gateway, as of now; renews and rotates what is due.

        Raises:
            PorticoError: there is no server certificate that can be used.
        """
        chain, key = self._server_certificate(settings, now)
        self._rotate(now)
        self.refresh_revoked(settings, now)
        return GatewaySecrets(
            certificate_chain=chain,
            private_key=key,
            client_ca=self._client_ca(settings),
            ticket_keys=[ticket.key for ticket in self.tickets],
            revoked=[entry.as_dict() for entry in self.revoked],
        )

    def due(self, settings: Settings, now: datetime) -> bool:
        """Whether `secrets` would return something new because time has passed."""
        rotation = next_rotation(self.tickets)
        if rotation is None or now >= rotation:
            return True
        if settings.certificates.mode != "built-in" or self.authority is None or self.store is None:
            return False
        newest = self.store.issued(kind="server", limit=1)
        if not newest:
            return True
        record = newest[0]
        return now >= renewal_time(record.not_before, record.not_after, settings.certificates.renew_before_days)

    def refresh_revoked(self, settings: Settings, now: datetime) -> None:
        """Reads every source of revocations; a broken one never shortens the list, also after a restart."""
        found = current_revocations(
            self.store,
            directory=self.directory,
            authority=self.authority,
            crls=[Path(name) for name in settings.certificates.crl],
            issuers=self._issuers(settings),
            previous=self.revoked,
            now=now,
        )
        self.warnings.pop("revocations", None)
        for problem in found.problems:
            self._warn("revocations", problem)
        if found.entries != self.revoked or "revoked" in self.warnings:
            with self._noting("revoked"):
                save_revoked(self.directory, found.entries)
        self.revoked = found.entries

    def write_crl(self, now: datetime) -> None:
        """Signs the list of revoked certificates that serves when the records are lost."""
        if self.authority is None or self.store is None:
            return
        with self._noting("crl"):
            write_crl(self.authority, self.store, self.directory, now)

    def crl(self) -> bytes | None:
        """The newest signed list, PEM; None before the first or when it is too large to be handed out."""
        try:
            return read_file(self.directory / CRL_NAME, limit=MAXIMUM_HANDED_OUT)
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                log.warning("%s", error)
            return None

    def _server_certificate(self, settings: Settings, now: datetime) -> tuple[str, str]:
        certificates = settings.certificates
        if certificates.mode == "imported":
            return self._imported_server(certificates)
        try:
            made = ensure_server_identity(
                self.directory,
                self.issuer(),
                connect_to=settings.deployment.connect_to,
                days=certificates.server_lifetime_days,
                renew_before_days=certificates.renew_before_days,
                now=now,
                former=self._identity,
            )
        except PorticoError as error:
            kept = self._kept_identity(settings.deployment.connect_to, now)
            if kept is None:
                raise
            self._warn("server certificate", _not_renewed(error))
            return kept.chain_pem, kept.key_pem
        self.warnings.pop("server certificate", None)
        if made.reissued:
            log.info("server_certificate=issued reason=%r", made.reason)
        elif made.reason:
            self._warn("server certificate", InvalidInput("The server certificate is not renewed", why=made.reason))
        self._identity = made.identity
        return made.identity.chain_pem, made.identity.key_pem

    def _kept_identity(self, connect_to: str, now: datetime) -> Identity | None:
        """The certificate there is, when nothing can be issued: the CA or the records may be damaged."""
        candidates = [self._identity] if self._identity is not None else []
        with contextlib.suppress(PorticoError):
            candidates.append(load_identity(self.directory / SERVER_NAME))
        authority: x509.Certificate | None = None
        with contextlib.suppress(PorticoError):
            authority = self._authority_certificate()
        for identity in candidates:
            certificate = identity.certificate
            if authority is not None and certificate.issuer != authority.subject:
                continue
            valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
            if valid and covers(certificate, connect_to):
                return identity
        return None

    def _imported_server(self, certificates: Certificates) -> tuple[str, str]:
        names = (certificates.server_certificate or "", certificates.server_key or "")
        try:
            pems = load_server(certificates)
        except PorticoError as error:
            kept = self._kept_files()
            if not all(name in kept for name in names):
                raise
            self._warn("server certificate", _last_good(error))
            return kept[names[0]], kept[names[1]]
        self.warnings.pop("server certificate", None)
        self._keep(dict(zip(names, pems, strict=True)))
        return pems

    def _authority_certificate(self) -> x509.Certificate:
        """The CA's certificate, also when its key is lost. Raises the PorticoError that says why there is none."""
        if self.authority is not None:
            return self.authority.certificate
        try:
            return CertificateAuthority.public(self.directory)
        except PorticoError:
            raise self.warnings.get("authority") or _no_authority(self.directory) from None

    def _kept_files(self) -> dict[str, str]:
        if self._kept is None:
            self._kept = {}
            with self._noting("kept"):
                self._kept = load_kept(self.directory)
        return self._kept

    def _keep(self, texts: dict[str, str]) -> None:
        kept = self._kept_files()
        if any(kept.get(name) != text for name, text in texts.items()):
            kept.update(texts)
            with self._noting("kept"):
                save_kept(self.directory, kept)

    def _rotate(self, now: datetime) -> None:
        if self.tickets and not self.leads():
            return  # the keys come from the server that leads; those that are here serve until then
        keys = rotate_tickets(self.tickets, now)
        if keys != self.tickets:
            with self._noting("tickets"):
                save_tickets(self.directory, keys)
            self.tickets = keys

    def client_authorities(self, settings: Settings) -> str:
        """PEM of the CAs whose certificates computers show. Raises PorticoError."""
        return self._client_ca(settings)

    def _client_ca(self, settings: Settings) -> str:
        pems = []
        if settings.certificates.mode == "built-in":
            with contextlib.suppress(PorticoError):  # without a CA there is no server certificate either
                pems.append(to_pem(self._authority_certificate()))
        pems += self._imported_authorities(settings)
        return merge(pems) if pems else ""

    def _imported_authorities(self, settings: Settings) -> list[str]:
        """The client CAs as PEM; one whose file is damaged stays what it was."""
        found = []
        for index, name in enumerate(settings.certificates.client_ca):
            source = f"certificates.client_ca[{index}]"
            try:
                pem = to_pem(*parse_certificates(read_file(Path(name)), source=name))
            except PorticoError as error:
                kept = self._kept_files().get(name)
                self._warn(source, error if kept is None else _last_good(error))
                if kept is not None:
                    found.append(kept)
                continue
            self.warnings.pop(source, None)
            self._keep({name: pem})
            found.append(pem)
        return found

    def _issuers(self, settings: Settings) -> list[x509.Certificate]:
        found = [self.authority.certificate] if self.authority is not None else []
        return found + [c for pem in self._imported_authorities(settings) for c in parse_certificates(pem)]

    def _restore_lost(self) -> None:
        """Revocations that the signed list has and the records lack are lost transactions, never pardons."""
        if self.store is None or self.authority is None:
            return
        now = now_utc()
        try:
            count = restore_lost(self.store, self.directory, self.authority, now)
        except NotFound:
            return
        except PorticoError as error:
            self._warn("crl", error)
            self.write_crl(now)
            return
        if count:
            log.warning("revocations=%d were entered again from the signed list", count)

    def _warn(self, source: str, error: PorticoError) -> None:
        if str(self.warnings.get(source)) != str(error):
            log.warning("source=%r problem=%r", source, str(error))
        self.warnings[source] = error

    def _noting(self, source: str) -> _Noting:
        return _Noting(self, source)


class _Noting:
    """Turns a PorticoError of its block into a warning of the credentials, or clears the warning."""

    def __init__(self, owner: Credentials, source: str) -> None:
        self.owner, self.source = owner, source

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            self.owner.warnings.pop(self.source, None)
            return False
        if isinstance(error, PorticoError):
            self.owner._warn(self.source, error)
            return True
        return False


def _not_renewed(error: PorticoError) -> PorticoError:
    return InvalidInput(
        "The server certificate there is stays in use",
        why=f"none can be issued: {error.what}: {error.why}",
        resolution=error.resolution,
        code="CERTIFICATE_NOT_RENEWED",
    )


def _last_good(error: PorticoError) -> PorticoError:
    return InvalidInput(
        f"{error.what}; what it held before stays in use",
        why=error.why,
        resolution=error.resolution,
        code=error.code,
    )


def _no_authority(directory: Path) -> PorticoError:
    return InvalidInput(
        "There is no built-in CA",
        why=f"{directory / AUTHORITY_NAME} does not exist",
        resolution="Make it with: portico ca init",
        code="CA_MISSING",
    )


def now_utc() -> datetime:
    """The time, for everything about certificates."""
    return datetime.now(UTC)
