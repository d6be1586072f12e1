"""A backup into a file: whole or not at all, mode 0600. Blocking."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from portico.files import not_written
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
    temporary: str | None = None
    with snapshot(state, server=read_own_name(state), now=now, accounting=accounting) as (manifest, copy):
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # always 0600
            with os.fdopen(descriptor, "wb") as target:
                for piece in seal(written(manifest, copy, progress(manifest)), to):
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            Path(temporary).replace(file)
            temporary = None
        except OSError as error:
            raise not_written(file, error) from None
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
    return manifest
