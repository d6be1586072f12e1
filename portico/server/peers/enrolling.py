"""Enrolment in a cluster: whichever server a remote computer asks, one server writes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from typing import TYPE_CHECKING

from portico.errors import PorticoError, Unavailable
from portico.server.gateway import Request, Response
from portico.server.peers import messages

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

MAXIMUM_HOPS = 2


class Enrolling:
    """Answers remote computers, by way of the leader."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def answer(self, request: Request, hops: int = 0) -> Response:
        """A request from a remote computer: writes go to the leader, whose answer is given.

        Args:
            hops: how many servers passed it on already. Who leads can look different from each for some seconds; the
                one that thinks it is the leader answers.
        """
        if self._peers.state is None or request.method != "POST":
            return await asyncio.to_thread(self._peers.host.enrolment.answer, request)
        tried: set[str] = set()
        while not self._peers.leads() and hops < MAXIMUM_HOPS:
            link = self._peers.links.get(self._peers.leader())
            if link is None or link.name in tried:
                break
            tried.add(link.name)
            body = {
                "peer": request.peer or "?",
                "method": request.method,
                "path": request.path,
                "body": base64.b64encode(request.body or b" ").decode(),
                "identity": request.identity,
                "hops": hops + 1,
            }
            try:
                data = await link.caller.post("/v1/enrolment", body, seconds=10.0)
                return Response(
                    messages.number(data, "status"),
                    messages.text(data, "content_type"),
                    base64.b64decode(messages.text(data, "body", limit=1 << 20), validate=True),
                )
            except binascii.Error:
                raise messages.malformed("'body' is not base64") from None
            except PorticoError as error:
                log.warning("server=%s does not answer for a remote computer: %s", link.name, error)
                link.answered = float("-inf")
        return await self.enrol_here(request)

    async def enrol_here(self, request: Request) -> Response:
        """Answers as the leader, and has the others know it before the remote computer does."""
        if request.path.endswith("/enrol") and not self._peers.acts_for_all():
            # Two halves of a cluster that both use up tokens would use one twice.
            error = Unavailable(
                "Computers cannot be enrolled now",
                why="most servers of the cluster cannot be reached",
                resolution="Try it again later",
                code="NO_QUORUM",
            )
            return Response(503, "application/json", json.dumps({"error": error.as_dict()}).encode())
        response = await asyncio.to_thread(self._peers.host.enrolment.answer, request)
        if response.status == 200:
            await self._peers.changed()
        return response
