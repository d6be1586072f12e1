"""What a support bundle holds: each item with where it comes from and how large it may be.

Nothing here reads a private key, a password or a token. Of the state directory only what is known to be harmless is
taken, field by field; other files are listed by name.
"""

from __future__ import annotations

import json
import os
import platform
import selectors
import shutil
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate, load_pem_x509_certificates
from pydantic import BaseModel

from portico import __version__
from portico.client.assistant.report import Report
from portico.client.control_client import ask
from portico.client.enrol import effective_proxy
from portico.client.firewall import TABLE
from portico.client.identity import ClientFiles, ClientSettings, LocalSettings
from portico.client.surface.words import plain
from portico.errors import InvalidInput, PorticoError, Unavailable
from portico.files import read_file

PATIENCE: Final = 5.0
"""Seconds for one command."""
SMALL: Final = 64 << 10
MEDIUM: Final = 256 << 10
LARGE: Final = 2 << 20
MARGIN: Final = 4096
"""Bytes that are taken beyond an item's limit, so that a secret which the cut goes through is whole before it."""
_MAXIMUM_LISTED = 200
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = ("portico-client", "portico-tunnel")
_PACKAGES = ("cryptography", "fastapi", "h11", "httpx", "pydantic", "pyroute2", "uvicorn")


@dataclass(frozen=True)
class Item:
    """One file of the bundle.

    Attributes:
        source: where it comes from, for people.
        limit: bytes; what is beyond is left out.
        take: makes it. Raises PorticoError, whose text stands in the bundle instead.
    """

    name: str
    source: str
    limit: int
    take: Callable[[], bytes]


def sources(files: ClientFiles, *, etc: Path = Path("/etc"), control_socket: Path | None = None) -> tuple[Item, ...]:
    """Every item, in the order in which it is collected.

    Args:
        control_socket: the agent's; None for this machine's.
    """
    answers: dict[str, dict[str, Any]] = {}

    def agent(operation: str) -> dict[str, Any]:
        if operation not in answers:
            answers[operation] = ask("GET", operation, path=control_socket, timeout=PATIENCE)
        return answers[operation]

    def from_agent(operation: str) -> Callable[[], bytes]:
        return lambda: _json(agent(operation))

    listed = [
        Item("status.json", "the agent: portico client status --json", LARGE, from_agent("status")),
        Item("chain.txt", "the agent: the chain of checks", MEDIUM, lambda: _chain(agent("status"))),
        Item("agent-log.txt", "the agent: its last log lines", LARGE, lambda: _log(agent("log"))),
        Item("readers.json", "the agent: the status socket's counters", SMALL, from_agent("readers")),
        Item("settings.json", "the server's settings, as this computer has them", MEDIUM, lambda: _settings(files)),
        Item("choices.json", "this computer's own choices, the proxy without user and password", SMALL,
             lambda: _choices(files)),
        Item("certificate.txt", "this computer's certificate and the CAs it trusts: names and times", SMALL,
             lambda: _certificates(files)),
        Item("state-directory.txt", f"{files.directory}: names, sizes and modes", SMALL,
             lambda: _listing(files.directory)),
        Item("versions.json", "versions of Portico, Python, libraries and the kernel; the clock", SMALL, _versions),
    ]  # fmt: skip
    for name, path in (
        ("resolv.conf", etc / "resolv.conf"),
        ("resolv.conf.before", files.resolv_record),
        ("nsswitch.conf", etc / "nsswitch.conf"),
        ("hosts", etc / "hosts"),
        ("os-release", etc / "os-release"),
    ):
        listed.append(Item(name, f"file {path}", SMALL, _reader(path)))
    for name, limit, command in (
        ("addresses.txt", MEDIUM, ("ip", "-details", "-statistics", "address")),
        ("routes-ipv4.txt", MEDIUM, ("ip", "-4", "route", "show", "table", "all")),
        ("routes-ipv6.txt", MEDIUM, ("ip", "-6", "route", "show", "table", "all")),
        ("rules-ipv4.txt", SMALL, ("ip", "-4", "rule")),
        ("rules-ipv6.txt", SMALL, ("ip", "-6", "rule")),
        ("firewall.txt", MEDIUM, ("nft", "list", "table", "inet", TABLE)),
        ("resolved.txt", MEDIUM, ("resolvectl", "--no-pager", "status")),
        ("units.txt", MEDIUM, ("systemctl", "--no-pager", "--lines=0", "status", *_UNITS)),
        # The newest first: what is beyond the limit is the oldest.
        ("journal.txt", LARGE, ("journalctl", "--no-pager", "--reverse", "--lines=5000", "--output=short-iso",
                                *(f"--unit={unit}" for unit in _UNITS))),
    ):  # fmt: skip
        listed.append(Item(name, f"command: {' '.join(command)}", limit, _command(command, limit)))
    return tuple(listed)


def _json(data: object) -> bytes:
    return json.dumps(data, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _chain(status: dict[str, Any]) -> bytes:
    try:
        return plain(Report.from_dict(status.get("assistant"))).encode("utf-8", "replace")
    except ValueError as error:
        raise InvalidInput("The agent's status has no chain of checks", why=str(error)) from None


def _log(answer: dict[str, Any]) -> bytes:
    lines = [str(line) for line in answer.get("lines", ())]
    if answer.get("forgotten"):
        lines.insert(0, f"({answer['forgotten']} older lines are forgotten)")
    return "\n".join(lines).encode("utf-8", "replace") + b"\n"


def _model(path: Path, model: type[BaseModel]) -> BaseModel:
    """Reads a file or the copy beside it; writes nothing. The error repeats nothing of the content."""
    try:
        return model.model_validate_json(read_file(path))
    except (PorticoError, ValueError) as error:
        try:
            return model.model_validate_json(read_file(path.with_name(f"{path.name}.last")))
        except (PorticoError, ValueError):
            if isinstance(error, PorticoError):
                raise error from None
            raise InvalidInput(f"{path} cannot be used", why="its content is not what it should be") from None


def _settings(files: ClientFiles) -> bytes:
    return _json(_model(files.directory / "settings.json", ClientSettings).model_dump(mode="json"))


def _choices(files: ClientFiles) -> bytes:
    path = files.directory / "local.json"
    chosen = _model(path, LocalSettings) if os.path.lexists(path) else LocalSettings()
    assert isinstance(chosen, LocalSettings)
    proxy = effective_proxy(chosen)
    shown = chosen.model_dump(mode="json") | {"proxy": proxy.url if proxy else None}
    return _json(shown | {"proxy_from_environment": chosen.proxy == "environment"})


def _certificates(files: ClientFiles) -> bytes:
    """Names, times and fingerprints. The first file holds the private key too, of which nothing is used."""
    lines: list[str] = []
    for title, path in (("This computer", files.identity_path), ("Trusted", files.trust_path)):
        lines.append(f"{title}:")
        try:
            found = load_pem_x509_certificates(read_file(path))
        except PorticoError as error:
            lines.append(f"  {error}")
        except ValueError:
            lines.append(f"  {path} holds no certificate")
        else:
            lines += [line for certificate in found for line in _describe(certificate)]
    return "\n".join(lines).encode("utf-8", "replace") + b"\n"


def _describe(certificate: Certificate) -> list[str]:
    return [
        f"  subject {certificate.subject.rfc4514_string()}, issuer {certificate.issuer.rfc4514_string()}",
        f"    serial {certificate.serial_number:x}, valid {certificate.not_valid_before_utc.isoformat()}"
        f" to {certificate.not_valid_after_utc.isoformat()}",
        f"    SHA-256 {certificate.fingerprint(SHA256()).hex()}",
    ]


def _listing(directory: Path) -> bytes:
    lines = []
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise Unavailable(f"{directory} cannot be listed", why=str(error)) from None
    for name in names[:_MAXIMUM_LISTED]:
        try:
            found = (directory / name).lstat()
        except OSError as error:
            lines.append(f"{name}: {error.strerror}")
            continue
        changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
        lines.append(f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {found.st_size} {changed} {name}")
    if len(names) > _MAXIMUM_LISTED:
        lines.append(f"({len(names) - _MAXIMUM_LISTED} more)")
    return "\n".join(lines).encode("utf-8", "replace") + b"\n"


def _versions() -> bytes:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return _json(
        {
            "portico": __version__,
            "python": sys.version,
            "openssl": ssl.OPENSSL_VERSION,
            "libraries": {package: installed(package) for package in _PACKAGES},
            "kernel": " ".join(platform.uname()[2:5]),
            "system": platform.system(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds_since_boot": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
        }
    )


def _reader(path: Path) -> Callable[[], bytes]:
    return lambda: read_file(path, limit=SMALL)


def _command(command: Sequence[str], limit: int) -> Callable[[], bytes]:
    return lambda: run(command, limit)


def run(command: Sequence[str], limit: int, *, patience: float = PATIENCE) -> bytes:
    """What a command prints, at most `MARGIN` bytes more than `limit`; it is ended when that or its time is reached.

    Raises:
        Unavailable: it is not installed, cannot be started, or is not done in time.
    """
    what = f"'{' '.join(command)}' says nothing"
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise Unavailable(what, why=f"{command[0]} is not installed")
    deadline, data = time.monotonic() + patience, bytearray()
    try:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"LC_ALL": "C.UTF-8", "PATH": _PATH},
        )
    except OSError as error:
        raise Unavailable(what, why=str(error)) from None
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(data) < limit + MARGIN:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                process.kill()
                raise Unavailable(what, why=f"it is not done within {patience:g} s")
            part = os.read(process.stdout.fileno(), limit + MARGIN - len(data))
            if not part:
                return bytes(data)
            data += part
        process.kill()
    return bytes(data)
