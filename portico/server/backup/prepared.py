"""Whether a machine has what a restored server runs with. A backup holds a service, not the program that serves it."""

from __future__ import annotations

from portico.errors import NotFound
from portico.server.install import UNIT_NAME, installed_unit, missing_accounts, systemd_runs, unit_enabled


def unprepared() -> NotFound | None:
    """What this machine lacks and what makes it, as an error: code NOT_PREPARED. None when nothing is missing."""
    accounts = missing_accounts()
    lacks_unit = systemd_runs() and installed_unit() is None
    if not accounts and not lacks_unit:
        return None
    missing = [f"the system users {', '.join(accounts)}"] if accounts else []
    missing += [f"the unit {UNIT_NAME} and those beside it"] if lacks_unit else []
    makes = "Install the program: packaging/install.sh (or make install), which makes both"
    if accounts and not lacks_unit:
        makes = "Make them: portico server refresh --yes"
    return NotFound(
        "This machine is not prepared to be a server",
        why=f"it lacks {' and '.join(missing)}; a backup brings neither, and nothing was changed",
        resolution=f"{makes}. Then repeat the restore",
        code="NOT_PREPARED",
    )


def how_to_start() -> str:
    """The command that starts the restored server: on a new machine nothing has enabled its unit yet."""
    if systemd_runs() and installed_unit() is not None and not unit_enabled():
        return f"systemctl enable --now {UNIT_NAME.removesuffix('.service')}"
    return "portico server start"
