"""Server: does it serve, is there room on its disks, are the newest settings in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE, Finding
from portico.health.observations import Observations, Volume
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

SERVER: Final = Component.SERVER
WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN

NOT_RETRIEVED_ERROR: Final = 600.0
"""Seconds without the newest settings before that is an error; Windows gives its servers ten minutes."""
NOT_APPLIED_ERROR: Final = 900.0
"""The same between having and applying them."""
PATIENCE: Final = 10.0
"""Seconds that settings may be on their way before anything is said."""
REPAIRS: Final = 5
"""Repairs within ten minutes that mean that something works against Portico."""

NOT_SERVING = CATALOGUE.add(
    "NOT_SERVING",
    SERVER,
    ERROR,
    what="The server does not serve as its settings say",
    cause="{why}",
    resolution="{resolution}",
)
DISK_NEARLY_FULL = CATALOGUE.add(
    "DISK_NEARLY_FULL",
    SERVER,
    WARNING,
    worse=ERROR,
    what="The disk of {about} is nearly full",
    cause="{free} of {total} are free; when nothing is, settings and revocations cannot be stored",
    resolution="Free space: df -h {about}; du -xh --max-depth=2 {about}",
)
FILES_NEARLY_USED_UP = CATALOGUE.add(
    "FILES_NEARLY_USED_UP",
    SERVER,
    WARNING,
    worse=ERROR,
    what="The file system of {about} has nearly no room for more files",
    cause="{free} of {total} inodes are free",
    resolution="Delete files: df -i {about}",
)
DISK_UNKNOWN = CATALOGUE.add(
    "DISK_UNKNOWN",
    SERVER,
    UNKNOWN,
    what="Free disk space is not known",
    cause="it was not looked at yet, or the file system does not answer",
    resolution="Look at it: df -h /var/lib/portico",
)
SETTINGS_READ_ONLY = CATALOGUE.add(
    "SETTINGS_READ_ONLY",
    SERVER,
    ERROR,
    what="Settings cannot be changed on this server",
    cause="{why}",
    resolution="See 'Damaged files' in docs/operate.md: portico settings repair",
)
SETTINGS_NOT_KEPT = CATALOGUE.add(
    "SETTINGS_NOT_KEPT",
    SERVER,
    WARNING,
    what="The settings in force are not in the file that the next start serves from",
    cause="{why}",
    resolution="{resolution}",
)
DRIFT = CATALOGUE.add(
    "DRIFT",
    SERVER,
    WARNING,
    what="Something else changed what Portico manages, and it stays so",
    cause="to be as the settings say, the machine needs: {changes}",
    resolution="Put it back, or let Portico do it: portico settings set drift=repair",
)
DRIFT_RETURNS = CATALOGUE.add(
    "DRIFT_RETURNS",
    SERVER,
    WARNING,
    what="Something else keeps changing what Portico manages",
    cause="repaired {count} times within ten minutes, last: {changes}",
    resolution="Find the program that does it (NetworkManager, firewalld, a script) and take this out of its hands",
)
SETTINGS_NOT_RETRIEVED = CATALOGUE.add(
    "SETTINGS_NOT_RETRIEVED",
    SERVER,
    WARNING,
    worse=ERROR,
    what="The newest settings have not arrived at this server",
    cause="another server has revision {newest}, this one {stored}, for {seconds:.0f} s",
    resolution="Look whether the servers reach each other: portico lb servers; then this server's log",
)
SETTINGS_NOT_APPLIED = CATALOGUE.add(
    "SETTINGS_NOT_APPLIED",
    SERVER,
    WARNING,
    worse=ERROR,
    what="The newest settings are not in force on this server",
    cause="revision {stored} is stored and {applied} in force, for {seconds:.0f} s{error}",
    resolution="Look at the error: portico settings history; restore a revision that works: portico settings rollback "
    "NUMBER",
)


@heuristic(SERVER)
def serves(seen: Observations) -> Findings:
    """The agent says by itself when it cannot do what the settings ask for."""
    if seen.problem is None:
        return []
    problem = seen.problem
    why = f"{problem.what}: {problem.why}" if problem.why else problem.what
    return [NOT_SERVING.finding(why=f"{why} ({problem.code})", resolution=problem.resolution or "See the server's log")]


@heuristic(SERVER)
def has_room(seen: Observations) -> Findings:
    """Space for settings, certificates and logs. Below a tenth it is said, below a fiftieth it is an error."""
    if seen.volumes is None:
        return [DISK_UNKNOWN.finding()]
    return [finding for volume in seen.volumes for finding in _room(volume)]


def _room(volume: Volume) -> Iterator[Finding]:
    free, total = volume.free_bytes, volume.total_bytes
    if total > 0 and free < total / 10 and free < 2 << 30:
        worse = free < total / 50 and free < 256 << 20
        yield DISK_NEARLY_FULL.finding(volume.path, worse=worse, free=_size(free), total=_size(total))
    files, every = volume.free_files, volume.total_files
    if every > 0 and files < every / 20 and files < 100_000:
        yield FILES_NEARLY_USED_UP.finding(volume.path, worse=files < every / 100, free=files, total=every)


@heuristic(SERVER)
def keeps_settings(seen: Observations) -> Findings:
    """Whether settings can be changed, and survive a restart."""
    found = []
    if seen.read_only:
        found.append(SETTINGS_READ_ONLY.finding(why=seen.read_only))
    if (trouble := seen.warnings.get("unwritten")) is not None:
        found.append(
            SETTINGS_NOT_KEPT.finding(why=f"{trouble.what}: {trouble.why}", resolution=trouble.resolution or "Free it")
        )
    return found


@heuristic(SERVER)
def is_as_it_should_be(seen: Observations) -> Findings:
    """Drift of what no other component speaks of, and drift that comes back."""
    found = []
    rest = [change for change in seen.drifting if not (is_address(change) or is_filter(change))]
    if rest:
        found.append(DRIFT.finding(changes=listed(rest)))
    if seen.repairs_lately >= REPAIRS:
        found.append(DRIFT_RETURNS.finding(count=seen.repairs_lately, changes=listed(seen.repaired)))
    return found


@heuristic(SERVER)
def has_the_newest_settings(seen: Observations) -> Findings:
    """Distributed, retrieved, applied; each step has its time."""
    state = seen.distribution
    if state is None or state.newest == 0 or seen.settings is None:  # without settings NOT_SERVING says why
        return []
    if state.stored < state.newest:
        if state.behind_for < PATIENCE:
            return []
        late = state.behind_for > NOT_RETRIEVED_ERROR
        return [
            SETTINGS_NOT_RETRIEVED.finding(
                worse=late, newest=state.newest, stored=state.stored, seconds=state.behind_for
            )
        ]
    if state.applied < state.stored:
        began = min(state.times.values(), default=seen.now)
        seconds = max(0.0, seen.now - began)
        if seconds < PATIENCE and not state.error:
            return []
        error = f"; {state.error}" if state.error else ""
        return [
            SETTINGS_NOT_APPLIED.finding(
                worse=seconds > NOT_APPLIED_ERROR,
                stored=state.stored,
                applied=state.applied,
                seconds=seconds,
                error=error,
            )
        ]
    return []


def is_address(change: str) -> bool:
    """Whether a change of drift, in its words, is about an address."""
    return " address " in f" {change} "


def is_filter(change: str) -> bool:
    """Whether it is about the packet filter."""
    return " nftables " in f" {change} "


def listed(changes: list[str] | tuple[str, ...], most: int = 5) -> str:
    """Some of a list, and how many more there are."""
    more = f", and {len(changes) - most} more" if len(changes) > most else ""
    return ", ".join(changes[:most]) + more


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
