"""A new machine joins a cluster: asks with its token, keeps what it is given, and serves nothing before it is whole.

Everything lies beside where it will be used, without settings; the settings are stored last, and without them the agent
serves nothing. An attempt that was interrupted is repeated with the same token: the machine's key stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portico import __version__
from portico.certificates import replication
from portico.certificates.ca import AUTHORITY_NAME, CertificateAuthority
from portico.certificates.store import CertificateStore
from portico.certificates.tickets import save_tickets
from portico.certificates.trust import pin
from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError
from portico.files import private_directory, read_file, write_file
from portico.server import bringing
from portico.server.cluster_secrets import ClusterFiles, ClusterState
from portico.server.credentials import DIRECTORY
from portico.server.machine import write_own_name
from portico.server.peers import messages
from portico.server.peers.caller import Caller, PeerUnreachable
from portico.server.peers.records import ticket_keys
from portico.server.peers.tls import blind_context, caller_context, keep_member, make_member_request
from portico.server.peers.tokens import JoinToken
from portico.settings.model import Settings
from portico.settings.store import Revision, SettingsStore

JOIN_SECONDS = 160.0
REPORT_SECONDS = 5.0
"""A report is for people who look on; nothing waits long for it."""


@dataclass
class Joining:
    """One attempt of this machine.

    Args:
        addresses: of each interface, with their lengths.

    Attributes:
        server: the server that was asked, once it has answered.
    """

    token: JoinToken
    state: Path
    internet_interface: str
    internal_interface: str
    addresses: Mapping[str, Sequence[str]]
    server: str = ""
    revision: Revision | None = None
    _trust: str = ""
    _brought: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.token.name

    @property
    def settings(self) -> Settings:
        """The cluster's document, once `ask` has fetched it."""
        assert self.revision is not None
        return self.revision.settings

    def look(self) -> str:
        """Finds the server and checks that it is the one the token means; returns its name. Changes nothing.

        Raises:
            NotPermitted: code PIN_DIFFERS; something else answers there.
            Unavailable: code PEER_UNREACHABLE.
        """
        return asyncio.run(self._look())

    def ask(self) -> str:
        """Asks to be taken in, and keeps everything but the settings. Repeatable.

        Raises:
            PorticoError: of the server, with its reason, or of this machine's files.
        """
        return asyncio.run(self._ask())

    def fetch_records(self) -> int:
        """Reads all records of certificates; returns how many. Repeatable. Raises PorticoError."""
        return asyncio.run(self._fetch_records())

    def finish(self) -> None:
        """Stores the settings, which make this machine a server, and says so. Raises PorticoError."""
        assert self.revision is not None
        write_own_name(private_directory(self.state), self.name)
        store = SettingsStore.open(self.state)
        try:
            store.adopt([self.revision])
        finally:
            store.close()
        with contextlib.suppress(PeerUnreachable):  # it is confirmed as well when this server is heard of
            asyncio.run(self._tell("/v1/join/confirm"))

    def abandon(self) -> None:
        """Has the server take the entry out again, and forgets what it gave. Raises PorticoError."""
        try:
            asyncio.run(self._tell("/v1/join/abandon"))
        finally:
            bringing.remove(bringing.brought(ClusterFiles(self.state).directory))
            ClusterFiles(self.state).remove()
            write_own_name(self.state, None)

    def report(self, doing: str, failure: PorticoError | None = None) -> None:
        """Says on the server that made the token what is done here, for those who look on. Never fails.

        Before this machine was taken in there is nobody to say it to.
        """
        if self.revision is None:
            return
        told = {key: str(value)[:900] for key, value in failure.as_dict().items()} if failure is not None else None
        body = {"doing": doing[:200], "failure": told}
        with contextlib.suppress(PorticoError):
            asyncio.run(self._tell("/v1/join/progress", body))

    async def _look(self) -> str:
        caller = Caller(self.token.host, self.token.port, None, blind_context())
        try:
            data = await caller.get("/v1/trust")
        finally:
            await caller.close()
        if not isinstance(data, dict):
            raise messages.malformed("it is not an object")
        trust = messages.text(data, "trust", limit=16 << 10)
        try:
            same = pin(trust) == self.token.pin
        except InvalidInput:
            same = False
        if not same:
            raise NotPermitted(
                f"What answers on {self.token.host} is not the server that made the token",
                why="its cluster's CA is another one",
                resolution="Check the address, and whether somebody is between; then make a new token: "
                f"portico lb add {self.name}",
                code="PIN_DIFFERS",
            )
        self._trust, self.server = trust, messages.text(data, "server")
        return self.server

    async def _ask(self) -> str:
        await self._look()
        files = ClusterFiles(self.state)
        request = await asyncio.to_thread(make_member_request, files.directory, self.name)
        caller = self._caller(caller_context(self._trust, None))
        try:
            bundle = await caller.post("/v1/join", self._question(request), seconds=JOIN_SECONDS)
        finally:
            await caller.close()
        if not isinstance(bundle, dict) or messages.text(bundle, "name") != self.name:
            raise messages.malformed("it is not for this machine")
        await asyncio.to_thread(self._keep, bundle, files)
        return self.server

    def _question(self, request: str) -> dict[str, Any]:
        names = dict.fromkeys((self.internet_interface, self.internal_interface))
        return {
            "token": self.token.id,
            "secret": self.token.secret,
            "version": __version__,
            "request": request,
            "internet_interface": self.internet_interface,
            "internal_interface": self.internal_interface,
            "addresses": {name: list(self.addresses.get(name, ())) for name in names},
        }

    def _keep(self, bundle: dict[str, Any], files: ClusterFiles) -> None:
        revision = messages.revision(bundle.get("revision"))
        balancing = revision.settings.load_balancing
        if balancing is None or balancing.server(self.name) is None:
            raise messages.malformed(f"its settings have no server {self.name}")
        state = ClusterState.from_data(bundle.get("state"))
        tickets = ticket_keys(messages.items(bundle, "tickets", limit=8))
        authority = bundle.get("authority")
        self._keep_authority(messages.text(bundle, "authority", limit=64 << 10) if authority is not None else None)
        write_file(
            files.directory / "authority.pem", messages.text(bundle, "cluster_authority", limit=64 << 10).encode()
        )
        loaded = files.authority()
        if pin(loaded.pem) != self.token.pin:
            raise messages.malformed("the cluster's CA in it is not the token's")
        keep_member(files.directory, messages.text(bundle, "certificate", limit=64 << 10))
        save_tickets(self.state / DIRECTORY, tickets)
        files.save(state)
        self.revision = revision
        # Last, and noted: another file that is here is a reason to take the entry out again.
        self._brought = bringing.take(revision.settings, self.state, bundle.get("files") or [])
        bringing.note(files.directory, self._brought)

    def _keep_authority(self, pem: str | None) -> None:
        """The clients' CA. One that is here already and is another one stays: somebody may still need it."""
        directory = private_directory(self.state / DIRECTORY)
        if pem is None:
            return
        try:
            own = read_file(directory / AUTHORITY_NAME).decode()
        except NotFound:
            write_file(directory / AUTHORITY_NAME, pem.encode())
            CertificateAuthority.load(directory)
            return
        if own != pem:
            raise Conflict(
                "This machine has a certification authority of its own",
                why=f"{directory / AUTHORITY_NAME} is not the cluster's; there was another installation here",
                resolution="Take that off first: portico server uninstall --purge",
                code="CA_EXISTS",
            )

    async def _fetch_records(self) -> int:
        store = await asyncio.to_thread(lambda: CertificateStore.open(self.state / DIRECTORY, new=True))
        caller = self._caller(self._member_context())
        count, log, after = 0, "", 0
        try:
            while True:
                page = replication.Page.from_data(await caller.get("/v1/records", log=log, after=after, seconds=30.0))
                await asyncio.to_thread(replication.take_over, store, page)
                count += len(page.rows)
                if not page.more:
                    return count
                if page.log == log and page.number <= after:
                    raise messages.malformed("its records do not get on")
                log, after = page.log, page.number
        finally:
            await caller.close()
            await asyncio.to_thread(store.close)

    async def _tell(self, path: str, body: dict[str, Any] | None = None) -> None:
        caller = self._caller(self._member_context())
        try:
            await caller.post(path, body or {}, seconds=JOIN_SECONDS if body is None else REPORT_SECONDS)
        finally:
            await caller.close()

    def _member_context(self) -> ssl.SSLContext:
        files = ClusterFiles(self.state)
        return caller_context(self._trust or files.authority().pem, files.member)

    def _caller(self, context: ssl.SSLContext) -> Caller:
        return Caller(self.token.host, self.token.port, self.server, context)
