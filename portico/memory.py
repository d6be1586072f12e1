"""How the C library keeps memory for a process of many threads."""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

_M_ARENA_MAX = -8
"""malloc.h of glibc."""


def share_one_heap() -> None:
    """Has all threads allocate from one heap. Call it before the first of them starts.

    glibc gives threads heaps of their own (mallopt(3), M_ARENA_MAX), so that they do not wait for each other, and none
    of these gives back what it once held: an agent whose pool of threads comes and goes grows for hours. With the
    interpreter's lock there is hardly anybody to wait for. Other C libraries have one heap, and no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_M_ARENA_MAX, 1) != 1:
        log.warning("threads keep heaps of their own: memory may grow for some hours")
