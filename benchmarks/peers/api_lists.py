"""How long a list call of the API takes with a large directory: a real server, its own socket, no client connected.

The server has no settings, for a list of what is stored needs none. Each call is one request and the whole answer, read
and decoded; the calls take turns until the time is over.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.network import Network
from benchmarks.programs import REPOSITORY
from portico.certificates.store import CertificateStore, IssuedRecord, RevokedRecord, stamp
from portico.certificates.tokens import MAXIMUM_OPEN
from portico.errors import PorticoError
from portico.management.client import ApiClient
from portico.server.credentials import DIRECTORY

CLIENTS, REVOKED_EVERY = 50_000, 500
PEM = "-" * 900
"""As long as a certificate is: a list must not read it."""

LEAST = 100
"""Answers to each call, however long they take: one of twenty would be the first call after a start."""

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/clients", {}),
    ("/v1/clients", {"after": f"enrolled:client{CLIENTS * 9 // 10:06}"}),
    ("/v1/clients", {"state": "revoked"}),
    ("/v1/clients/client000042", {}),
    ("/v1/ca/certificates", {}),
    ("/v1/ca/certificates", {"name": "client000042"}),
    ("/v1/ca/tokens", {}),
)


def fill(state: Path) -> None:
    """The directory: every client has a certificate, one of five hundred is revoked; as many tokens as there may be."""
    store = CertificateStore.open(state / DIRECTORY)
    now = datetime.now(UTC)
    with contextlib.closing(store), store.transaction() as connection:
        for number in range(CLIENTS):
            name, serial = f"client{number:06}", f"{number:x}"
            at = now - timedelta(seconds=number)
            store.add_issued(
                connection,
                IssuedRecord("aa", serial, "client", name, at, at + timedelta(days=90), at, None, PEM, None, None),
            )
            if number % REVOKED_EVERY == 0:
                store.add_revoked(connection, RevokedRecord("aa", serial, name, now, "unspecified", None))
        connection.executemany(
            "INSERT INTO token (id, name, secret_sha256, created, expires, author) VALUES (?, ?, '', ?, ?, 'root')",
            [(f"{n:x}", f"till{n}", stamp(now - timedelta(seconds=n)), stamp(now)) for n in range(MAXIMUM_OPEN)],
        )


@contextlib.contextmanager
def _server(net: Network) -> Iterator[ApiClient]:
    root = net.directory / "server"
    if not root.exists():  # the directory is that of all rounds
        fill(root / "state" / "server")
    socket = root / "run" / "server.sock"
    environment = {
        "PORTICO_STATE_DIR": str(root / "state"), "PORTICO_RUNTIME_DIR": str(root / "run"),
        "PORTICO_LOG_DIR": str(root / "log"), "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    pid = net.start("gateway", sys.executable, "-m", "portico", "server", "run", log="api.log", environment=environment)
    try:
        with ApiClient(socket) as api:
            net.wait(pid, lambda: _answers(api), "the API")
            yield api
    finally:
        net.stop(pid)


def _answers(api: ApiClient) -> bool:
    try:
        api.get("/v1/status")
    except PorticoError:
        return False
    return True


def api_lists(net: Network, _wanted: frozenset[str], seconds: float) -> dict[str, float]:
    """Milliseconds of the slowest call: its median, and what nineteen of twenty answers take at most."""
    taken: list[list[float]] = [[] for _ in CALLS]
    with _server(net) as api:
        if api.get("/v1/clients", limit=1)["total"] != CLIENTS:
            raise RuntimeError("the server does not list the clients that were enrolled")
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(taken[-1]) < LEAST:
            for samples, (path, query) in zip(taken, CALLS, strict=True):
                begin = time.perf_counter()
                api.get(path, **query)
                samples.append((time.perf_counter() - begin) * 1000)
    return {"list_ms": max(map(median, taken)), "list_ms_95": max(quantiles(samples, n=20)[-1] for samples in taken)}
