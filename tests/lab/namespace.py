"""Runs a test's body in a process of its own with an empty network namespace, so that nothing it does is left behind.

inet ---- eth0 [the machine under test] eth1 10.0.0.2/24 ---- eth0 10.0.0.4/24 [corp]
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

_CLONE_NEWNET = 0x40000000

INTERNAL_IPV4 = "10.0.0.2"
CORP_IPV4 = "10.0.0.4"
ORGANISATION = "fd7c:1a2b:3c4d"


def command(*arguments: str, check: bool = True) -> str:
    """Runs a program in the current namespace and returns its output."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout


def isolated(body: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the test runs in a forked process in its own network namespace."""

    @functools.wraps(body)
    def run(*args: object, **kwargs: object) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(theirs, body, args, kwargs))
        child.start()
        theirs.close()
        try:
            problem = ours.recv() if ours.poll(120) else "the test did not end within 120 s"
        except EOFError:
            problem = f"the test's process died (status {child.exitcode})"
        if child.is_alive():
            child.join(5)
        if child.is_alive():
            child.kill()
        child.join()
        assert problem is None, problem

    return run


def _child(channel: Connection, body: Callable[..., None], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        command("ip", "link", "set", "lo", "up")
        body(*args, **kwargs)
        channel.send(None)
    except BaseException:
        channel.send(traceback.format_exc())
    finally:
        channel.close()
        os._exit(0)


class Neighbour:
    """Another host: a namespace held by a sleeping process."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        ours, theirs = Path("/proc/thread-self/ns/net").readlink(), Path(f"/proc/{self._holder.pid}/ns/net")
        while theirs.readlink() == ours:
            assert self._holder.poll() is None
            time.sleep(0.001)
        self.pid = str(self._holder.pid)

    def command(self, *arguments: str, check: bool = True) -> str:
        return command("nsenter", "-t", self.pid, "-n", *arguments, check=check)

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["nsenter", "-t", self.pid, "-n", *arguments], stdout=subprocess.PIPE)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextmanager
def corporate_network() -> Iterator[Neighbour]:
    """The machine's two interfaces and a corporate host behind eth1."""
    corp = Neighbour()
    try:
        for scope in ("all", "default"):  # nothing here can collide, and addresses are compared before and after
            Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0")
        command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "inet")
        command("ip", "link", "set", "inet", "up")
        command("ip", "link", "set", "eth0", "up")
        command("ip", "addr", "add", "203.0.113.11/24", "dev", "eth0")
        command("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", corp.pid)
        command("ip", "addr", "add", f"{INTERNAL_IPV4}/24", "dev", "eth1")
        command("ip", "-6", "addr", "add", f"{ORGANISATION}:1::2/64", "dev", "eth1", "nodad")
        command("ip", "link", "set", "eth1", "up")
        corp.command("ip", "link", "set", "lo", "up")
        corp.command("ip", "addr", "add", f"{CORP_IPV4}/24", "dev", "eth0")
        corp.command("ip", "-6", "addr", "add", f"{ORGANISATION}:1::4/64", "dev", "eth0", "nodad")
        corp.command("ip", "link", "set", "eth0", "up")
        corp.command("ip", "-6", "route", "add", f"{ORGANISATION}:1000::/59", "via", f"{ORGANISATION}:1::2")
        _wait_for_link_local("inet", "eth0", "eth1")
        yield corp
    finally:
        corp.close()


def _wait_for_link_local(*interfaces: str) -> None:
    """The kernel gives an interface its link-local address some time after it has come up."""
    deadline = time.monotonic() + 30
    while True:
        there = command("ip", "-6", "-o", "addr", "show", "scope", "link", "-tentative")
        if all(f" {name} " in there for name in interfaces):
            return
        assert time.monotonic() < deadline, f"no link-local addresses: {there}"
        time.sleep(0.01)
