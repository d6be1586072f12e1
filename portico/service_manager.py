"""What systemd is told by a service that it started (sd_notify(3)): ready, about to stop, still turning."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import socket


def notify(state: str) -> None:
    """Says something, where there is a service manager that listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), address)


def watchdog() -> float | None:
    """Seconds after which this process is taken for stuck unless it has said that it is not; None: nobody watches.

    sd_watchdog_enabled(3): `WATCHDOG_USEC`, for the process `WATCHDOG_PID` alone if that is there.
    """
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


async def still_turning() -> None:
    """Says three times in that time that the event loop turns, until cancelled; ends at once when nobody watches.

    A process that is stuck is ended with SIGABRT, and then shows where on standard error.
    """
    seconds = watchdog()
    if seconds is None:
        return
    faulthandler.enable()
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 3)
