"""Asks through a way in: names, pages, pings, files. Every packet leaves on the way's interface or not at all."""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
import socket
import ssl
import struct
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from portico.client.assistant.names import NotFoundInDns, Server, addresses_of
from portico.location.reach import NotReached, get
from portico.naming.nrpt import Table
from portico.settings.addresses import Address
from portico.settings.assistant import Probe

PING_TIMEOUT = 2.0
PING_AGAIN = 0.7
FILE_TIMEOUT = 8.0

_ECHO_REQUEST, _ECHO_REPLY = 128, 129
_ICMP6_FILTER = 1
# linux/icmpv6.h: a bit that is set blocks the type.
_ONLY_REPLIES = struct.pack(
    "=8I", *(0xFFFFFFFF & ~(1 << (_ECHO_REPLY & 31)) if w == _ECHO_REPLY >> 5 else 0xFFFFFFFF for w in range(8))
)


class Through:
    """What can be asked through one way in.

    Args:
        device: its interface.
        table: the rules that say which DNS servers know a name.
        context: for https.
    """

    def __init__(self, device: str, table: Table, context: ssl.SSLContext) -> None:
        self.device = device
        self._table = table
        self._context = context

    async def resolve(self, name: str) -> tuple[Address, ...]:
        """The IPv6 addresses of a name of the intranet. Raises NotFoundInDns."""
        try:
            return (ip_address(name),)
        except ValueError:
            pass
        servers = self._table.servers_for(name)
        if not servers:
            raise NotFoundInDns("no rule of the NRPT leads to a DNS server for it", answered=True)
        asked = [Server(_bracketed(server), self.device) for server in servers]
        return await addresses_of(name, asked, ("AAAA",))

    async def corp_connectivity(self, name: str, expected: Sequence[IPv6Address]) -> str:
        """Empty when the name has one of the addresses that it must have; otherwise why not."""
        try:
            found = await self.resolve(name)
        except NotFoundInDns as error:
            return f"{name}: {error}"
        if set(found) & set(expected):
            return ""
        return f"{name} is {', '.join(map(str, found))} and must be {' or '.join(map(str, expected))}"

    async def page(self, url: str, *, only: int | None = None) -> str:
        """Empty when a page comes: with a status below 400, or with `only` that status. Otherwise why not."""
        host = urlsplit(url).hostname or ""
        try:
            addresses = await self.resolve(host)
        except NotFoundInDns as error:
            return f"{host}: {error}"
        why = ""
        for address in addresses[:2]:
            try:
                page = await get(url, address, self._context, device=self.device)
            except NotReached as error:
                why = f"{address}: {error}"
                continue
            if (page.status == only) if only is not None else page.status < 400:
                return ""
            why = f"{address} answers {page.status}{_reasons(page.body)}"
        return why

    async def ping(self, host: str) -> str:
        """Empty when it answers; otherwise why not."""
        try:
            addresses = await self.resolve(host)
        except NotFoundInDns as error:
            return f"{host}: {error}"
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await _ping(str(addresses[0]), self.device)
        except TimeoutError:
            return f"{addresses[0]} does not answer a ping within {PING_TIMEOUT:g} s"
        except OSError as error:
            return f"{addresses[0]} cannot be pinged: {error.strerror or error}"
        return ""

    async def probe(self, probe: Probe) -> str | None:
        """A configured probe: empty when it succeeds, otherwise why not; None when this computer lacks the means."""
        match probe.kind:
            case "HTTP":
                return await self.page(probe.target)
            case "PING":
                return await self.ping(probe.host)
            case "FILE":
                return await _file(probe)


async def _ping(address: str, device: str) -> None:
    """Returns when an answer to our own question came. Raises OSError."""
    loop = asyncio.get_running_loop()
    token = os.urandom(12)  # number, sequence and eight bytes that only the one who was asked can send back
    packet = struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + token  # the kernel fills in the checksum
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as channel:
        channel.setblocking(False)
        channel.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _ONLY_REPLIES)
        if device:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        channel.connect((address, 0))  # sends nothing, and the loop cannot resolve addresses of raw sockets
        await loop.sock_sendall(channel, packet)
        again = loop.call_later(PING_AGAIN, _send_again, channel, packet)
        try:
            while (await loop.sock_recv(channel, 1500))[4:16] != token:
                pass
        finally:
            again.cancel()


def _send_again(channel: socket.socket, packet: bytes) -> None:
    try:
        channel.send(packet)
    except OSError:
        return  # the answer to the first one may still come; if not, the time ends


async def _file(probe: Probe) -> str | None:
    """Whether a file of a share exists, by Samba's client and without a user's name; None without that program."""
    program = shutil.which("smbclient")
    if program is None:
        return None
    directory, _, name = probe.path.rpartition("\\")
    command = [program, f"//{probe.host}/{probe.share}", "-N", "-D", directory or "\\", "-c", f'ls "{name}"']
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(FILE_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        return f"no answer within {FILE_TIMEOUT:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode("utf-8", "replace")
    if process.returncode == 0 and "NT_STATUS_" not in said:
        return ""
    return " ".join(said.split())[-200:] or f"smbclient ended with {process.returncode}"


def _reasons(body: str) -> str:
    """What the web probe's page of a server that is unavailable lists."""
    items = [" ".join(html.unescape(item).split()) for item in re.findall(r"<li>([^<]{1,400})</li>", body)]
    return f": {'; '.join(items[:4])}" if items else ""


def _bracketed(server: Address) -> str:
    """As `split_server` reads it."""
    return f"[{server}]:53" if server.version == 6 else str(server)
