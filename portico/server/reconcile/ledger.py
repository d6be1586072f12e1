"""What the kernel held before Portico changed it, on disk, so that it can be put back after any crash.

An entry is written before the kernel is touched. The ledger belongs to one boot: after a reboot the kernel starts from
its own defaults and the old entries mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path

from portico.errors import PorticoError
from portico.files import read_file, write_file
from portico.server.reconcile.host_entry import Entry

log = logging.getLogger("portico.reconcile")


class Ledger:
    """Former values of sysctls, whether the local routing rule was moved, former addresses of interfaces.

    Attributes:
        damage: why an existing file could not be used; what it held cannot be put back.
    """

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        self.path = path
        self.boot_id = boot_id if boot_id is not None else _boot_id()
        self.sysctls: dict[str, tuple[str, str]] = {}
        """Path below /proc/sys to (value before Portico, value Portico wrote)."""
        self.local_rule_moved = False
        self.host_addresses: dict[str, Entry] = {}
        """What was done to the addresses of the machine's interfaces, by name."""
        self.damage: str | None = None
        self._read()

    def remember_sysctl(self, name: str, before: str, ours: str) -> None:
        """Keeps the first value seen before Portico's. Raises Unavailable when the file cannot be written."""
        former = self.sysctls.get(name, (before, ours))[0]
        if self.sysctls.get(name) != (former, ours):
            self.sysctls[name] = (former, ours)
            self._write()

    def forget_sysctl(self, name: str) -> None:
        if self.sysctls.pop(name, None) is not None:
            self._write()

    def set_local_rule_moved(self, moved: bool) -> None:
        if self.local_rule_moved != moved:
            self.local_rule_moved = moved
            self._write()

    def set_host_addresses(self, interface: str, entry: Entry | None) -> None:
        """What was done to an interface's addresses; None when everything was given back.

        Raises:
            Unavailable: the file cannot be written.
        """
        if entry is not None:
            self.host_addresses[interface] = entry
        elif self.host_addresses.pop(interface, None) is None:
            return
        self._write()

    def before(self, name: str) -> str | None:
        """The value a sysctl had before Portico changed it, None when it was not changed."""
        entry = self.sysctls.get(name)
        return entry[0] if entry is not None else None

    def _read(self) -> None:
        if not os.path.lexists(self.path):
            return
        try:
            data = json.loads(read_file(self.path))
            if data["boot_id"] != self.boot_id:
                return
            self.sysctls = {str(name): (str(v[0]), str(v[1])) for name, v in data["sysctls"].items()}
            self.local_rule_moved = data["local_rule_moved"] is True
            moved = data.get("host_addresses", {})
            self.host_addresses = {str(name): Entry.of(entry) for name, entry in moved.items()}
        except PorticoError as error:
            self.damage = str(error)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self.sysctls, self.host_addresses = {}, {}
            self.damage = f"{self.path} is damaged: {type(error).__name__}: {error}"
        if self.damage is not None:
            log.error("ledger=%s damage=%r former kernel values cannot be put back", self.path, self.damage)
            # Kept for whoever looks into it, and out of the way of the one that is written next.
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))

    def _write(self) -> None:
        data = {
            "boot_id": self.boot_id,
            "sysctls": self.sysctls,
            "local_rule_moved": self.local_rule_moved,
            "host_addresses": {name: entry.as_data() for name, entry in self.host_addresses.items()},
        }
        write_file(self.path, json.dumps(data, indent=1).encode())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
