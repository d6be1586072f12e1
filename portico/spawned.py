"""Children that the agent starts itself: a program under another account that inherits its channel and descriptors.

The agent needs the privileges to become that account for it. Under the shipped units it has none of them, and children
connect instead, see `portico.connected`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from portico.child import Begun, Program, Start
from portico.errors import NotFound, Unavailable

log = logging.getLogger("portico.supervisor")


def account(name: str) -> str | None:
    """Who a child runs as. Only root can become another user; then the account must exist, or the start says so."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(name)
    except KeyError:
        log.error("user=%s does not exist; its process cannot start without it", name)
    return name


class Spawner:
    """Starts children. See `portico.child.Source`."""

    awaited = ""
    unit: str | None = None

    async def available(self) -> None:
        """Always."""

    async def begin(self, program: Program, start: Start) -> Begun:
        """Starts one, which ends with this process at the latest.

        Raises:
            NotFound, Unavailable: the account or setpriv is missing.
            OSError: no process can be had.
        """
        command = drop_privileges(program)
        _allow_descriptors(start.descriptors)
        return await launch(command, program, start)


async def launch(prefix: Sequence[str], program: Program, start: Start) -> Begun:
    """Starts a program's module with its channel and descriptors, its command line behind a prefix.

    Raises:
        OSError: no process can be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            fds = sorted({fd for group in start.fds.values() for fd in group} | {theirs.fileno()})
            process = await asyncio.create_subprocess_exec(
                *prefix,
                sys.executable,
                "-P",
                "-m",
                program.module,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                close_fds=True,
                env=child_environment(),
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return Begun(SpawnedChild(process), ours, start.fds)


class SpawnedChild:
    """A process of this one's own. See `portico.child.Child`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ended(self) -> None:
        await self._process.wait()

    async def reap(self) -> None:
        await self._process.wait()

    def status(self) -> str:
        return _exit_reason(self._process.returncode)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def drop_privileges(program: Program) -> list[str]:
    """The prefix of the child's command line that drops privileges: util-linux's setpriv.

    An external program does it because code between fork and exec in a threaded interpreter can deadlock. Without root
    there is nothing to drop, and it could not even start where a unit forbids the call capset; what else it would do
    every child does itself (`portico.native_process.harden`).

    Raises:
        NotFound: the account does not exist.
        Unavailable: setpriv is not installed.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if setpriv is None:
        raise Unavailable(
            f"Cannot start the {program.name} process",
            why="setpriv is not installed",
            resolution="Install the package util-linux",
        )
    prefix = [setpriv, "--no-new-privs", "--pdeathsig", "KILL"]
    prefix += ["--inh-caps", "-all", "--ambient-caps", "-all", "--bounding-set", "-all"]
    if program.user is not None:
        try:
            account = pwd.getpwnam(program.user)
        except KeyError:
            raise NotFound(
                f"Cannot start the {program.name} process",
                why=f"there is no user {program.user}",
                resolution=f"Create it: useradd --system --no-create-home --shell /usr/sbin/nologin {program.user}",
            ) from None
        prefix += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid)]
    return [*prefix, "--clear-groups", "--"]


def child_environment() -> dict[str, str]:
    """The whole environment of a child: enough to find its own code, nothing of the parent's."""
    root = str(Path(__file__).resolve().parent.parent)
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _allow_descriptors(wanted: int) -> None:
    """Raises this process's limit, which children inherit: a child that runs as another user is beyond its reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in sorted({hard, max(hard, wanted)}, reverse=True):
        if soft >= limit:
            break
        with contextlib.suppress(OSError, ValueError):  # then the next lower one
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            break


def _exit_reason(returncode: int | None) -> str:
    if returncode is None:
        return "it does not end"
    if returncode < 0:
        try:
            return f"killed by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"killed by signal {-returncode}"
    return f"exit status {returncode}"
