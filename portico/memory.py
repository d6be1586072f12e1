"""How the C library keeps memory for an agent: a process of many threads that runs for months."""

from __future__ import annotations

import asyncio
import ctypes
import logging

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two times at which memory is given back."""

_LIBRARY = ctypes.CDLL(None)
_M_ARENA_MAX = -8
"""malloc.h of glibc."""


def share_one_heap() -> None:
    """Has all threads allocate from one heap. Call it before the first of them starts.

    glibc gives threads heaps of their own (mallopt(3), M_ARENA_MAX), so that they do not wait for each other, and each
    keeps free memory for itself. With the interpreter's lock there is hardly anybody to wait for. Other C libraries
    have one heap, and no such call.
    """
    mallopt = getattr(_LIBRARY, "mallopt", None)
    if mallopt is not None and mallopt(_M_ARENA_MAX, 1) != 1:
        log.warning("threads keep heaps of their own: memory may grow for some hours")


def give_back() -> None:
    """Returns pages of the heap that hold nothing to the kernel, wherever they lie: glibc does so by itself only at the
    end of the heap, which something small keeps occupied. Takes some milliseconds. malloc_trim(3); other C libraries do
    it all the time, or not at all."""
    trim = getattr(_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)


async def keep_small() -> None:
    """Gives back what is free now and then, until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL)
        await asyncio.to_thread(give_back)
