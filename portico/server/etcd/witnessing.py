"""The servers' side of the witness: tokens for it, taking it in and out, and what it is told.

A witness is no server. What is it, is a certificate whose fingerprint stands in the document (`store.witness`); with it
that machine may ask where etcd is and whether it is to be a member, and nothing else on the peers' channel. etcd lets
it vote. It has a copy of what is in etcd, as every member does, but its certificate seals no revision. One that was
taken out is on the revocation list that every member of etcd has, with which it refuses that certificate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization

from portico.certificates.trust import to_pem
from portico.errors import Conflict, InvalidInput, NotFound
from portico.server.credentials import now_utc
from portico.server.etcd.identity import sign_store
from portico.server.peers.tls import fingerprint
from portico.server.peers.token_desk import TokenDesk, require_same_version
from portico.server.peers.tokens import LIFETIME, JoinToken
from portico.settings.cluster_store import Witness, voters, with_witness
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.store")

ASK, JOIN = ("GET", "/v1/store/witness"), ("POST", "/v1/store/witness/join")
TOKENS_DIRECTORY = "witness"


class Witnessing:
    """What one server does for the witness of its cluster."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._desk = TokenDesk(peers, peers.files.directory / TOKENS_DIRECTORY)
        self._one = asyncio.Lock()
        self._heard: tuple[str, float] = ("", 0.0)
        """Which witness, and when it asked last or began to be expected."""

    @property
    def witness(self) -> Witness | None:
        """The witness of the document in force."""
        document = self._peers.document
        return document.store.witness if document is not None and self._peers.state is not None else None

    def knows(self, shown: str | None) -> bool:
        """Whether a certificate's fingerprint is the witness."""
        witness = self.witness
        return witness is not None and witness.fingerprint == shown

    def silent_for(self) -> float | None:
        """Seconds since the witness was heard; None where none is to be."""
        witness, document = self.witness, self._peers.document
        if witness is None or document is None or witness.name not in voters(document).names:
            self._heard = ("", 0.0)
            return None
        if self._heard[0] != witness.fingerprint:
            self._heard = (witness.fingerprint, time.monotonic())
        return time.monotonic() - self._heard[1]

    def status(self) -> dict[str, Any] | None:
        """The witness as this server sees it; None without one."""
        witness = self.witness
        if witness is None:
            return None
        return {"name": witness.name, "address": str(witness.address), "silent_seconds": self.silent_for()}

    async def create_token(self, name: str, address: str | None, lifetime: timedelta = LIFETIME) -> JoinToken:
        """A token with which one machine becomes the witness, in place of one that there is.

        Args:
            address: where the servers find it; None: the one from which it asks.

        Raises:
            PorticoError: LB_DISABLED, STORE_NOT_ETCD, WITNESS_NAME, TOKEN_LIFETIME.
        """
        self._peers.require_cluster()
        assert self._peers.document is not None
        self._require_use(self._peers.document, name)
        wish = {"address": str(_address(address)) if address is not None else None}
        async with self._one:
            token = await self._desk.create(name, wish, lifetime)
        log.info("witness_token=%s name=%s", token.id, name)
        return token

    async def join(self, body: dict[str, Any], address: str) -> dict[str, Any]:
        """Takes a machine as the witness; it may ask again with the same token. Raises PorticoError."""
        async with self._one:
            peers = self._peers
            peers.require_cluster()
            asked = await self._desk.redeem(body)
            name, wish = asked.name, asked.wish
            require_same_version(body, "This machine cannot be the witness")
            latest = await asyncio.to_thread(peers.store().latest)
            assert latest is not None
            settings = latest.settings
            self._require_use(settings, name)
            place = _address(wish["address"] if wish.get("address") is not None else address)
            authority = await asyncio.to_thread(peers.files.authority)
            certificate = sign_store(authority, asked.key, name, [place], now_utc())
            shown = fingerprint(certificate.public_bytes(serialization.Encoding.DER))
            serial = f"{certificate.serial_number:x}"
            section = with_witness(settings.store, Witness(name=name, address=place, fingerprint=shown, serial=serial))
            await peers.host.change(
                settings.model_copy(update={"store": section}),
                expected=latest.number,
                author="join",
                comment=f"{name} is the witness",
            )
        log.info("witness=%s address=%s", name, place)
        return {"name": name, "certificate": to_pem(certificate), "trust": peers.trust, **await self.orders()}

    async def remove(self, author: str) -> Any:
        """Takes the witness out, and has etcd refuse its certificate; returns the change's outcome.

        Raises:
            NotFound: code NO_WITNESS.
            PorticoError: it is the witness still.
        """
        latest = await asyncio.to_thread(self._peers.store().latest)
        if latest is None or latest.settings.store.witness is None:
            raise NotFound("There is no witness", why="store.witness is null", code="NO_WITNESS")
        settings, name = latest.settings, latest.settings.store.witness.name
        section = with_witness(settings.store, None)
        return await self._peers.host.change(
            settings.model_copy(update={"store": section}),
            expected=latest.number,
            author=author,
            comment=f"{name} is the witness no longer",
        )

    async def answer(self) -> dict[str, Any]:
        """The witness asks: notes that it was heard, and tells it what to be."""
        witness = self.witness
        assert witness is not None
        self._heard = (witness.fingerprint, time.monotonic())
        return await self.orders()

    async def orders(self) -> dict[str, Any]:
        """What the witness is to be, and whom to ask. Nothing else of the settings."""
        peers = self._peers
        latest = await asyncio.to_thread(peers.store().latest)
        assert latest is not None
        settings = latest.settings
        store, balancing, state = settings.store, settings.load_balancing, peers.state
        assert store.witness is not None and balancing is not None and state is not None
        name = store.witness.name
        place = peers.keeper.locate(settings, name)
        servers = [(server.name, peers.links.locate(server)) for server in balancing.servers]
        return {
            "revision": latest.number,
            "generation": store.generation or "",
            "cluster": state.cluster_id,
            "wanted": name in voters(settings).names,
            "host": place.host if place is not None else "",
            "endpoints": list(peers.keeper.endpoints(settings)),
            "crl": await asyncio.to_thread(peers.keeper.refused, settings),
            "servers": [[server, *where] for server, where in servers if where is not None],
        }

    def _require_use(self, settings: Settings, name: str) -> None:
        if settings.store.kind != "etcd" or settings.store.endpoints:
            raise Conflict(
                "A witness has nothing to do",
                why="it votes in Portico's own etcd, and the settings are not in it",
                resolution="Move them there first: portico cluster store move etcd",
                code="STORE_NOT_ETCD",
            )
        if settings.load_balancing is not None and settings.load_balancing.server(name) is not None:
            raise Conflict(
                f"{name} cannot be the witness",
                why="a server of the cluster has this name, and a witness is a machine of its own",
                resolution="Choose another name",
                code="WITNESS_NAME",
            )


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidInput(
            f"'{text[:100]}' cannot be the witness's address", why="it is no IP address", code="WITNESS_ADDRESS"
        ) from None
