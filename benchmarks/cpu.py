"""Processor time of processes."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and their children, living and waited for.

    Raises:
        OSError: a process is gone; its figures would be wrong.
    """
    total = 0
    for pid in with_children(pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def with_children(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split() if int(child) not in found)
    return found


def anonymous_bytes(pids: list[int]) -> int:
    """Memory of processes and their children that is theirs alone.

    Raises:
        OSError: a process is gone.
        RuntimeError: the kernel does not tell.
    """
    total = 0
    for pid in with_children(pids):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if "RssAnon" not in fields:
            raise RuntimeError(f"the kernel does not say how much memory process {pid} has")
        total += int(fields["RssAnon"].split()[0]) * 1024
    return total
