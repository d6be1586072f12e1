"""Hands the intranet's namespaces to systemd-resolved, where that is what the machine resolves with.

Only the routing of names is left to it: the tunnel's link gets our own resolver as its DNS server, so that exemptions,
failing fast and fallback are the same with and without systemd-resolved. It forgets a link's settings with the link.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from portico.errors import Unavailable

RUNTIME = Path("/run/systemd/resolve")
STUBS = frozenset({"127.0.0.53", "127.0.0.54"})


def is_in_charge(nameservers: Sequence[str], runtime: Path = RUNTIME) -> bool:
    """Whether systemd-resolved runs and the machine's resolv.conf asks nobody else."""
    running = (runtime / "io.systemd.Resolve").exists() and shutil.which("resolvectl") is not None
    return running and bool(nameservers) and set(nameservers) <= STUBS


def upstream_file(runtime: Path = RUNTIME) -> Path:
    """Where it writes the DNS servers of all links."""
    return runtime / "resolv.conf"


def commands(interface: str, server: str, namespaces: Sequence[str], search: str) -> list[list[str]]:
    """What `resolvectl` is told: our resolver for these namespaces and for nothing else."""
    routes = [f"~{namespace.removeprefix('.') or '.'}" for namespace in namespaces]
    return [
        ["dns", interface, server],
        ["domain", interface, search, *[route for route in routes if route != f"~{search}"]],
        ["default-route", interface, "no"],
        ["llmnr", interface, "no"],
        ["mdns", interface, "no"],
        # The resolver's answers are those of DNS64, which no signature covers.
        ["dnssec", interface, "no"],
    ]


async def apply(interface: str, server: str, namespaces: Sequence[str], search: str) -> None:
    """Tells systemd-resolved. Raises Unavailable (RESOLVED_FAILED)."""
    for command in commands(interface, server, namespaces, search):
        await _resolvectl(command)


async def revert(interface: str) -> None:
    """Takes it back. Raises Unavailable (RESOLVED_FAILED)."""
    await _resolvectl(["revert", interface])


async def _resolvectl(arguments: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "resolvectl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(10):
            _, errors = await process.communicate()
    except (OSError, TimeoutError) as error:
        why = str(error) or "no answer within 10 s"
    else:
        if process.returncode == 0:
            return
        why = " ".join(errors.decode("utf-8", "replace").split())[:500]
    raise Unavailable(
        "systemd-resolved does not take the intranet's namespaces",
        why=f"resolvectl {' '.join(arguments)}: {why}",
        resolution="Check it with: resolvectl status; or use the resolver of Portico: portico client settings --dns"
        " resolv_conf",
        code="RESOLVED_FAILED",
    )
