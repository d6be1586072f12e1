"""Installing the role on a machine and taking it off again: account, CA, certificate, settings, service.

Every step looks first whether it is done, so a run that was interrupted is simply repeated. What was made is written
down (`installed.json`), and only that is removed.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from portico.certificates.ca import AUTHORITY_NAME, CertificateAuthority
from portico.certificates.trust import name_text
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import private_directory, read_file, write_file
from portico.paths import log_directory
from portico.server.balancer import handle as balancer
from portico.server.credentials import DIRECTORY, Credentials, now_utc
from portico.server.desired import kept_addresses
from portico.server.etcd.member import UNIT as STORE_UNIT
from portico.server.etcd.member import USER as STORE_USER
from portico.server.facts import read_facts
from portico.server.gateway import UNIT, USER
from portico.server.kept_files import MADE_NAME
from portico.server.location import pages as location
from portico.server.machine import NAME_FILE, read_own_name
from portico.server.peers.joining import Joining
from portico.server.platform import LEDGER_NAME
from portico.server.reconcile.kernel import Kernel
from portico.server.reconcile.wanted import HostAddresses
from portico.settings.localise import localise
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused, errors
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, SettingsStore
from portico.settings.verify import verify

UNIT_NAME = "portico-server.service"
_UNITS = (UNIT, balancer.UNIT, location.UNIT, UNIT_NAME)
_USERS = (USER, balancer.USER, location.USER, STORE_USER)
_HIDDEN = ("/home", "/root", "/run/user")
"""systemd.exec(5), ProtectHome."""
_SERVER_UNITS = (*_UNITS, STORE_UNIT)
_UNIT_DIRECTORY = Path("/etc/systemd/system")
_PACKAGED_UNITS = tuple(
    Path(directory, UNIT_NAME) for directory in ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
)


@dataclass(frozen=True)
class Step:
    """One step: what it does, whether it is done already, how it is done (returns a detail for people)."""

    name: str
    needed: Callable[[], bool]
    do: Callable[[], str]


def systemd_runs() -> bool:
    """sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def install_steps(settings: Settings, state: Path, *, author: str, comment: str = "installed") -> list[Step]:
    """What an installation does, in order. The settings have been verified."""
    steps = [
        *(_user_step(user, state) for user in _USERS),
    ]
    if settings.certificates.mode == "built-in":
        steps += [
            Step(
                "Create the certification authority",
                lambda: not (state / DIRECTORY / AUTHORITY_NAME).exists(),
                lambda: _make_authority(settings, state),
            ),
            Step("Issue the server's certificate", lambda: True, lambda: _make_certificate(settings, state)),
        ]
    steps += [
        *_unit_step(state),
        Step("Store the settings as revision 1", lambda: True, lambda: _store(settings, state, author, comment)),
    ]
    return steps


def join_steps(joining: Joining, state: Path) -> list[Step]:
    """What joining a cluster does, in order; the settings, which make this machine a server, come last."""
    return [
        *(_user_step(user, state) for user in _USERS),
        Step(f"Ask to be taken in as {joining.name}", lambda: True, lambda: f"by {joining.ask()}"),
        Step("Read the records of certificates", lambda: True, lambda: f"{joining.fetch_records()}"),
        Step("Check this machine with the cluster's settings", lambda: True, lambda: _check_joining(joining, state)),
        *_unit_step(state),
        Step("Store the settings", lambda: True, lambda: _finish(joining)),
    ]


def refresh_steps(state: Path) -> list[Step]:
    """What this version needs of the machine and a former one may not have made: accounts, and units as it ships them.

    Units that a distribution's package brought are its own.
    """
    steps = [_user_step(user, state) for user in _USERS]
    directory = next(
        (d for d in (_UNIT_DIRECTORY, _PACKAGED_UNITS[0].parent) if (d / UNIT_NAME).exists()),
        None,
    )
    if directory is not None:
        outdated = partial(_outdated_units, directory)
        steps.append(
            Step(f"Bring the units in {directory} up to date", lambda: bool(outdated()), partial(_write, outdated))
        )
    return steps


def _outdated_units(directory: Path) -> dict[Path, bytes]:
    """Units that are not as this version ships them; those of the client only where it is installed."""
    found: dict[Path, bytes] = {}
    for item in resources.files("portico").joinpath("systemd").iterdir():
        target = directory / item.name
        if item.name.endswith(".service") and (target.exists() or item.name in _SERVER_UNITS):
            text = unit_text(item.name, executable(), sys.executable).encode()
            if not target.exists() or target.read_bytes() != text:
                found[target] = text
    return found


def _write(outdated: Callable[[], dict[Path, bytes]]) -> str:
    written = outdated()
    for target, text in written.items():
        write_file(target, text, mode=0o644)
    if systemd_runs():
        _run(["systemctl", "daemon-reload"])
    return ", ".join(target.name for target in written)


def missing_accounts() -> list[str]:
    """The accounts of a server's processes that this machine lacks."""
    return [user for user in _USERS if not _user_exists(user)]


def installed_unit() -> Path | None:
    """The server's unit on this machine, None when there is none."""
    return next((unit for unit in (_UNIT_DIRECTORY / UNIT_NAME, *_PACKAGED_UNITS) if unit.exists()), None)


def unit_enabled() -> bool:
    """Whether the server starts with the machine; systemd runs here."""
    command = ["systemctl", "is-enabled", "--quiet", UNIT_NAME]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def refuse_second_installation(state: Path) -> None:
    """Raises Conflict when this machine has settings already; PorticoError when its store is damaged."""
    if not any((state / name).exists() for name in (DATABASE_NAME, APPLIED_NAME)):
        return
    store = SettingsStore.open(state)
    try:
        latest = store.latest()
    finally:
        store.close()
    if latest is not None:
        raise Conflict(
            "Portico is installed on this machine already",
            why=f"its settings are at revision {latest.number}",
            resolution="Change them with 'portico settings edit', or start over: portico server uninstall --purge",
            code="INSTALLED_ALREADY",
        )


def uninstall_steps(state: Path, *, purge: bool) -> list[Step]:
    """What taking the role off does, in order. The agent has been stopped."""
    made = _made(state)
    steps = [Step("Put the kernel back as it was", lambda: True, lambda: _undo_kernel(state))]
    noted = made.get("units", [made.get("unit")])
    units = [Path(unit) for unit in noted if isinstance(unit, str)] if isinstance(noted, list) else []
    if units:
        names = " and ".join(map(str, units))
        present = any(unit.exists() for unit in units)
        steps.insert(0, Step(f"Remove {names}", lambda: present, lambda: _remove_units(units)))
    elif systemd_runs():  # the units came with the program and go with it
        steps.insert(0, Step(f"Disable {UNIT_NAME}", unit_enabled, _disable_unit))
    if purge:
        logs = log_directory()
        steps.append(Step(f"Delete {logs}", logs.exists, lambda: _purge(logs)))
        steps.append(Step(f"Delete {state}", state.exists, lambda: _purge(state)))
    else:
        steps.append(Step("Forget what was installed", (state / MADE_NAME).exists, lambda: _forget(state)))
    for user in _made_users(made):
        steps.insert(
            -1, Step(f"Remove the system user {user}", partial(_user_exists, user), partial(_remove_user, user))
        )
    return steps


def unit_text(name: str, portico: str, python: str) -> str:
    """A unit of the package for these commands.

    Args:
        portico, python: command lines of the program and its interpreter, absolute.
    """
    text = resources.files("portico").joinpath("systemd", name).read_text()
    return text.replace("/usr/bin/portico", portico).replace("/usr/bin/python3", python)


def executable() -> str:
    """The command that runs `portico`, as an absolute command line."""
    beside = Path(sys.executable).parent / "portico"
    if beside.exists():
        return str(beside)
    found = shutil.which("portico")
    return found if found is not None else f"{sys.executable} -m portico"


def _made(state: Path) -> dict[str, object]:
    """What an installation noted. Raises PorticoError naming the file when it cannot be used."""
    path = state / MADE_NAME
    why = "it is not what Portico writes"
    try:
        data = json.loads(read_file(path))
        if isinstance(data, dict):
            return data
    except NotFound:
        return {}
    except (ValueError, RecursionError) as error:
        why = f"it is damaged ({type(error).__name__})"
    except PorticoError as error:
        why = error.why
    raise InvalidInput(
        f"cannot use {path}, the note of what the installation made",
        why=why,
        resolution=f"Remove it (rm -r {path}); the users {' and '.join(_USERS)} and the units in {_UNIT_DIRECTORY} "
        f"then stay, remove them by hand: {'; '.join(f'userdel {user}' for user in _USERS)}",
        code="FILE_DAMAGED",
    )


def _note(state: Path, **made: object) -> None:
    private_directory(state)
    write_file(state / MADE_NAME, json.dumps({**_made(state), **made}).encode())


def _forget(state: Path) -> str:
    (state / NAME_FILE).unlink(missing_ok=True)
    (state / MADE_NAME).unlink(missing_ok=True)
    return f"settings and certificates stay in {state}"


def _unit_step(state: Path) -> list[Step]:
    """Before the settings are stored: with them the machine is a server, and one that does not start is half of one.

    Without settings the unit serves nothing, and nothing refuses to repeat what was interrupted.
    """
    return [Step(f"Enable {UNIT_NAME}", lambda: True, lambda: _enable_unit(state))] if systemd_runs() else []


def _user_step(user: str, state: Path) -> Step:
    return Step(f"Create the system user {user}", lambda: not _user_exists(user), lambda: _make_user(user, state))


def _user_exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _made_users(made: dict[str, object]) -> list[str]:
    """Accounts that an installation made; one of an earlier version noted that there is one."""
    noted = made.get("users")
    users = [user for user in noted if isinstance(user, str)] if isinstance(noted, list) else []
    return [USER, *users] if made.get("user") is True else users


def _make_user(user: str, state: Path) -> str:
    # Noted first: a user that is noted and does not exist costs nothing, the other way round it would be left behind.
    users = _made_users(_made(state))
    _note(state, user=False, users=[*users, *({user} - {*users})])
    _run(
        ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", user]
    )
    return ""


def _remove_user(user: str) -> str:
    # By force: a process elsewhere (a container) with the same number would keep the account; ours have ended.
    _run(["userdel", "--force", user])
    return ""


def _make_authority(settings: Settings, state: Path) -> str:
    credentials = Credentials.open(state)
    try:
        authority = CertificateAuthority.create(credentials.directory, name=settings.deployment.domain, now=now_utc())
    finally:
        credentials.close()
    return name_text(authority.certificate.subject)


def _make_certificate(settings: Settings, state: Path) -> str:
    credentials = Credentials.open(state)
    try:
        credentials.secrets(settings, now_utc())
    finally:
        credentials.close()
    return f"for {settings.deployment.connect_to}"


def _store(settings: Settings, state: Path, author: str, comment: str) -> str:
    store = SettingsStore.open(private_directory(state))
    try:
        revision = store.commit(settings, expected=0, author=author, comment=comment, now=now_utc())
    finally:
        store.close()
    return f"in {state}, revision {revision.number}"


def _check_joining(joining: Joining, state: Path) -> str:
    settings = joining.settings
    authority = state / DIRECTORY / AUTHORITY_NAME
    facts = read_facts(
        settings,
        authority=authority if settings.certificates.mode == "built-in" else None,
        own_name=joining.name,
    )
    problems = verify(settings, facts)
    if errors(problems):
        raise SettingsRefused("This machine cannot serve with the cluster's settings", problems)
    return ""


def _finish(joining: Joining) -> str:
    joining.finish()
    return f"revision {joining.revision.number}" if joining.revision is not None else ""


def _enable_unit(state: Path) -> str:
    if not any(unit.exists() for unit in _PACKAGED_UNITS):
        if any(Path(sys.executable).is_relative_to(home) for home in _HIDDEN):
            raise Unavailable(
                f"{UNIT_NAME} cannot run this program",
                why=f"{sys.executable} is below a home directory, which the unit hides",
                resolution="Install it for the machine: make install, or packaging/install.sh",
            )
        targets = [_UNIT_DIRECTORY / name for name in _SERVER_UNITS]
        _note(state, units=[str(target) for target in targets])
        for target in targets:
            write_file(target, unit_text(target.name, executable(), sys.executable).encode(), mode=0o644)
        _run(["systemctl", "daemon-reload"])
    _run(["systemctl", "enable", UNIT_NAME])
    return ""


def _disable_unit() -> str:
    _run(["systemctl", "disable", UNIT_NAME])
    return ""


def _remove_units(units: list[Path]) -> str:
    if systemd_runs():
        _run(["systemctl", "disable", UNIT_NAME])
    for unit in units:
        unit.unlink(missing_ok=True)
    if systemd_runs():
        _run(["systemctl", "daemon-reload"])
    return ""


def _undo_kernel(state: Path) -> str:
    if not state.exists():
        return "nothing was there"
    kept = _kept_addresses(state)
    failures = Kernel(state / LEDGER_NAME).undo(kept)
    if failures:
        raise Unavailable("Not everything could be put back", why="; ".join(failures))
    (state / LEDGER_NAME).unlink(missing_ok=True)
    return "it keeps its dedicated addresses: the virtual ones are those of the other servers" if kept else ""


def _kept_addresses(state: Path) -> tuple[HostAddresses, ...]:
    """A server that leaves a cluster must not take the addresses back that the others have now."""
    store = SettingsStore(state, None, None)
    applied, name = store.applied(), read_own_name(state)
    if applied is None or name is None:
        return ()
    balancing = applied.settings.load_balancing
    if balancing is None or balancing.server(name) is None:
        return ()
    return kept_addresses(localise(applied.settings, name))


def _purge(state: Path) -> str:
    try:
        shutil.rmtree(state)
    except OSError as error:
        raise Unavailable(f"Cannot delete {state}", why=str(error)) from None
    return ""


def _run(command: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PorticoError(
            f"Cannot run {command[0]}", why=str(error), resolution="Install it, or do this by hand"
        ) from None
    if done.returncode != 0:
        raise PorticoError(f"{' '.join(command)} failed", why=" ".join(done.stderr.split())[:500])
