"""Runs an agent and its API in one process until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from portico import paths
from portico.connected import Door
from portico.errors import Conflict, PorticoError, Unavailable
from portico.files import exclusive
from portico.management.api.app import create_app
from portico.management.api.connection import MAXIMUM_HEAD, ApiProtocol
from portico.management.api.forwarding import Forwarding
from portico.management.api.guard import EACH, STRANGERS, Guard
from portico.management.api.listener import ApiListener
from portico.memory import keep_small, share_one_heap
from portico.server import gateway
from portico.server.agent import Agent
from portico.server.balancer import handle as balancer
from portico.server.balancer.ask_link import ask_link
from portico.server.control import LOG_VARIABLE, bound_log
from portico.server.etcd import member
from portico.server.location import pages as location
from portico.service_manager import notify, still_turning

log = logging.getLogger("portico.server")

STOP_TIMEOUT = 3
LOCK_NAME = "agent.lock"
GROUPS_LOOK = 1.0
LOG_LOOK = 10.0
"""Seconds between looks at the size of a detached server's log."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process ends in an order of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(agent: Agent, path: Path) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status.

    Readiness (sd_notify) is told when the API answers and the first attempt to serve has ended, well or not: a broken
    deployment must be reachable to be repaired.

    Raises:
        Conflict: another agent has the state or the socket.
        Unavailable: the socket cannot be made.
    """
    with exclusive(
        agent.state / LOCK_NAME,
        what="The server cannot start",
        resolution="Another Portico server runs on this machine; stop it first: portico server stop",
    ):
        return await _serve(agent, open_socket(path))


async def _serve(agent: Agent, listener: socket.socket) -> int:
    path = Path(listener.getsockname())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = api_config(agent)
    server = _Server(config)
    network = ApiListener(agent, config)
    agent.access.listening = lambda: network.problem
    api = asyncio.create_task(server.serve(sockets=[listener]))
    keeping = asyncio.create_task(_keep_log_bounded())
    beside: list[asyncio.Task[None]] = []
    try:
        await agent.start()
        set_aside_what_stays()
        beside = [asyncio.create_task(network.run()), asyncio.create_task(_open_to_groups(agent, path))]
        notify("READY=1")
        beside += [asyncio.create_task(still_turning()), asyncio.create_task(keep_small())]
        log.info("ready socket=%s revision=%s", path, agent.revision.number if agent.revision else None)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, api}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        notify("STOPPING=1")
        log.info("stopping")
        keeping.cancel()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        server.should_exit = True
        await asyncio.gather(api, return_exceptions=True)
        failures = await agent.stop()
        listener.close()
        _remove(path)
    for failure in failures:
        log.error("left behind: %s", failure)
    return 1 if failures else 0


def set_aside_what_stays() -> None:
    """Has the collector of cycles pass over what is there now: modules, models and routes stay as long as the process.

    It looks through everything again and again otherwise, for 150 ms while nothing else runs, and a list of the API
    makes enough objects to set it off at every second call.
    """
    gc.collect()
    gc.freeze()


def api_config(agent: Agent) -> uvicorn.Config:
    """How every listener serves the API: behind the guard, which knows who asks by the protocol's word alone."""
    forwarding = Forwarding(agent.peers)
    guard = Guard(create_app(agent), agent.access, forwarding, strangers=STRANGERS, each=EACH)
    forwarding.serve(guard)
    return uvicorn.Config(
        guard,
        http=ApiProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT,
        limit_concurrency=512,
        h11_max_incomplete_event_size=MAXIMUM_HEAD,
    )


async def _open_to_groups(agent: Agent, path: Path) -> None:
    """Lets others than root connect to the socket while a group has a role; the kernel says who each of them is."""
    while True:
        groups = any(mapping.source == "unix_group" for mapping in agent.access.settings.roles)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(path.chmod, 0o666 if groups else 0o600)
        await asyncio.sleep(GROUPS_LOOK)


async def _keep_log_bounded() -> None:
    name = os.environ.get(LOG_VARIABLE)
    if not name:
        return
    while True:
        try:
            await asyncio.to_thread(bound_log, Path(name), sys.stderr.fileno())
        except (OSError, ValueError) as error:
            log.warning("log=%s cannot be kept small: %s", name, error)
        await asyncio.sleep(LOG_LOOK)


def open_socket(path: Path) -> socket.socket:
    """The API's Unix socket, 0600, in place of one that a dead agent left.

    Raises:
        Conflict: a living agent answers on it.
        Unavailable: it cannot be made.
    """
    what = f"Cannot listen on {path}"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise Conflict(
                        what,
                        why="another Portico server runs on this machine",
                        resolution="Stop it first: portico server stop",
                    )
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # the socket must not be open to others for an instant
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(64)
    except OSError as error:
        raise Unavailable(
            what, why=error.strerror or str(error), resolution=f"Run as root; check: ls -ld {path.parent}"
        ) from None
    return listener


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def log_to_stderr(*, verbose: bool = False) -> None:
    """One event a line. Under the journal (JOURNAL_STREAM) without a time, which it adds itself."""
    journal = "JOURNAL_STREAM" in os.environ
    form = "%(levelname)s %(name)s %(message)s" if journal else "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("portico").setLevel(logging.DEBUG if verbose else logging.INFO)


class _OneLine(logging.Formatter):
    """A traceback belongs to its event: it goes into the same line."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\\n")


def run(
    state: Path,
    path: Path,
    *,
    gateway_socket: Path | None = None,
    balancer_socket: Path | None = None,
    store_socket: Path | None = None,
    location_socket: Path | None = None,
    verbose: bool = False,
) -> int:
    """The body of `portico server run`. Raises PorticoError when it cannot even begin."""
    log_to_stderr(verbose=verbose)
    share_one_heap()

    async def body() -> int:
        door = Door(gateway_socket, gateway.USER, gateway.UNIT) if gateway_socket is not None else None
        beside = Door(balancer_socket, balancer.USER, balancer.UNIT) if balancer_socket is not None else None
        pages = Door(location_socket, location.USER, location.UNIT) if location_socket is not None else None
        etcd = Door(store_socket, member.USER, member.UNIT) if store_socket is not None else None
        agent = Agent(
            state,
            paths.log_directory(),
            door=door,
            balancer_door=beside,
            location_door=pages,
            store_door=etcd,
            probe=ask_link,
        )
        return await serve(agent, path)

    try:
        return asyncio.run(body())
    except PorticoError as error:
        log.error("%s", error)
        raise
