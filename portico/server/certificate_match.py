"""Whether what a server shows is what the deployment wants: one that missed a change of certificates is stopped.

Its clients would be shown another name than the one they dialled, or would not know where they are. It stays stopped in
load balancing while another server has the right certificates, and goes on by itself when it has them too.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico.certificates.imported import describe
from portico.certificates.trust import parse_certificates
from portico.errors import Conflict, PorticoError
from portico.files import read_file
from portico.settings.located import nls_name, serves_nls
from portico.settings.model import Settings
from portico.settings.rules.certificates import names_cover

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.server")

INTERVAL = 2.0
CODE = "CERTIFICATE_MISMATCH"


def mismatch(document: Settings, shown: str, page: str) -> str:
    """What is wrong about the certificates of a server, in words; empty when nothing is. Pure.

    Args:
        document: the newest settings of the cluster, whether they could be applied here or not.
        shown: PEM chain that clients are shown; empty when that is not known.
        page: the same of the network location server, where its certificate is imported.
    """
    if shown:
        names, connect_to = _names(shown), document.deployment.connect_to
        if not names_cover(names, connect_to):
            return f"clients dial {connect_to}, and the certificate that they are shown is for {_text(names)}"
    name = nls_name(document)
    if page and name is not None and serves_nls(document):
        names = _names(page)
        if not names_cover(names, name):
            return f"the network location server is {name}, and its certificate is for {_text(names)}"
    return ""


class CertificateMatch:
    """Of one agent.

    Attributes:
        problem: why this server is stopped; None while it is not.
        why: what is wrong about its certificates, also when it serves all the same; empty when nothing is.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.problem: PorticoError | None = None
        self.why = ""

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            async with self._agent.transactions.lock:  # between storing and applying everything differs
                await self._again()

    async def _again(self) -> None:
        settings, revision = self._agent.platform.settings, self._agent.revision
        if settings is None or revision is None or settings.load_balancing is None:
            self.problem, self.why = None, ""
            return
        former = self.problem
        local = await self.judged(settings)
        if (former is None) == (self.problem is None):
            return
        try:
            await self._agent.balancer.apply(local, revision.number, self._agent.peers.secrets())
        except PorticoError as error:
            log.warning("the balancer does not take what the certificates mean, it is tried again: %s", error)
            self.problem = former

    async def judged(self, local: Settings) -> Settings:
        """The document as the balancer is to read it: with this server stopped when its certificates are wrong.

        Args:
            local: the document that is in force here or about to be.
        """
        if local.load_balancing is None:
            return local
        try:
            self.why = await asyncio.to_thread(self._look, local)
        except PorticoError as error:
            log.warning("certificates cannot be compared with the settings: %s", error)
            return self._stopped(local) if self.problem is not None else local
        former = self.problem
        self.problem = _problem(self.why) if self.why and self._others_fit() else None
        if str(former) != str(self.problem):
            log.warning("certificates=%s %s", "wrong" if self.problem is not None else "right", self.why)
        return self._stopped(local) if self.problem is not None else local

    def greeting(self) -> dict[str, Any]:
        """For the other servers."""
        return {"mismatch": self.why[:300]}

    def reasons(self) -> dict[str, str]:
        """Why servers are stopped, by name, as far as they said so."""
        links = self._agent.peers.links.reachable()
        found = {link.name: str(link.said.get("mismatch") or "") for link in links}
        if self.problem is not None:
            found[self._agent.peers.own_name] = str(self.problem)
        return {name: why for name, why in found.items() if why}

    def refuse(self, command: str) -> None:
        """Raises Conflict when this server is told to start and would show the wrong certificate."""
        if command == "start" and self.problem is not None:
            raise Conflict(
                "The server cannot start now", why=self.problem.why, resolution=self.problem.resolution, code=CODE
            )

    def _look(self, local: Settings) -> str:
        latest = self._agent.store().latest()
        document = latest.settings if latest is not None else local
        page, section = "", local.network_location_server
        if local.certificates.mode == "imported" and section.certificate is not None:
            try:
                page = read_file(Path(section.certificate)).decode(errors="replace")
            except PorticoError as error:
                log.debug("file=%s is not compared: %s", section.certificate, error)  # the pages say what is wrong
        return mismatch(document, self._agent.credentials.shown, page)

    def _others_fit(self) -> bool:
        return any(link.said.get("mismatch") == "" for link in self._agent.peers.links.reachable())

    @staticmethod
    def _stopped(local: Settings) -> Settings:
        balancing = local.load_balancing
        assert balancing is not None
        servers = [
            server.model_copy(update={"state": "stopped"})
            if server.name == local.server.name and server.state == "started"
            else server
            for server in balancing.servers
        ]
        return local.model_copy(update={"load_balancing": balancing.model_copy(update={"servers": servers})})


def _names(pem: str) -> tuple[str, ...]:
    try:
        return describe("", "", parse_certificates(pem.encode(), source="the certificate")[0]).names
    except PorticoError:
        return ()


def _text(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) or "no name"


def _problem(why: str) -> PorticoError:
    return PorticoError(
        "This server is stopped in load balancing: it missed a change of certificates",
        why=why,
        resolution="Put the certificate and key there that the other servers have, or see in portico server status why "
        "the newest settings are not in force here; it goes on by itself",
        code=CODE,
    )
