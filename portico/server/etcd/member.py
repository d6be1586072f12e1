"""This server's member of etcd: what it is started with, and the file that says which member it is."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from portico.child import Program, Start
from portico.connected import Door
from portico.errors import InvalidInput, NotFound, Unavailable
from portico.files import read_file, remove_file, write_file
from portico.supervisor import ChildState, Supervisor

log = logging.getLogger("portico.store")

USER = "portico-store"
UNIT = "portico-store.service"
MODULE = "portico.server.etcd.process"
FILE_NAME = "store.json"
DATA_NAME = "etcd"
CLIENT_PORT, PEER_PORT = 2379, 2380
"""As registered for etcd."""
QUOTA = 512 << 20
"""Bytes of etcd's database. 500 revisions of the largest document have less."""
FOUNDING_HOST = "127.23.79.1"
"""Where the first member of a new cluster listens until this machine has its dedicated address; not 127.0.0.1, where an
etcd of the distribution may be."""


@dataclass(frozen=True)
class Membership:
    """Which member of etcd this server is.

    Attributes:
        number: etcd's own number of the member, in hex; "founder" for the first one of a generation.
        others: `name=url` of all members when this one was added, for etcd's --initial-cluster.
        had_data: whether it has run: without data it is another member then, and must be added anew.
    """

    generation: str
    number: str
    others: str
    founder: bool = False
    had_data: bool = False

    @property
    def data(self) -> str:
        """Name of the directory of its data. A member that is added anew gets another one."""
        return f"{self.generation}-{self.number}"


@dataclass(frozen=True)
class Place:
    """Where a member is."""

    host: str
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    def _authority(self, port: int) -> str:
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def client_url(self) -> str:
        return f"https://{self._authority(self.client_port)}"

    @property
    def peer_url(self) -> str:
        return f"https://{self._authority(self.peer_port)}"


class MembershipFile:
    """The membership on disk. Raises PorticoError."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    def load(self) -> Membership | None:
        try:
            data = json.loads(read_file(self._path))
            return Membership(
                str(data["generation"]),
                str(data["number"]),
                str(data["others"]),
                data["founder"] is True,
                data["had_data"] is True,
            )
        except NotFound:
            return None
        except (ValueError, LookupError, TypeError, RecursionError, InvalidInput) as error:
            log.warning("%s cannot be used (%s): this server joins etcd anew", self._path, error)
            return None

    def save(self, membership: Membership | None) -> None:
        if membership is None:
            try:
                remove_file(self._path)
            except OSError as error:
                raise Unavailable(f"Cannot delete {self._path}", why=str(error)) from None
            return
        write_file(self._path, json.dumps(asdict(membership)).encode())


def arguments(
    name: str,
    place: Place,
    membership: Membership,
    *,
    listen: Place | None = None,
    quota: int = QUOTA,
    election_ms: int = 1000,
) -> list[str]:
    """etcd's command line. TLS and certificates of the cluster's CA on both listeners, always.

    Args:
        place: where the others find it.
        listen: where it listens instead while it has no others, as the machine does not have that address yet.
    """
    here = listen if listen is not None else place
    tls = ["--client-cert-auth", "--trusted-ca-file", "{files}/ca.pem"]
    tls += ["--cert-file", "{files}/store.pem", "--key-file", "{files}/store.pem"]
    tls += ["--peer-client-cert-auth", "--peer-trusted-ca-file", "{files}/ca.pem"]
    tls += ["--peer-cert-file", "{files}/store.pem", "--peer-key-file", "{files}/store.pem"]
    tls += ["--client-crl-file", "{files}/crl.pem", "--peer-crl-file", "{files}/crl.pem"]
    # A member of another server may come from any of its addresses; what counts is its certificate.
    tls += ["--experimental-peer-skip-client-san-verification"]
    return [
        *("--name", name, "--data-dir", "{data}"),
        *("--listen-client-urls", here.client_url, "--advertise-client-urls", place.client_url),
        *("--listen-peer-urls", here.peer_url, "--initial-advertise-peer-urls", place.peer_url),
        *("--initial-cluster-token", f"portico-{membership.generation}"),
        *("--initial-cluster", membership.others),
        *("--initial-cluster-state", "new" if membership.founder else "existing"),
        *("--heartbeat-interval", str(max(20, election_ms // 10)), "--election-timeout", str(election_ms)),
        *("--quota-backend-bytes", str(quota), "--snapshot-count", "10000", "--pre-vote"),
        *("--logger", "zap", "--log-level", "error"),
        *tls,
    ]


class MemberProcess:
    """Keeps this server's etcd running.

    Args:
        directory: of etcd's data where the agent starts etcd itself.
        door: where the unit's process connects; its data is in the unit's own directory.
    """

    def __init__(self, directory: Path, door: Door | None) -> None:
        self.door = door
        self.reason = ""
        """Why it ended last; the agent's supervisor knows less."""
        self._directory = directory
        self._config: dict[str, Any] | None = None
        program = Program(
            "etcd", MODULE, heartbeat="status", heartbeat_interval=5.0, heartbeat_timeout=20.0, stop_timeout=8.0
        )
        self.supervisor = Supervisor(program, self._prepare, self._event, source=door)

    @property
    def running(self) -> bool:
        return self.supervisor.state is ChildState.RUNNING

    @property
    def data_lost(self) -> bool:
        """Whether it cannot start because its data is gone."""
        return "STORE_DATA_LOST" in self.supervisor.last_failure or "STORE_DATA_LOST" in self.supervisor.reason

    def open(self) -> None:
        """Lets the unit's process connect. Raises Unavailable."""
        if self.door is not None:
            self.door.open()

    def close(self) -> None:
        """After `stop`."""
        if self.door is not None:
            self.door.close()

    async def run(
        self, membership: Membership, command: list[str], files: Mapping[str, str], keep: Sequence[str] = ()
    ) -> None:
        """Starts etcd, or starts it anew with another command line or other files."""
        config = {
            "directory": None if self.door is not None else str(self._directory),
            "data": membership.data,
            "must_exist": membership.had_data,
            "keep": list(keep),
            "files": dict(files),
            "arguments": command,
        }
        if self._config is not None and _same(self._config, config):
            self._config = config
            if self.supervisor.state is ChildState.STOPPED:
                self.supervisor.start()
            return
        await self.stop()
        self._config = config
        self.reason = ""
        self.supervisor.last_failure = ""
        self.supervisor.start()

    async def stop(self) -> None:
        """Ends etcd; its data stays."""
        self._config = None
        if self.supervisor.state is not ChildState.STOPPED:
            await self.supervisor.stop()

    def forget(self) -> None:
        """Deletes the data, after `stop`. That of the unit goes when its etcd starts the next time."""
        if self.door is None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """State of the process."""
        watched = self.supervisor
        reason = self.reason or watched.reason
        if self.door is not None and watched.state in (ChildState.STOPPED, ChildState.STARTING) and not reason:
            reason = self.door.awaited
        found = watched.status()
        del found["since"]
        return {**found, "reason": "" if watched.state is ChildState.RUNNING else reason}

    def _prepare(self) -> Start:
        if self._config is None:
            raise Unavailable("etcd is not to run")
        return Start(self._config)

    def _event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "etcd_ended":
            self.reason = str(event.get("reason", ""))[:600]
            log.error("etcd: %s", self.reason)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether etcd runs the same way with both; what only the next start looks at may differ."""
    return all(one[name] == other[name] for name in ("directory", "data", "files", "arguments"))
