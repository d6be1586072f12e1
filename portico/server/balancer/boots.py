"""When this server's member of the cluster started: larger each time, whatever the wall clock says. Blocking.

The others believe only what is newer than everything they heard of this server (`portico.cluster.replay`). A member
that started with a clock that has gone back since would be refused until the clock has caught up, which may be years.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from portico.errors import NotFound, PorticoError
from portico.files import read_file, write_file

log = logging.getLogger("portico.balancer")

BOOT_NAME = "cluster-boot.json"


class Boots:
    """Numbers of starts, kept in a file.

    Args:
        path: of the file. One that is damaged or cannot be written is said in the log: the clock alone counts then, for
            a server that does not balance for want of a number would serve nobody.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._last: int | None = None

    def next(self) -> int:
        """Milliseconds since the epoch now, or one more than the last number where that is not larger."""
        last = self._last if self._last is not None else self._read()
        number = self._last = max(int(self._clock() * 1000), last + 1)
        try:
            # Before it is used: a crash may waste a number, and must not use one twice.
            write_file(self._path, json.dumps({"boot": number}).encode())
        except PorticoError as error:
            log.error("boot=%d was not kept, a clock that goes back would be believed: %s", number, error)
        return number

    def _read(self) -> int:
        try:
            last = int(json.loads(read_file(self._path))["boot"])
            if not 0 <= last < 1 << 63:
                raise ValueError(f"{last} is no time")
        except NotFound:
            return 0
        except (PorticoError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            log.error("file=%s cannot be used, a clock that has gone back is believed: %s", self._path, error)
            return 0
        return last
