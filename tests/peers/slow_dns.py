"""A way to a DNS server on which every question over UDP is held up. Arguments: port, server, its port, seconds."""

from __future__ import annotations

import asyncio
import sys
from typing import Any


class _Question(asyncio.DatagramProtocol):
    """Waits for the answer to one question."""

    def __init__(self, answered: asyncio.Future[bytes]) -> None:
        self._answered = answered

    def datagram_received(self, data: bytes, _peer: Any) -> None:
        if not self._answered.done():
            self._answered.set_result(data)


class Slow(asyncio.DatagramProtocol):
    """Takes questions."""

    def __init__(self, server: tuple[str, int], seconds: float) -> None:
        self._server, self._seconds = server, seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        task = asyncio.create_task(self._pass(data, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, data: bytes, peer: Any) -> None:
        await asyncio.sleep(self._seconds)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Question(answered), remote_addr=self._server)
        try:
            transport.sendto(data)
            async with asyncio.timeout(5.0):
                self._transport.sendto(await answered, peer)
        except TimeoutError:
            pass  # as if it were lost
        finally:
            transport.close()


async def main() -> None:
    port, server, server_port, seconds = sys.argv[1:]
    loop = asyncio.get_running_loop()
    slow = Slow((server, int(server_port)), float(seconds))
    await loop.create_datagram_endpoint(lambda: slow, local_addr=("0.0.0.0", int(port)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
