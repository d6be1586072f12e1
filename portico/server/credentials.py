"""Everything secret or revocable that the gateway needs, gathered from disk; and the background work on it.

A source that fails never makes the service weaker: revoked certificates stay revoked, the certificate in use stays in
use until it expires, and the failure is a warning with a name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from portico.certificates.ca import AUTHORITY_NAME, CertificateAuthority
from portico.certificates.issue import Issuer
from portico.certificates.renewal import ensure_server_identity, renewal_time, usable_server_identity
from portico.certificates.revocation import Revoked, current_revocations, recover, write_crl
from portico.certificates.store import CertificateStore
from portico.certificates.tickets import TicketKey, load_tickets, next_rotation, rotate_tickets, save_tickets
from portico.certificates.trust import merge, parse_certificates, to_pem
from portico.errors import InvalidInput, PorticoError
from portico.files import private_directory, read_file
from portico.settings.model import Settings
from portico.transition.gateway_config import GatewaySecrets

log = logging.getLogger("portico.server")

DIRECTORY = "certificates"


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
        return opened

    def reload_authority(self) -> None:
        """Reads the built-in CA (again). Its absence is no warning: imported certificates need none."""
        self.warnings.pop("authority", None)
        try:
            self.authority = CertificateAuthority.load(self.directory)
        except PorticoError as error:
            if error.code != "CA_MISSING":
                self._warn("authority", error)

    def close(self) -> None:
        if self.store is not None:
            self.store.close()

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
            PorticoError: an imported file cannot be read, or there is no CA.
        """
        if settings.certificates.mode == "imported" and settings.certificates.server_certificate is not None:
            chain = parse_certificates(read_file(Path(settings.certificates.server_certificate)))
            # The last certificate of the file is the nearest to the root that the administrator gave.
            return to_pem(chain[-1])
        if self.authority is None:
            raise self.warnings.get("authority") or _no_authority(self.directory)
        return self.authority.pem

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
        """Reads every source of revocations; a broken one never shortens the list."""
        found = current_revocations(
            self.store,
            directory=self.directory,
            authority=self.authority,
            crls=[Path(name) for name in settings.certificates.crl],
            issuers=self._issuers(settings),
            previous=self.revoked,
            now=now,
        )
        self.revoked = found.entries
        self.warnings.pop("revocations", None)
        for problem in found.problems:
            self._warn("revocations", problem)

    def write_crl(self, now: datetime) -> None:
        """Signs the list of revoked certificates that serves when the records are lost."""
        if self.authority is None or self.store is None:
            return
        with self._noting("crl"):
            write_crl(self.authority, self.store, self.directory, now)

    def _server_certificate(self, settings: Settings, now: datetime) -> tuple[str, str]:
        certificates = settings.certificates
        if certificates.mode == "imported":
            if certificates.server_certificate is None or certificates.server_key is None:
                raise InvalidInput(
                    "There is no server certificate",
                    why="certificates.mode is imported but server_certificate or server_key is not set",
                    resolution="Set both, or set certificates.mode to built-in",
                )
            chain = parse_certificates(read_file(Path(certificates.server_certificate)))
            return to_pem(*chain), read_file(Path(certificates.server_key)).decode("utf-8", "replace")
        try:
            issuer = self.issuer()
        except PorticoError:
            # Lost records keep new clients out, not the enrolled ones: a certificate that is good goes on serving.
            if self.authority is None:
                raise
            connect_to = settings.deployment.connect_to
            identity = usable_server_identity(self.directory, self.authority, connect_to, now)
            if identity is None:
                raise
            return identity.chain_pem, identity.key_pem
        made = ensure_server_identity(
            self.directory,
            issuer,
            connect_to=settings.deployment.connect_to,
            days=certificates.server_lifetime_days,
            renew_before_days=certificates.renew_before_days,
            now=now,
        )
        self.warnings.pop("server certificate", None)
        if made.reissued:
            log.info("server_certificate=issued reason=%r", made.reason)
        elif made.reason:
            self._warn("server certificate", InvalidInput("The server certificate is not renewed", why=made.reason))
        return made.identity.chain_pem, made.identity.key_pem

    def _rotate(self, now: datetime) -> None:
        keys = rotate_tickets(self.tickets, now)
        if keys != self.tickets:
            with self._noting("tickets"):
                save_tickets(self.directory, keys)
            self.tickets = keys

    def _client_ca(self, settings: Settings) -> str:
        pems = []
        if settings.certificates.mode == "built-in" and self.authority is not None:
            pems.append(self.authority.pem)
        for index, name in enumerate(settings.certificates.client_ca):
            with self._noting(f"certificates.client_ca[{index}]"):
                pems.append(to_pem(*parse_certificates(read_file(Path(name)), source=name)))
        return merge(pems) if pems else ""

    def _issuers(self, settings: Settings) -> list[x509.Certificate]:
        found = [self.authority.certificate] if self.authority is not None else []
        for name in settings.certificates.client_ca:
            try:
                found += parse_certificates(read_file(Path(name)), source=name)
            except PorticoError:
                continue  # named by `_client_ca`
        return found

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
