"""On what a run was made: it can only be continued on the same, and only figures of one run compare."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from benchmarks.programs import REPOSITORY


def processor() -> str:
    """The processor's name as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def native_module() -> str:
    """A digest of the module that is measured, which may be newer or older than the sources.

    Raises:
        RuntimeError: there is none.
    """
    module = REPOSITORY / "portico" / "_gateway.abi3.so"
    if not module.exists():
        raise RuntimeError(f"{module} is missing: `make bench` builds it")
    return hashlib.sha256(module.read_bytes()).hexdigest()[:12]


def identity() -> dict[str, str]:
    """Machine, kernel and module."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "native module": native_module(),
    }
