"""Clusters that this user connects to: URL, the CA that their servers' certificates are checked by, and credentials.

One file, `$XDG_CONFIG_HOME/portico/clusters.json`, that only its owner reads.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from portico.errors import InvalidInput, NotFound, NotPermitted
from portico.files import private_directory, read_file, write_file

FILE_NAME: Final = "clusters.json"
PORT: Final = 2506
TOKEN_VARIABLE: Final = "PORTICO_TOKEN"  # noqa: S105  # a name, no token
CA_VARIABLE: Final = "PORTICO_CA"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", flags=re.ASCII)


@dataclass(frozen=True)
class Profile:
    """One cluster.

    Attributes:
        url: `https://host:port` of any of its servers.
        authority: PEM of the CA that signs its servers' certificates; None: those of the system are trusted.
        token: an API token or a session.
        certificate: file with an administrator's certificate and key.
        names: whether a server's certificate must be for its name: the CA signs others than this cluster's servers.
    """

    name: str
    url: str
    authority: str | None = None
    token: str | None = field(default=None, repr=False)
    certificate: str | None = None
    names: bool = False


class Profiles:
    """The file of one user."""

    def __init__(self, path: Path, profiles: Mapping[str, Profile]) -> None:
        self._path = path
        self._profiles = dict(profiles)

    @classmethod
    def load(cls) -> Profiles:
        """Raises InvalidInput (PROFILES_DAMAGED), NotPermitted (PROFILES_OPEN): others could read the tokens."""
        path = _path()
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise NotPermitted(
                    f"{path} is not used",
                    why=f"its mode is {mode:04o}: others than you can read the tokens in it",
                    resolution=f"Look who did, revoke the tokens if need be, and: chmod 600 {path}",
                    code="PROFILES_OPEN",
                )
            data = json.loads(read_file(path))
            return cls(path, {name: Profile(name=name, **item) for name, item in data["clusters"].items()})
        except (FileNotFoundError, NotFound):
            return cls(path, {})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InvalidInput(
                f"{path} cannot be used",
                why="it is damaged",
                resolution=f"Remove it and connect again: rm {path}; portico connect NAME URL",
                code="PROFILES_DAMAGED",
            ) from None

    def find(self, text: str) -> Profile:
        """The cluster of a name, or the one at a URL with what the environment says about it.

        Raises:
            NotFound: code NO_SUCH_CLUSTER. InvalidInput: code URL_INVALID.
        """
        variable = os.environ.get(TOKEN_VARIABLE)
        if "://" in text:
            known = next((p for p in self._profiles.values() if p.url == address(text)), None)
            found = known or Profile(text, address(text), authority=_authority())
        elif text in self._profiles:
            found = self._profiles[text]
        else:
            names = ", ".join(sorted(self._profiles)) or "none yet"
            raise NotFound(
                f"There is no cluster {text[:63]}",
                why=f"connected were: {names}",
                resolution="Connect to it first: portico connect NAME https://SERVER",
                code="NO_SUCH_CLUSTER",
            )
        return replace(found, token=variable) if variable else found

    def names(self) -> list[str]:
        return sorted(self._profiles)

    def keep(self, profile: Profile) -> None:
        """Adds or replaces one. Raises Unavailable, InvalidInput (CLUSTER_NAME_INVALID)."""
        if not _NAME.fullmatch(profile.name):
            raise InvalidInput(
                f"'{profile.name[:63]}' cannot be a cluster's name",
                why="a name has letters, digits, '.', '_' and '-'",
                resolution="Connect with a name: portico connect NAME https://SERVER",
                code="CLUSTER_NAME_INVALID",
            )
        private_directory(self._path.parent)
        self._profiles[profile.name] = profile
        data = {name: {k: v for k, v in asdict(p).items() if k != "name"} for name, p in self._profiles.items()}
        write_file(self._path, json.dumps({"clusters": data}, indent=1).encode())


def address(text: str) -> str:
    """`https://host:port` of what a person wrote. Raises InvalidInput (URL_INVALID)."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme != "https" or parts.path.strip("/") or parts.query or parts.username:
        raise InvalidInput(
            f"'{text[:200]}' is no address of a cluster",
            why="it is https://, a name or address of a server, and perhaps a port",
            resolution=f"Write it like https://da1.corp.example.net:{PORT}",
            code="URL_INVALID",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "portico" / FILE_NAME


def _authority() -> str | None:
    path = os.environ.get(CA_VARIABLE)
    return read_file(Path(path)).decode("ascii", "replace") if path else None
