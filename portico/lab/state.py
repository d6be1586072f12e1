"""What runs: one directory per lab, found again by its name.

    /run/portico-lab/NAME/lab.json        topology, hosts' first processes, when it was started
    /run/portico-lab/NAME/HOST.sock       the host's first process listens here
    /var/lib/portico-lab/NAME/HOST/...    the hosts' disks: /etc, /var/lib, /var/log, /var/cache

Both are root's only: a disk holds a copy of /etc and keys. The disks are in memory (tmpfs), so that neither the copies
nor what is flushed to them waits for this machine's disk and whoever else writes to it; a host's power cut spares them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from portico.errors import InvalidInput, NotFound, NotPermitted, PorticoError
from portico.files import read_file
from portico.lab.topology import Topology, one_server

RUNTIME = Path("/run/portico-lab")
DISKS = Path("/var/lib/portico-lab")
NETNS = Path("/run/netns")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


def checked_name(name: str) -> str:
    """The name, if it can be part of file and namespace names.

    Raises:
        InvalidInput: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!r} cannot be the name of a lab",
            why="it becomes part of file and namespace names",
            resolution="Use up to 24 small letters, digits and hyphens, a letter first",
        )
    return name


@dataclass
class LabState:
    """What is kept on disk about a running lab.

    Attributes:
        topology: what the lab was built from; a later version of Portico may build another one.
        inits: host -> the process id (as the machine sees it) of its first process.
        starts: host -> that process's start time in clock ticks, so that a reused number is never taken for it.
        cut: "host/interface" of cables that are pulled.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    topology: Topology = field(default_factory=one_server)
    started: float = field(default_factory=time.time)
    inits: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def runtime(self) -> Path:
        return RUNTIME / self.name

    @property
    def disks(self) -> Path:
        return DISKS / self.name

    def netns(self, host: str) -> str:
        """The name under which `ip netns` knows a host."""
        return f"{self.name}-{host}"

    def save(self) -> None:
        """Writes the state; a reader sees the old or the new, never half."""
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.runtime / "lab.json.new"
        temporary.write_bytes(_FORMAT.dump_json(self, indent=2))
        temporary.replace(self.runtime / "lab.json")

    def mount_disks(self) -> None:
        """Makes the place of the hosts' disks.

        Raises:
            NotPermitted: nothing may be mounted here.
        """
        self.disks.mkdir(mode=0o711, parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "mode=711", "portico-lab", str(self.disks)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotPermitted(
                "The disks of the lab's hosts cannot be made",
                why=done.stderr.strip(),
                resolution="The lab needs root, and where it runs in a container the right to mount (CAP_SYS_ADMIN)",
            )

    def alive(self, host: str) -> bool:
        """Whether the host's first process lives."""
        pid = self.inits.get(host)
        return pid is not None and start_time(pid) == self.starts.get(host)


_FORMAT = TypeAdapter(LabState)


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def load(name: str) -> LabState:
    """The state of a lab.

    Raises:
        NotFound: no lab of that name runs.
        InvalidInput: its file cannot be read; `lab down` still cleans up by name.
    """
    path = RUNTIME / checked_name(name) / "lab.json"
    try:
        return _state(name, read_file(path))
    except NotFound:
        raise NotFound(
            f"No lab named {name} is running",
            resolution=f"Start it with: portico lab up --name {name}" + _others(name),
        ) from None
    except (PorticoError, ValueError) as error:
        raise InvalidInput(
            f"The state of the lab {name} cannot be read",
            why=f"{path}: {error.why if isinstance(error, PorticoError) else error}",
            resolution=f"Remove the lab with: portico lab down --name {name}",
        ) from error


def _state(name: str, data: bytes) -> LabState:
    """Raises ValueError when it is not what `save` writes."""
    found = _FORMAT.validate_json(data, strict=True)
    if found.name != name:
        raise ValueError(f"it is that of the lab {found.name[:40]!r}")
    return found


def names() -> list[str]:
    """Names of all labs that left anything behind."""
    found: set[str] = set()
    for directory in (RUNTIME, DISKS):
        if directory.is_dir():
            found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
    return sorted(found)


def remove_files(name: str) -> None:
    """Removes a lab's directories with what is mounted there, and the parents when they are empty."""
    while (DISKS / name).is_mount():
        # At once, though somebody may still read a log: the memory is free when the last one is done.
        subprocess.run(["umount", "--lazy", str(DISKS / name)], capture_output=True, check=True)
    for parent in (RUNTIME, DISKS):
        shutil.rmtree(parent / name, ignore_errors=True)
        try:
            parent.rmdir()
        except OSError:
            continue


def _others(name: str) -> str:
    others = [other for other in names() if other != name]
    return f" (running: {', '.join(others)})" if others else ""
