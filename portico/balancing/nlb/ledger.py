"""What one server's kernel held before load balancing changed it, on disk, so that it can be put back after any crash.

An entry is written before the kernel is touched. The ledger belongs to one boot: after a reboot the kernel starts from
its own configuration and the old entries mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portico.errors import PorticoError
from portico.files import read_file, write_file

log = logging.getLogger("portico.nlb")


class Ledger:
    """Entries of several kinds, each a name and what is needed to undo it.

    | kind | name | value |
    |---|---|---|
    | sysctl | path below /proc/sys | value before, value Portico wrote |
    | added | `203.0.113.10/32 lo` | nothing: the address was not there |
    | moved | `203.0.113.10/24 eth0` | the interface's addresses in order (links.saved_addresses) |
    | mac | interface | its own hardware address |
    | filter | interface | nothing: one of ours is there |
    | clsact | interface | nothing: it had none |

    Attributes:
        damage: why an existing file could not be used; what it held cannot be put back.
    """

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        self.path = path
        self.boot_id = boot_id if boot_id is not None else _boot_id()
        self.damage: str | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._read()

    def entries(self, kind: str) -> Mapping[str, Any]:
        """A copy, oldest first."""
        return dict(self._entries.get(kind, {}))

    def remember(self, kind: str, name: str, value: Any = None) -> None:
        """Keeps the first value given for a name. Raises Unavailable when the file cannot be written."""
        kept = self._entries.setdefault(kind, {})
        if name not in kept:
            kept[name] = value
            self._write()

    def forget(self, kind: str, name: str) -> None:
        if name in self._entries.get(kind, {}):
            del self._entries[kind][name]
            self._write()

    def _read(self) -> None:
        if not os.path.lexists(self.path):
            return
        try:
            data = json.loads(read_file(self.path))
            if data["boot_id"] != self.boot_id:
                return
            self._entries = {str(kind): dict(names) for kind, names in data["entries"].items()}
        except PorticoError as error:
            self.damage = str(error)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self._entries = {}
            self.damage = f"{self.path} is damaged: {type(error).__name__}: {error}"
        if self.damage is not None:
            log.error("ledger=%s damage=%r former kernel values cannot be put back", self.path, self.damage)
            # Kept for whoever looks into it, and out of the way of the one that is written next.
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))

    def _write(self) -> None:
        data = {"boot_id": self.boot_id, "entries": self._entries}
        write_file(self.path, json.dumps(data, indent=1).encode())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
