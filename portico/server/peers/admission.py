"""Taking machines into the cluster: tokens, what a new machine must show, what it is given, and taking that back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from portico.certificates.trust import to_pem
from portico.errors import Conflict, InvalidInput, PorticoError
from portico.files import read_file
from portico.server import bringing
from portico.server.additions.core import Attempts, Step
from portico.server.credentials import now_utc
from portico.server.peers import messages
from portico.server.peers.records import ticket_data
from portico.server.peers.tls import fingerprint, sign_member
from portico.server.peers.token_desk import Shown, TokenDesk, require_same_version
from portico.server.peers.tokens import LIFETIME, JoinToken, TokenSeen
from portico.settings import cluster
from portico.settings.addresses import parse_host_address
from portico.settings.load_balancing import ClusterServer
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

HostAddress = IPv4Interface | IPv6Interface
MAXIMUM_ADDRESSES = 64
_FAILURE = ("code", "what", "why", "resolution")


class Admission:
    """The part of a server that takes others in. One machine at a time."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._desk = TokenDesk(peers, peers.files.directory)
        self._tokens = self._desk.tokens
        self._one = asyncio.Lock()
        self.attempts = Attempts()

    async def create_token(self, name: str, wish: dict[str, Any], lifetime: timedelta = LIFETIME) -> JoinToken:
        """A token with which the machine called `name` joins once.

        Args:
            wish: what the administrator decided: {internet_dedicated_addresses, internal_dedicated_addresses, priority,
                weight}, each may be missing.

        Raises:
            PorticoError: LB_DISABLED, LB_SERVER_EXISTS, TOKEN_LIFETIME, TOKENS_FULL.
        """
        state, balancing, _ = self._peers.require_cluster()
        if balancing.server(name) is not None and name in state.members:
            raise Conflict(
                f"{name} is a server of the cluster already",
                why="its name is in load_balancing.servers, and it has joined",
                resolution=f"Take it out first: portico lb remove {name}",
                code="LB_SERVER_EXISTS",
            )
        async with self._one:
            token = await self._desk.create(name, wish, lifetime)
        self.attempts.forget(name)
        log.info("join_token=%s name=%s lifetime=%s", token.id, name, lifetime)
        return token

    async def tokens(self) -> list[dict[str, str]]:
        """Every token without its secret. Raises PorticoError."""
        return await asyncio.to_thread(self._tokens.as_list, now_utc())

    async def tokens_by_name(self) -> dict[str, TokenSeen]:
        """The newest token of each server. Raises PorticoError."""
        return await asyncio.to_thread(self._tokens.by_name, now_utc())

    async def join(self, body: dict[str, Any], address: str) -> dict[str, Any]:
        """Takes a machine in: verifies it, adds it to the document on all servers, and gives it what it needs.

        The same machine may ask again with the same token, for an answer that it did not get or could not keep.

        Raises:
            PorticoError: nothing was changed.
        """
        async with self._one:
            self._peers.require_cluster()
            shown = await self._desk.redeem(body)
            log.info("join=%s address=%s", shown.name, address)
            self.attempts.asked(shown.name)
            try:
                require_same_version(body, "This machine cannot join")
                return await self._admit(shown, body)
            except PorticoError as error:
                self.attempts.failed(shown.name, Step.CHECKING, error.as_dict())
                raise

    async def progress(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """A machine that was taken in says what it does, or why it failed."""
        failure = body.get("failure")
        if failure is None:
            self.attempts.doing(name, messages.text(body, "doing"))
            return {}
        if not isinstance(failure, dict):
            raise messages.malformed("'failure' is not an object")
        told = {key: messages.text({key: failure.get(key) or "-"}, key, limit=1000) for key in _FAILURE}
        self.attempts.failed(name, Step.JOINING, told)
        return {}

    async def _admit(self, shown: Shown, body: dict[str, Any]) -> dict[str, Any]:
        peers, token, name = self._peers, shown.token, shown.name
        latest = await asyncio.to_thread(peers.store().latest)
        assert latest is not None
        settings = latest.settings
        assert settings.load_balancing is not None
        authority = await asyncio.to_thread(peers.files.authority)
        certificate = sign_member(authority, name, shown.request, now_utc())
        member = fingerprint(certificate.public_bytes(serialization.Encoding.DER))
        existing = settings.load_balancing.server(name)
        changed = settings if existing is not None else _with_server(settings, _entry(settings, name, shown.wish, body))
        before = peers.state
        await peers.change_state(lambda state: state.with_member(name, member))
        if changed != settings:
            # Noted first: a server that is in the document without a note would stay there, whatever became of it.
            await asyncio.to_thread(self._tokens.note_added, token, latest.number)
            try:
                await peers.host.change(changed, expected=latest.number, author="join", comment=f"{name} joined")
            except BaseException:
                if before is not None and name not in before.members:
                    await peers.change_state(lambda state: state.without_member(name))
                raise
            revision = peers.host.revision
            await asyncio.to_thread(self._tokens.note_added, token, revision.number if revision is not None else 0)
        await peers.changed()
        newest = await asyncio.to_thread(peers.store().latest)
        assert newest is not None and peers.state is not None
        credentials = peers.credentials
        named = bringing.carried(newest.settings, peers.host.state).values()
        return {
            "name": name,
            "server": peers.own_name,
            "certificate": to_pem(certificate),
            "cluster_authority": _private(peers.files.directory / "authority.pem"),
            "state": peers.state.as_data(),
            "revision": messages.revision_data(newest),
            "authority": _private(credentials.authority_file) if credentials.authority is not None else None,
            "tickets": ticket_data(credentials.tickets),
            "files": await asyncio.to_thread(bringing.offer, named),
        }

    async def confirm(self, name: str) -> dict[str, Any]:
        """The machine has everything: it stays."""
        async with self._one:
            if await asyncio.to_thread(self._tokens.confirm, name):
                log.info("join=%s complete", name)
            self.attempts.kept(name)
        return {}

    async def abandon(self, name: str) -> dict[str, Any]:
        """The machine could not keep what it was given: it is no server after all. Only before it confirmed."""
        async with self._one:
            if not await asyncio.to_thread(self._tokens.confirm, name):
                raise Conflict(f"{name} has joined already", resolution=f"Take it out: portico lb remove {name}")
            await self._take_back(name)
        return {}

    async def tick(self) -> None:
        """Takes servers out again that joined and were never heard of. Raises PorticoError."""
        if self._one.locked() or not self._tokens_exist():
            return
        async with self._one:
            heard = {link.name for link in self._peers.links.reachable()}
            for name in await asyncio.to_thread(self._tokens.settle, heard, now_utc()):
                log.warning("join=%s was never finished", name)
                await self._take_back(name)

    def forget(self, name: str) -> None:
        """Tokens for a server that was taken out are of no use any more."""
        self.attempts.taken_out(name)
        try:
            self._tokens.burn(name)
        except PorticoError as error:
            log.warning("%s", error)

    def _tokens_exist(self) -> bool:
        return (self._peers.files.directory / "join_tokens.json").exists()

    async def _take_back(self, name: str) -> None:
        latest = await asyncio.to_thread(self._peers.store().latest)
        if latest is None or latest.settings.load_balancing is None or not latest.settings.load_balancing.server(name):
            return
        changed = cluster.remove_server(latest.settings, name)
        await self._peers.host.change(
            changed, expected=latest.number, author="join", comment=f"{name} did not finish joining"
        )


def _with_server(settings: Settings, server: ClusterServer) -> Settings:
    return cluster.add_server(settings, server)


def _entry(settings: Settings, name: str, wish: dict[str, Any], body: dict[str, Any]) -> ClusterServer:
    """The entry of a new server: what the administrator decided, and what the machine itself shows."""
    balancing = settings.load_balancing
    assert balancing is not None
    internet, internal = messages.text(body, "internet_interface"), messages.text(body, "internal_interface")
    here = settings.server
    if (internet == internal) != (here.internet_interface == here.internal_interface):
        raise Conflict(
            "This machine cannot join",
            why=f"it has {'one interface' if internet == internal else 'two interfaces'} for both sides, the "
            f"servers of the cluster have {'two' if internet == internal else 'one'}",
            resolution="All servers need the same topology",
            code="TOPOLOGY_DIFFERS",
        )
    shown = messages.section(body, "addresses")
    wishes = {
        key: list(wish.get(key) or ()) for key in ("internet_dedicated_addresses", "internal_dedicated_addresses")
    }
    if internet == internal:  # a single interface has all its addresses on the internal side
        wishes = {
            "internet_dedicated_addresses": [],
            "internal_dedicated_addresses": [text for texts in wishes.values() for text in texts],
        }
    internet_own: list[HostAddress] = []
    if internet != internal:
        own, virtual = wishes["internet_dedicated_addresses"], balancing.internet_virtual_addresses
        internet_own = _dedicated(own, shown, internet, virtual)
    own, virtual = wishes["internal_dedicated_addresses"], balancing.internal_virtual_addresses
    internal_own = _dedicated(own, shown, internal, virtual)
    priority = wish.get("priority")
    try:
        return ClusterServer(
            name=name,
            priority=priority if priority is not None else cluster.free_priority(settings),
            weight=wish["weight"] if wish.get("weight") is not None else 50,
            internet_interface=internet if internet != here.internet_interface else None,
            internal_interface=internal if internal != here.internal_interface else None,
            internet_dedicated_addresses=internet_own,
            internal_dedicated_addresses=internal_own,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(
            f"{name} cannot join",
            why=f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}",
            resolution="Correct what 'portico lb add' or 'portico server join' were given",
        ) from None


def _dedicated(
    wanted: list[str], shown: dict[str, Any], interface: str, virtual: Sequence[HostAddress]
) -> list[HostAddress]:
    """The addresses that the administrator gave, else those of the interface in the networks of the VIPs."""
    if wanted:
        return [parse_host_address(text) for text in wanted]
    found: list[HostAddress] = []
    for text in messages.items({"addresses": shown.get(interface, [])}, "addresses", limit=MAXIMUM_ADDRESSES):
        try:
            address = parse_host_address(str(text))
        except ValueError:
            continue  # link-local ones and the like: no interface has only addresses that could be dedicated ones
        if address not in found and any(address.version == v.version and address.ip in v.network for v in virtual):
            found.append(address)
    return found


def _private(path: Path) -> str:
    return read_file(path).decode()
