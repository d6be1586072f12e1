"""nftables in this process: libnftables through ctypes.

A change costs a netlink transaction (0.2 ms) instead of starting a program (20 ms), which is what makes it affordable
to renew a lease ten times a second. The `nft` program does the same where the library cannot be loaded; that is said in
the log and in `name`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import shutil
import subprocess
from typing import Any, Protocol

from portico.errors import Unavailable

log = logging.getLogger("portico.nlb")

LIBRARY = "libnftables.so.1"
_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON in nftables/libnftables.h


class Nftables(Protocol):
    """Runs nftables commands in the network namespace it was made in. Not for several threads at once."""

    name: str

    def run(self, text: str) -> str:
        """Everything in one transaction; returns what was printed. Raises Unavailable, then nothing was changed."""
        ...

    def query(self, text: str) -> list[dict[str, Any]]:
        """The objects a `list` command prints, as JSON. Raises Unavailable."""
        ...

    def close(self) -> None: ...


class Library:
    """libnftables with an open netlink socket."""

    name = "libnftables"

    def __init__(self) -> None:
        try:
            self._library = library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise Unavailable(
                f"Cannot load {LIBRARY}", why=str(error), resolution="apt-get install libnftables1"
            ) from None
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context: int | None = library.nft_ctx_new(0)
        if not self._context:
            raise Unavailable(
                "Cannot use nftables", why="the kernel gives no netlink socket", resolution="It needs root"
            )
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_buffer_output(self._context)

    def run(self, text: str) -> str:
        if self._context is None:
            raise Unavailable("Cannot use nftables", why="it was closed")
        failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        # Reading a buffer also empties it.
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        errors: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise refused(errors.decode(errors="replace"))
        return output.decode(errors="replace")

    def query(self, text: str) -> list[dict[str, Any]]:
        self._library.nft_ctx_output_set_flags(self._context, _JSON)
        try:
            return _objects(self.run(text))
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


class Command:
    """The nft program, started for each transaction."""

    name = "nft"

    def __init__(self) -> None:
        program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if program is None:
            raise Unavailable("Cannot use nftables", why="nft is not installed", resolution="apt-get install nftables")
        self._program = program

    def run(self, text: str) -> str:
        return self._start(["-f", "-"], text)

    def query(self, text: str) -> list[dict[str, Any]]:
        return _objects(self._start(["-j", "-f", "-"], text))

    def close(self) -> None:
        """Nothing is held open."""

    def _start(self, arguments: list[str], text: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments], input=text, capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise refused(str(error)) from None
        if done.returncode != 0:
            raise refused(done.stderr)
        return done.stdout


def open_nftables() -> Nftables:
    """The library, or the program where there is no library, which is logged.

    Raises:
        Unavailable: neither is installed, or the kernel refuses.
    """
    try:
        return Library()
    except Unavailable as error:
        command = Command()
        log.warning("nftables=nft why=%r each renewal of the lease starts a program (20 ms)", str(error))
        return command


def exists(nft: Nftables, family: str, table: str) -> bool:
    """Whether a table is there."""
    return any(
        item["table"].get("family") == family and item["table"].get("name") == table
        for item in nft.query("list tables")
        if "table" in item
    )


def refused(why: str) -> Unavailable:
    # nft repeats the command below each message, with a pointer to the place.
    first = next((line for line in why.splitlines() if "rror" in line), why)
    return Unavailable(
        "nftables refuses a change of the load-balancing filter",
        why=" ".join(first.split())[:300],
        resolution="It needs root (CAP_NET_ADMIN) and a kernel with nf_tables; look with: nft list ruleset",
        code="NLB_FILTER_REFUSED",
    )


def _objects(text: str) -> list[dict[str, Any]]:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        found = json.loads(text)["nftables"]
        return [item for item in found if isinstance(item, dict)]
    raise refused(f"unexpected output: {text[:100]!r}")
