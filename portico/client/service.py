"""`portico client run`: the agent and its control socket, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from pathlib import Path

from portico.client.agent import ACCOUNT, TUNNEL_UNIT, ClientAgent
from portico.client.control import ControlServer, listen
from portico.client.identity import ClientFiles
from portico.connected import Door
from portico.files import exclusive, private_directory
from portico.memory import keep_small, share_one_heap
from portico.paths import client_socket, client_status_socket
from portico.service_manager import notify, still_turning

log = logging.getLogger("portico.client.service")

LOCK_NAME = "agent.lock"


def run(socket_path: Path | None = None, *, tunnel_socket: Path | None = None) -> None:
    """Runs in the foreground until SIGTERM or SIGINT; SIGHUP reloads.

    Args:
        tunnel_socket: where the tunnel process of its unit connects; None starts it as a child.

    Raises:
        Conflict: code AGENT_RUNNING.
        NotFound: there is no account for the tunnel process.
        Unavailable: the control socket, or the one for the tunnel process, cannot be made.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    # These say one line for each request and each netlink message.
    for noisy in ("httpx", "httpcore", "pyroute2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    share_one_heap()
    # The resolver has a socket for every question under way; the usual soft limit is as low as its own bound.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    path = client_socket() if socket_path is None else socket_path
    files = ClientFiles()
    door = Door(tunnel_socket, ACCOUNT, TUNNEL_UNIT) if tunnel_socket is not None else None
    lock = private_directory(files.directory) / LOCK_NAME
    what, resolution = "The client's agent cannot start", "Look at it: systemctl status portico-client"
    with exclusive(lock, what=what, resolution=resolution):
        listener = listen(path)
        try:
            asyncio.run(_run(listener, files, door))
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


async def _run(listener: socket.socket, files: ClientFiles, door: Door | None) -> None:
    if door is not None:
        door.open()
    agent = ClientAgent(files, door=door)
    logging.getLogger().addHandler(agent.surface.tail)
    agent.surface.open(client_status_socket())
    control = ControlServer(agent, listener)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(agent.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    serving = loop.create_task(control.run_until_stopped(), name="control socket")
    stopping = loop.create_task(stop.wait())
    starting = loop.create_task(agent.start(), name="start")
    telling = loop.create_task(agent.surface.keep(agent.report), name="tell the status")
    notify("READY=1")
    beside = [
        loop.create_task(still_turning(), name="watchdog"),
        loop.create_task(keep_small(), name="memory"),
    ]
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        notify("STOPPING=1")
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await agent.stop()
        telling.cancel()
        for task in beside:
            task.cancel()
        await asyncio.gather(telling, *beside, return_exceptions=True)
        await agent.surface.close()
        if door is not None:
            door.close()
        control.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
