"""Virtual addresses that came back to an interface by themselves: the machine's own network configuration has them.

They are taken from it when the agent starts, but until then the machine answers for them. A start after a stop finds
none: a server among others keeps its dedicated addresses. What was found stays known until the next boot finds none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from portico.errors import PorticoError
from portico.files import read_file, write_file
from portico.server.desired import kept_addresses
from portico.server.reconcile.wanted import Change
from portico.settings.model import Settings

log = logging.getLogger("portico.server")

FILE_NAME = "returned-addresses.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Returned:
    """What the last start after a boot found. Blocking."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME

    def note(self, settings: Settings, changes: Iterable[Change]) -> None:
        """The first settings of this process are in force, and this was done for them. Never fails."""
        virtual = {str(address) for item in kept_addresses(settings) for address in item.absent}
        found = [
            change.subject
            for change in changes
            if change.part == "host_addresses"
            and change.action == "remove"
            and change.subject.partition("/")[0] in virtual
            and not change.subject.endswith(" on lo")
        ]
        boot = _boot()
        if not found and self._read().get("boot") in (None, boot):
            return
        if found:
            log.error("virtual_addresses=%r were on interfaces at the start; they are not any more", found)
        try:
            write_file(self._path, json.dumps({"boot": boot, "addresses": found}).encode())
        except PorticoError as error:
            log.error("%s", error)

    def addresses(self) -> tuple[str, ...]:
        """`203.0.113.11/24 on eth0`, of the last boot."""
        found = self._read().get("addresses", [])
        return tuple(str(item) for item in found) if isinstance(found, list) else ()

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(read_file(self._path))
        except (PorticoError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
