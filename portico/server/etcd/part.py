"""A machine's part in etcd: is added as a learner, votes when it has caught up, leaves when it is not wanted any more.

A server's keeper plays it with what the document says, a witness with what the servers tell it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from portico.connected import Door
from portico.errors import Conflict, Unavailable
from portico.server.etcd.member import DATA_NAME, MemberProcess, Membership, MembershipFile, Place, arguments
from portico.settings.etcd.client import EtcdClient, EtcdUnavailable, Member

log = logging.getLogger("portico.store")


@dataclass(frozen=True)
class Share:
    """What a machine is to be in etcd.

    Attributes:
        wanted: whether it is to be a member.
        place: where the others find it; None: it has no address that they know.
        files: "ca.pem", "crl.pem", and "store.pem", which holds a key. Others of them start etcd anew, which ends the
            connections of whoever is refused now.
    """

    name: str
    generation: str
    wanted: bool
    place: Place | None
    files: Mapping[str, str] = field(repr=False)


class Part:
    """This machine's member of etcd.

    Args:
        door: where the etcd of the unit connects; None starts it as a child.

    Attributes:
        tuning: more arguments of etcd.
        members: of etcd, as they were seen last.
    """

    def __init__(self, state: Path, door: Door | None = None) -> None:
        self.process = MemberProcess(state / DATA_NAME, door)
        self.file = MembershipFile(state)
        self.tuning: tuple[str, ...] = ()
        self.members: list[Member] = []
        self._told = False

    async def follow(self, share: Share, client: EtcdClient, *, there: bool) -> None:
        """Runs the member that this machine is, or is to be. Raises PorticoError; it is tried again.

        Args:
            there: whether the etcd that is meant answers. One that was made anew meanwhile answers at the same
                addresses, and nobody may be added to it who does not mean it.
        """
        membership = await asyncio.to_thread(self.file.load)
        if membership is not None and membership.generation != share.generation:
            await self.process.stop()
            await asyncio.to_thread(self.file.save, None)
            membership = None
        if not share.wanted:
            await self._step_down(share, membership, client, there=there)
            return
        if membership is not None and membership.had_data and self.process.data_lost:
            if not self._told:
                log.warning("etcd: the data of this machine is gone; it becomes another member")
                self._told = True
            await self.process.stop()
            membership = None
        if membership is None:
            if there:
                await self._be_added(share, client)
            return
        await self.run(share, membership)
        if self.process.running and there:
            if not membership.had_data:
                membership = replace(membership, had_data=True)
                await asyncio.to_thread(self.file.save, membership)
                await self.run(share, membership)
            await asyncio.to_thread(self._vote, share, client)

    async def run(
        self, share: Share, membership: Membership, keep: Sequence[str] = (), listen: Place | None = None
    ) -> None:
        """Has etcd run as this member; other members' data goes, but for what is to be kept."""
        if share.place is None:
            raise Unavailable("etcd cannot run here", why="this server has no address that the others know")
        command = [*arguments(share.name, share.place, membership, listen=listen), *self.tuning]
        await self.process.run(membership, command, share.files, keep)

    async def rest(self) -> None:
        """Runs none, and forgets what one had."""
        await self.process.stop()
        if await asyncio.to_thread(self.file.load) is not None:
            await asyncio.to_thread(self.file.save, None)
            await asyncio.to_thread(self.process.forget)

    async def _be_added(self, share: Share, client: EtcdClient) -> None:
        place = share.place
        if place is None:
            return

        def add() -> Membership:
            for member in client.members():
                if place.peer_url in member.peer_urls:  # this machine, before it lost what it had
                    client.remove(member.number)
            added, every = client.add_learner(place.peer_url)
            others = ",".join(
                f"{share.name if member.number == added.number else member.name}={url}"
                for member in every
                for url in member.peer_urls
            )
            membership = Membership(share.generation, f"{added.number:x}", others)
            self.file.save(membership)
            return membership

        try:
            membership = await asyncio.to_thread(add)
        except EtcdUnavailable:
            return  # no quorum: whoever asked for it says so
        except Conflict as error:
            log.info("etcd takes no new member now: %s", error.why)
            return
        self._told = False
        log.info("etcd: this machine is member %s and learns", membership.number)
        await self.run(share, membership)

    def _vote(self, share: Share, client: EtcdClient) -> None:
        try:
            self.members = client.members()
            for member in self.members:
                if member.name == share.name and share.place is not None:
                    self._tell_place(member, share.place, client)
                if member.learner and share.place is not None and share.place.peer_url in member.peer_urls:
                    client.promote(member.number)
                    log.info("etcd: this machine votes")
        except (Conflict, Unavailable) as error:
            log.debug("not yet: %s", error)

    @staticmethod
    def _tell_place(member: Member, place: Place, client: EtcdClient) -> None:
        """The address of this machine may have changed; its data, and that of the others, has the one it began with."""
        if place.peer_url not in member.peer_urls:
            client.move(member.number, place.peer_url)
            log.info("etcd: this machine is at %s now", place.peer_url)

    async def _step_down(self, share: Share, membership: Membership | None, client: EtcdClient, *, there: bool) -> None:
        """A member that is not wanted runs until etcd has taken it out: it may be needed for that."""
        if membership is None:
            await self.process.stop()
            return
        place, still = share.place, True
        if there:
            with contextlib.suppress(EtcdUnavailable):
                self.members = await asyncio.to_thread(client.members)
                still = any(place is not None and place.peer_url in member.peer_urls for member in self.members)
        if still:
            await self.run(share, membership)
            return
        await self.process.stop()
        await asyncio.to_thread(self.file.save, None)
