"""Threads of an agent share one heap, and what is free in it goes back to the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

THREADS = """
import re, sys, threading
from portico.memory import share_one_heap
if sys.argv[1] == "shared":
    share_one_heap()
ready = threading.Barrier(9)
def work():
    kept = [bytes(20_000) for _ in range(10)]
    ready.wait(10)
    ready.wait(10)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
ready.wait(10)
maps = open("/proc/self/maps").read()
ready.wait(10)
# A thread's heap begins at a multiple of 64 MiB and reserves that much (malloc/arena.c, HEAP_MAX_SIZE).
spans = [(int(a, 16), int(b, 16), mode) for a, b, mode in re.findall(r"^(\\w+)-(\\w+) (\\S+)", maps, re.M)]
heaps = [a for a, b, _ in spans if a % 2**26 == 0 and any(c == b and d == a + 2**26 for c, d, mode in spans)]
print(len(heaps))
"""


HOLES = """
import re
from portico.memory import give_back
def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Anonymous: +(\\d+)", file.read())[1])
blocks = [bytes(20_000) for _ in range(3000)]
full = anonymous()
kept = blocks[::100] + blocks[-1:]
del blocks
freed = anonymous()
give_back()
print(full, freed, anonymous())
"""


def test_free_pages_between_others_go_back() -> None:
    child = subprocess.run([sys.executable, "-c", HOLES], stdout=subprocess.PIPE, text=True, timeout=60.0, check=True)
    full, freed, given = map(int, child.stdout.split())
    assert full - freed < 20_000 < full - given, "KiB; without the call nearly nothing goes back"


@pytest.mark.parametrize(("mode", "some"), [("shared", False), ("own", True)])
def test_threads_have_no_heaps_of_their_own(mode: str, some: bool) -> None:
    """The second case shows that the first one would notice."""
    child = subprocess.run(
        [sys.executable, "-c", THREADS, mode], stdout=subprocess.PIPE, text=True, timeout=60.0, check=True
    )
    assert (int(child.stdout) > 0) is some
