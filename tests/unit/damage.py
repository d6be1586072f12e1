"""The ways in which a file can be wrong."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

KINDS = ("missing", "empty", "truncated", "garbage", "directory", "too large", "link to itself", "fifo")

_GARBAGE = random.Random(6464).randbytes(4096)


def damage(path: Path, kind: str) -> None:
    """Does it to a file that is there."""
    data = path.read_bytes() if path.is_file() else b""
    remove(path)
    match kind:
        case "missing":
            return
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "garbage":
            path.write_bytes(_GARBAGE)
        case "directory":
            path.mkdir()
        case "too large":
            path.write_bytes(data)
            os.truncate(path, 65 << 20)
        case "link to itself":
            path.symlink_to(path.name)
        case "fifo":
            os.mkfifo(path)
        case _:
            raise AssertionError(kind)


def remove(path: Path) -> None:
    """Whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
