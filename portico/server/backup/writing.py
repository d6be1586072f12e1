"""A backup into a file: whole or not at all, mode 0600. Blocking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from portico.files import whole_file
from portico.server.backup.archive import Manifest, snapshot, written
from portico.server.backup.container import Passphrase, seal
from portico.server.machine import read_own_name


def write_backup(
    state: Path,
    file: Path,
    to: Passphrase | X25519PublicKey,
    *,
    now: datetime,
    accounting: bool,
    progress: Callable[[Manifest], Callable[[int], None]] = lambda _manifest: lambda _done: None,
) -> Manifest:
    """Writes everything of a server's state.

    Args:
        progress: makes of what will be written a function that is told how many bytes are.

    Raises:
        PorticoError: there is no new file, and one of this name is as it was.
    """
    with (
        snapshot(state, server=read_own_name(state), now=now, accounting=accounting) as (manifest, copy),
        whole_file(file) as target,
    ):
        for piece in seal(written(manifest, copy, progress(manifest)), to):
            target.write(piece)
    return manifest
