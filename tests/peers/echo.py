"""Echoes UDP datagrams and TCP streams on one port, and swallows TCP streams on the next one, saying their SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import sys


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sha256 = hashlib.sha256()
    while data := await reader.read(1 << 20):
        sha256.update(data)
    writer.write(sha256.hexdigest().encode())
    writer.close()


async def main(address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Datagrams, local_addr=(address, port))
    servers = [await asyncio.start_server(echo, address, port), await asyncio.start_server(digest, address, port + 1)]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
