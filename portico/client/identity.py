"""What an enrolled computer keeps on disk: its identity, whom it trusts, the server's settings, its own choices.

Every file is written atomically, mode 0600, in a directory only root enters. Beside each one lies a second copy,
written first (`NAME.last`): when a file is found damaged, the copy serves and the error names the file. The private key
and its certificate share one file, so that they can never belong to different identities.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from portico.certificates.issue import Identity
from portico.certificates.renewal import load_identity
from portico.certificates.trust import parse_certificates, to_pem
from portico.client.assistant.settings import AssistantSettings
from portico.client.resolver.core import Fallback
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import not_written, private_directory, read_file, write_file
from portico.naming.nrpt import Rule, Table
from portico.paths import client_state
from portico.settings.kinds import HostName, Ipv6Prefix, Namespace

log = logging.getLogger("portico.client.identity")

_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)

DEFAULT_PORT = 443

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,255}", flags=re.ASCII)


class NrptRule(BaseModel):
    """One rule of the Name Resolution Policy Table as the server hands it out; no servers make an exemption."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    namespace: Namespace
    dns_servers: tuple[str, ...] = Field(default=(), max_length=16)

    @field_validator("dns_servers")
    @classmethod
    def _addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_address(server)) for server in servers)


class ClientSettings(BaseModel):
    """What the server decided for its clients.

    Attributes:
        url: what is dialled, `https://host:port/IPHTTPS`.
        intranet_prefixes: sources that may open connections towards this computer; empty: any that comes through the
            tunnel.
        assistant: None from a server that has none: this computer is always outside, and nothing is probed.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    url: str
    domain: HostName
    nrpt: tuple[NrptRule, ...] = Field(default=(), max_length=1000)
    dns_address: str | None = None
    intranet_prefixes: tuple[Ipv6Prefix, ...] = Field(default=(), max_length=1000)
    assistant: AssistantSettings | None = None
    revision: int = 0

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        server_of(url)
        return url

    def table(self) -> Table:
        """The Name Resolution Policy Table."""
        return Table(Rule(rule.namespace, tuple(map(ip_address, rule.dns_servers))) for rule in self.nrpt)


class LocalSettings(BaseModel):
    """This computer's own choices. The proxy may hold a password: it is never logged and never in a command line.

    Attributes:
        proxy: `http://[user:password@]host:port`; `environment` takes https_proxy of the service.
        dns: how intranet names get to the resolver: auto, resolved (systemd-resolved), resolv_conf, none.
        inbound: whether the intranet may open connections towards this computer.
        default_router: whether a default route that the server advertises is taken (force tunnelling).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    proxy: str | None = None
    dns: Literal["auto", "resolved", "resolv_conf", "none"] = "auto"
    resolver_addresses: tuple[str, ...] = ("127.0.0.1", "127.0.0.64")
    name_query_fallback: Fallback = Fallback.NONE
    inbound: Literal["allow", "deny"] = "allow"
    default_router: bool = False
    segments: bool = True
    renew_before_days: int = Field(default=30, ge=0, le=365)

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, proxy: str | None) -> str | None:
        if proxy not in (None, "environment"):
            parse_proxy(str(proxy))
        return proxy

    @field_validator("resolver_addresses")
    @classmethod
    def _loopback(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        if not addresses or not all(ip_address(address).is_loopback for address in addresses):
            raise ValueError("the resolver listens on loopback addresses only")
        return addresses


class Wish(BaseModel):
    """Whether the person at this computer wants to be connected."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    connect: bool = True


class _Enrolment(BaseModel):
    """Everything that an enrolment brings, in one file for the time it takes to put it into its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key_pem: str = Field(repr=False)
    chain_pem: str
    trust: str
    settings: ClientSettings


class KnownAddresses(BaseModel):
    """The server's addresses when its name could last be resolved."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    host: str
    addresses: tuple[str, ...]

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_address(address)) for address in addresses)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, with its credentials kept out of its representation."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def as_config(self) -> dict[str, Any]:
        """The gateway's form."""
        return {"host": self.host, "port": self.port, "user": self.user, "password": self.password}


def parse_proxy(text: str) -> Proxy:
    """Reads `http://[user:password@]host:port`, with or without the scheme. Raises ValueError; it repeats no secret."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
    except ValueError:
        raise ValueError("it is not of the form http://host:port") from None
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the proxy's port is not a number") from None
    if parts.scheme != "http":
        raise ValueError(f"a proxy is reached over http, not {parts.scheme}")
    if not host:
        raise ValueError("the proxy has no host; write http://host:port")
    if not _HOST.fullmatch(host):
        raise ValueError("the proxy's host is neither a name nor an address")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Proxy(host, port or 8080, user, password)


def server_of(url: str) -> tuple[str, int]:
    """Host and port of the server's URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError(f"'{url}' is not of the form https://host:port/IPHTTPS")
    try:
        return parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError(f"'{url}' has a port that is not a number") from None


class ClientFiles:
    """The client's directory.

    Attributes:
        problems: what was found damaged while a good copy served, by file name; for the status.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = client_state() if directory is None else directory
        self.problems: dict[str, str] = {}

    @property
    def identity_path(self) -> Path:
        """Key and certificate chain, one PEM file."""
        return self.directory / "identity.pem"

    @property
    def trust_path(self) -> Path:
        """The CAs by which the server is recognised."""
        return self.directory / "trust.pem"

    @property
    def enrolment_path(self) -> Path:
        """An enrolment on its way into the other files: identity, trust and settings belong together."""
        return self.directory / "enrolment.json"

    @property
    def resolv_record(self) -> Path:
        """What was in /etc/resolv.conf while it is taken over."""
        return self.directory / "resolv.conf.before"

    @property
    def enrolled(self) -> bool:
        """Whether there is an identity, good or damaged."""
        return any(
            os.path.lexists(path) for path in (self.identity_path, _copy(self.identity_path), self.enrolment_path)
        )

    def identity(self) -> Identity:
        """Raises NotFound (NOT_ENROLLED) without one; PorticoError naming the file when it and its copy are damaged."""
        self._finish()
        if not self.enrolled:
            raise not_enrolled()
        return self._load(self.identity_path, load_identity)

    def trust(self) -> str:
        """PEM. Raises PorticoError naming the file."""
        self._finish()
        return self._load(self.trust_path, lambda path: to_pem(*parse_certificates(read_file(path), source=str(path))))

    def settings(self) -> ClientSettings:
        """Raises PorticoError naming the file."""
        self._finish()
        return self._load(self.directory / "settings.json", lambda path: _read_model(path, ClientSettings))

    def local(self) -> LocalSettings:
        """The defaults when there is no file. Raises PorticoError naming the file when it is damaged."""
        path = self.directory / "local.json"
        if not os.path.lexists(path) and not os.path.lexists(_copy(path)):
            return LocalSettings()
        return self._load(path, lambda path: _read_model(path, LocalSettings))

    def wish(self) -> Wish:
        """To be connected, unless a good file says otherwise."""
        path = self.directory / "wish.json"
        try:
            return _read_model(path, Wish)
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                self._problem(path, error)
            return Wish()

    def known_addresses(self, host: str) -> tuple[str, ...]:
        """Empty when there are none for this host; a damaged file is only worth a warning."""
        path = self.directory / "addresses.json"
        try:
            known = _read_model(path, KnownAddresses)
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                self._problem(path, error)
            return ()
        return known.addresses if known.host == host else ()

    def revoked(self) -> str | None:
        """The server's newest revocation list, PEM; None without one. A damaged file is only worth a warning."""
        path = self.directory / "crl.pem"
        try:
            return read_file(path).decode("ascii")
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                self._problem(path, error)
        except UnicodeDecodeError:
            log.warning("%s is damaged", path)
        return None

    def save_revoked(self, pem: str) -> None:
        """Raises Unavailable (FILE_NOT_WRITTEN)."""
        self._save(self.directory / "crl.pem", pem.encode())

    def interface_secret(self) -> bytes:
        """This computer's secret for its interface identifiers, 16 bytes, made once."""
        path = self.directory / "interface.secret"
        try:
            data = read_file(path)
            if len(data) == 16:
                return data
            log.warning("%s is damaged; this computer gets new addresses in the tunnel", path)
        except PorticoError as error:
            if error.code != "FILE_MISSING":
                log.warning("%s; this computer gets new addresses in the tunnel", error)
        data = secrets.token_bytes(16)
        try:
            write_file(private_directory(self.directory) / path.name, data)
        except PorticoError as error:  # the tunnel works; only its addresses change with the next start
            log.warning("%s", error)
        return data

    def save_identity(self, key_pem: str, chain_pem: str) -> None:
        """Raises Unavailable (FILE_NOT_WRITTEN)."""
        self._save(self.identity_path, (key_pem + chain_pem).encode())

    def save_trust(self, pem: str) -> None:
        """Raises Unavailable (FILE_NOT_WRITTEN)."""
        self._save(self.trust_path, pem.encode())

    def save(self, name: Literal["settings", "local", "wish", "addresses"], value: BaseModel) -> None:
        """Raises Unavailable (FILE_NOT_WRITTEN)."""
        self._save(self.directory / f"{name}.json", value.model_dump_json(indent=2).encode() + b"\n")

    def adopt(self, *, key_pem: str, chain_pem: str, trust: str, settings: ClientSettings) -> None:
        """Takes an enrolment over as a whole: a crash at any moment leaves all of the old one or all of the new one.

        Raises:
            Unavailable: code FILE_NOT_WRITTEN; what was there before is still in force, or the new one is already and
                is put into its files at the next start.
        """
        private_directory(self.directory)
        whole = _Enrolment(key_pem=key_pem, chain_pem=chain_pem, trust=trust, settings=settings)
        write_file(self.enrolment_path, whole.model_dump_json().encode())
        self._distribute(whole)

    def forget(self) -> None:
        """Removes the identity and everything that came from the server.

        The copies go first: one that outlived its original would bring the identity back.

        Raises:
            Unavailable: code FILE_NOT_WRITTEN; something is left.
        """
        self._finish()
        parts = (
            "enrolment.json",
            "identity.pem",
            "trust.pem",
            "settings.json",
            "addresses.json",
            "wish.json",
            "crl.pem",
        )
        for name in parts:
            for path in (_copy(self.directory / name), self.directory / name):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise not_written(path, error) from None

    def _finish(self) -> None:
        """Completes an enrolment that was interrupted."""
        path = self.enrolment_path
        if not path.exists():
            return
        try:
            self._distribute(_read_model(path, _Enrolment))
        except PorticoError as error:
            self._problem(path, error)

    def _distribute(self, whole: _Enrolment) -> None:
        self.save_trust(whole.trust)
        self.save("settings", whole.settings)
        self.save_identity(whole.key_pem, whole.chain_pem)
        try:
            self.enrolment_path.unlink()
        except OSError as error:
            raise not_written(self.enrolment_path, error) from None

    def _save(self, path: Path, data: bytes) -> None:
        private_directory(self.directory)
        write_file(_copy(path), data)
        write_file(path, data)
        self.problems.pop(path.name, None)

    def _load(self, path: Path, read: Callable[[Path], _T]) -> _T:
        try:
            value = read(path)
        except PorticoError as error:
            try:
                value = read(_copy(path))
            except PorticoError as second:
                lost = error.code == "FILE_MISSING" and second.code != "FILE_MISSING"
                raise (second if lost else error) from None
            self._problem(path, error)
            return value
        self.problems.pop(path.name, None)
        return value

    def _problem(self, path: Path, error: PorticoError) -> None:
        text = str(error)
        if self.problems.get(path.name) != text:
            log.error("%s", text)
        self.problems[path.name] = text


def not_enrolled() -> NotFound:
    """The error of everything that needs an identity on a computer that has none."""
    return NotFound(
        "This computer is not enrolled",
        why="it has no identity",
        resolution="Make a token on the server (portico ca token create --name NAME), then: portico client enrol TOKEN",
        code="NOT_ENROLLED",
    )


def _copy(path: Path) -> Path:
    return path.with_name(f"{path.name}.last")


def _read_model(path: Path, model: type[_M]) -> _M:
    data = read_file(path)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        # Only places and reasons: the content may hold a proxy's password.
        places = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:3])
        raise InvalidInput(
            f"cannot use {path}",
            why=places,
            resolution="Correct it, or enrol this computer again",
            code="FILE_DAMAGED",
        ) from None
