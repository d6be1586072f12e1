"""What the servers of one cluster share and nobody else may know: keys, the hash seed, who is a member.

    <state>/cluster/           0700
        authority.pem ca.pem   the cluster's own CA: it signs members' certificates and nothing else
        member.pem       0600  this server's key and certificate
        secrets.json     0600  `ClusterState`

The cluster's CA is not the clients': whoever holds a client certificate is nobody to the peers' channel.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from portico.certificates.ca import CertificateAuthority
from portico.errors import InvalidInput, NotFound, Unavailable
from portico.files import private_directory, read_file, remove_file, remove_tree, write_file

DIRECTORY = "cluster"
SECRETS_NAME = "secrets.json"
MEMBER_NAME = "member.pem"
KEY_BYTES = 32
KEY_ROTATION = timedelta(days=30)
KEY_DISTRIBUTION = timedelta(hours=1)
"""A new heartbeat key is known so long before it signs: a server that missed it would not understand the others."""
MAXIMUM_STATE = 256 << 10
MAXIMUM_MEMBERS = 32

Random = Callable[[int], bytes]


@dataclass(frozen=True)
class HeartbeatKey:
    """A key of the heartbeats, 32 bytes; it signs from `since` on. Its number (0 to 255) is in every heartbeat."""

    number: int
    key: bytes = field(repr=False)
    since: datetime


@dataclass(frozen=True)
class ClusterSecrets:
    """What the heartbeats and the packet filter need.

    Attributes:
        keys: (number, 32 bytes), the one that signs first, then the one that is only understood, if any.
        seed: 32 bits, of the hash that spreads clients over buckets.
    """

    cluster_id: str
    keys: tuple[tuple[int, bytes], ...] = field(repr=False)
    seed: int = field(repr=False)


@dataclass(frozen=True)
class ClusterState:
    """The shared state; of two versions the higher one holds.

    Attributes:
        members: server name to the SHA-256 (hex) of the one certificate that is that server. Nothing else is a member:
            a certificate that is not here, whoever signed it, is refused.
        keys: newest first, at most two.
    """

    version: int
    cluster_id: str
    seed: int = field(repr=False)
    keys: tuple[HeartbeatKey, ...] = field(repr=False)
    members: Mapping[str, str]

    def current(self, now: datetime) -> ClusterSecrets:
        """The keys in the order of their use: one that is too young is understood but does not sign yet."""
        signing = [key for key in self.keys if key.since <= now] or list(self.keys[-1:])
        ordered = [signing[0], *(key for key in self.keys if key is not signing[0])]
        return ClusterSecrets(self.cluster_id, tuple((key.number, key.key) for key in ordered), self.seed)

    def rotated(self, now: datetime, random: Random = secrets.token_bytes) -> ClusterState:
        """With a new heartbeat key when the newest is old enough; otherwise the same object. Pure but for `random`."""
        newest = self.keys[0]
        if now - newest.since < KEY_ROTATION - KEY_DISTRIBUTION:
            return self
        key = HeartbeatKey((newest.number + 1) % 256, random(KEY_BYTES), now + KEY_DISTRIBUTION)
        return replace(self, version=self.version + 1, keys=(key, newest))

    def with_member(self, name: str, fingerprint: str) -> ClusterState:
        """That certificate is that server from now on, and no other one."""
        if self.members.get(name) == fingerprint:
            return self
        return replace(self, version=self.version + 1, members={**self.members, name: fingerprint})

    def without_member(self, name: str) -> ClusterState:
        """No certificate is that server any more."""
        if name not in self.members:
            return self
        left = {other: value for other, value in self.members.items() if other != name}
        return replace(self, version=self.version + 1, members=left)

    def as_data(self) -> dict[str, Any]:
        """JSON data. Secret: it goes into private files and over the peers' channel only."""
        return {
            "version": self.version,
            "cluster_id": self.cluster_id,
            "seed": self.seed,
            "keys": [{"number": k.number, "key": k.key.hex(), "since": k.since.isoformat()} for k in self.keys],
            "members": dict(self.members),
        }

    @classmethod
    def from_data(cls, data: Any) -> ClusterState:
        """Raises InvalidInput (CLUSTER_STATE_DAMAGED) for anything that `as_data` does not make."""
        try:
            keys = tuple(
                HeartbeatKey(int(item["number"]), bytes.fromhex(item["key"]), datetime.fromisoformat(item["since"]))
                for item in data["keys"]
            )
            members = {str(name): str(value) for name, value in data["members"].items()}
            state = cls(int(data["version"]), str(data["cluster_id"]), int(data["seed"]), keys, members)
            if not (
                1 <= len(keys) <= 2
                and all(len(k.key) == KEY_BYTES and 0 <= k.number < 256 and k.since.tzinfo for k in keys)
                and len({k.number for k in keys}) == len(keys)
                and 0 <= state.seed < 1 << 32
                and 0 < len(state.cluster_id) <= 64
                and 0 < state.version < 1 << 53
                and len(members) <= MAXIMUM_MEMBERS
                and all(len(value) == 64 for value in members.values())
            ):
                raise ValueError("a value is out of its range")
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise InvalidInput(
                "The state of the cluster cannot be used",
                why=f"it is damaged ({type(error).__name__})",
                resolution="Restore it from a backup, or take this server out and let it join again",
                code="CLUSTER_STATE_DAMAGED",
            ) from None
        return state


def new_state(now: datetime, random: Random = secrets.token_bytes) -> ClusterState:
    """The state of a new cluster."""
    key = HeartbeatKey(1, random(KEY_BYTES), now.astimezone(UTC))
    return ClusterState(1, random(16).hex(), int.from_bytes(random(4)), (key,), {})


class ClusterFiles:
    """The directory of the cluster on this server."""

    def __init__(self, state: Path) -> None:
        self.directory = state / DIRECTORY

    @property
    def member(self) -> Path:
        return self.directory / MEMBER_NAME

    def exists(self) -> bool:
        return (self.directory / SECRETS_NAME).exists()

    def load(self) -> ClusterState | None:
        """The shared state, None while this server is in no cluster.

        Raises:
            PorticoError: the file is there and cannot be used; it is named.
        """
        path = self.directory / SECRETS_NAME
        try:
            return ClusterState.from_data(json.loads(read_file(path, limit=MAXIMUM_STATE)))
        except NotFound:
            return None
        except (ValueError, RecursionError):
            why = "it is damaged"
        except InvalidInput as error:
            why = error.why
        raise InvalidInput(
            f"{path} cannot be used",
            why=why,
            resolution="Restore it from a backup, or take this server out and let it join again",
            code="CLUSTER_STATE_DAMAGED",
        )

    def save(self, state: ClusterState) -> None:
        """Keeps the state, 0600. Raises Unavailable."""
        private_directory(self.directory)
        write_file(self.directory / SECRETS_NAME, json.dumps(state.as_data()).encode())

    def authority(self) -> CertificateAuthority:
        """The cluster's CA. Raises NotFound, InvalidInput."""
        return CertificateAuthority.load(self.directory)

    def remove(self) -> None:
        """Forgets everything of the cluster. The shared state goes first: without it nothing of the rest is used.

        Raises:
            Unavailable: something could not be deleted; repeat it.
        """
        try:
            remove_file(self.directory / SECRETS_NAME)
            if self.directory.exists():
                remove_tree(self.directory)
        except OSError as error:
            raise Unavailable(
                f"Cannot delete {self.directory}", why=str(error), resolution=f"Delete it: rm -r {self.directory}"
            ) from None


def load_cluster_secrets(state: Path, now: datetime) -> ClusterSecrets | None:
    """The secrets of this server's cluster, None while it is in none. Raises PorticoError when they are damaged."""
    found = ClusterFiles(state).load()
    return found.current(now) if found is not None else None
