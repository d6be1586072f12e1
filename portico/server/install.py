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
from pathlib import Path

from portico.certificates.ca import AUTHORITY_NAME, CertificateAuthority
from portico.certificates.trust import name_text
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import private_directory, read_file, write_file
from portico.paths import log_directory
from portico.server.credentials import DIRECTORY, Credentials, now_utc
from portico.server.desired import kept_addresses
from portico.server.facts import read_facts
from portico.server.gateway import USER
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

MADE_NAME = "installed.json"
UNIT_NAME = "portico-server.service"
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
        Step(f"Create the system user {USER}", lambda: not _user_exists(), lambda: _make_user(state)),
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
    steps.append(
        Step("Store the settings as revision 1", lambda: True, lambda: _store(settings, state, author, comment))
    )
    if systemd_runs():
        steps.append(Step(f"Enable {UNIT_NAME}", lambda: True, lambda: _enable_unit(state)))
    return steps


def join_steps(joining: Joining, state: Path) -> list[Step]:
    """What joining a cluster does, in order; the settings, which make this machine a server, come last."""
    steps = [
        Step(f"Create the system user {USER}", lambda: not _user_exists(), lambda: _make_user(state)),
        Step(f"Ask to be taken in as {joining.name}", lambda: True, lambda: f"by {joining.ask()}"),
        Step("Read the records of certificates", lambda: True, lambda: f"{joining.fetch_records()}"),
        Step("Check this machine with the cluster's settings", lambda: True, lambda: _check_joining(joining, state)),
        Step("Store the settings", lambda: True, lambda: _finish(joining)),
    ]
    if systemd_runs():
        steps.append(Step(f"Enable {UNIT_NAME}", lambda: True, lambda: _enable_unit(state)))
    return steps


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
    unit = made.get("unit")
    if isinstance(unit, str):
        steps.insert(0, Step(f"Remove {unit}", lambda: Path(unit).exists(), lambda: _remove_unit(Path(unit))))
    if purge:
        logs = log_directory()
        steps.append(Step(f"Delete {logs}", logs.exists, lambda: _purge(logs)))
        steps.append(Step(f"Delete {state}", state.exists, lambda: _purge(state)))
    else:
        steps.append(Step("Forget what was installed", (state / MADE_NAME).exists, lambda: _forget(state)))
    if made.get("user") is True:
        steps.insert(-1, Step(f"Remove the system user {USER}", _user_exists, _remove_user))
    return steps


def unit_text(executable: str) -> str:
    """The systemd unit. The agent needs root for devices, routes and nftables, and no more than the listed."""
    return f"""\
[Unit]
Description=Portico Remote Access server
Wants=network-online.target
After=network-online.target nftables.service

[Service]
Type=notify
ExecStart={executable} server run
Restart=always
RestartSec=1
TimeoutStopSec=30
KillMode=mixed
RuntimeDirectory=portico
RuntimeDirectoryPreserve=yes
StateDirectory=portico
StateDirectoryMode=0755
LogsDirectory=portico
LogsDirectoryMode=0750
LimitNOFILE=524288
UMask=0077

CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL
NoNewPrivileges=yes
DeviceAllow=/dev/net/tun rw
DevicePolicy=closed
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
ReadWritePaths=/proc/sys/net
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service seccomp
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


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
        resolution=f"Remove it (rm -r {path}); the user {USER} and {_UNIT_DIRECTORY / UNIT_NAME} then stay, "
        f"remove them by hand: userdel {USER}",
        code="FILE_DAMAGED",
    )


def _note(state: Path, **made: object) -> None:
    private_directory(state)
    write_file(state / MADE_NAME, json.dumps({**_made(state), **made}).encode())


def _forget(state: Path) -> str:
    (state / NAME_FILE).unlink(missing_ok=True)
    (state / MADE_NAME).unlink(missing_ok=True)
    return f"settings and certificates stay in {state}"


def _user_exists() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _make_user(state: Path) -> str:
    # Noted first: a user that is noted and does not exist costs nothing, the other way round it would be left behind.
    _note(state, user=True)
    _run(
        ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER]
    )
    return ""


def _remove_user() -> str:
    # By force: a process elsewhere (a container) with the same number would keep the account; ours have ended.
    _run(["userdel", "--force", USER])
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
        target = _UNIT_DIRECTORY / UNIT_NAME
        _note(state, unit=str(target))
        write_file(target, unit_text(executable()).encode(), mode=0o644)
        _run(["systemctl", "daemon-reload"])
    _run(["systemctl", "enable", UNIT_NAME])
    return ""


def _remove_unit(unit: Path) -> str:
    if systemd_runs():
        _run(["systemctl", "disable", UNIT_NAME])
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
