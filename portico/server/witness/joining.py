"""A machine becomes the witness of a cluster with one token, and ends being it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from portico import __version__
from portico.certificates.trust import pin
from portico.errors import Conflict, InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.files import private_directory, read_file, write_file
from portico.server.etcd.identity import CERTIFICATE_NAME
from portico.server.etcd.process import find_etcd
from portico.server.install import Step, executable, systemd_runs, unit_text
from portico.server.peers import messages
from portico.server.peers.caller import Caller
from portico.server.peers.tls import blind_context, caller_context, keep_member, make_member_request
from portico.server.peers.tokens import JoinToken
from portico.server.witness.witness import FILE_NAME, Known, servers_of

USER = "portico-witness"
UNIT = "portico-witness.service"
MADE_NAME = "made"
"""Names what an installation made: "user", and the unit's path."""
JOIN_SECONDS = 160.0
_UNIT_DIRECTORY = Path("/etc/systemd/system")
_PACKAGED = (Path("/usr/local/lib/systemd/system"), Path("/usr/lib/systemd/system"))


async def look(token: JoinToken) -> tuple[str, str]:
    """The server's name and the cluster's CA, if it is the token's. Raises NotPermitted (PIN_DIFFERS), Unavailable."""
    caller = Caller(token.host, token.port, None, blind_context())
    try:
        data = await caller.get("/v1/trust")
    finally:
        await caller.close()
    if not isinstance(data, dict):
        raise messages.malformed("it is not an object")
    trust = messages.text(data, "trust", limit=16 << 10)
    try:
        same = pin(trust) == token.pin
    except InvalidInput:
        same = False
    if not same:
        raise NotPermitted(
            f"What answers on {token.host} is not the server that made the token",
            why="its cluster's CA is another one",
            resolution="Check the address, and whether somebody is between; then make a new token: "
            f"portico cluster store witness add {token.name}",
            code="PIN_DIFFERS",
        )
    return messages.text(data, "server"), trust


async def join(token: JoinToken, state: Path) -> str:
    """Asks to be the witness and keeps what that takes; returns the server's name. Repeatable. Raises PorticoError."""
    server, trust = await look(token)
    request = await asyncio.to_thread(make_member_request, private_directory(state), token.name)
    caller = Caller(token.host, token.port, server, caller_context(trust, None))
    body = {"token": token.id, "secret": token.secret, "version": __version__, "request": request}
    try:
        data = await caller.post("/v1/store/witness/join", body, seconds=JOIN_SECONDS)
    finally:
        await caller.close()
    if not isinstance(data, dict) or messages.text(data, "name") != token.name:
        raise messages.malformed("it is not for this machine")
    certificate = messages.text(data, "certificate", limit=64 << 10)
    known = Known(token.name, trust, servers_of(data), messages.number(data, "revision"))

    def keep() -> None:
        keep_member(state, certificate)
        write_file(state / CERTIFICATE_NAME, read_file(state / "member.pem"))
        known.save(state)

    await asyncio.to_thread(keep)
    return server


def refuse_second(state: Path) -> None:
    """Raises Conflict when this machine is a witness already."""
    if (state / FILE_NAME).exists():
        raise Conflict(
            "This machine is a witness already",
            why=f"there is {state / FILE_NAME}",
            resolution="Look at it: portico witness status; or take it off: portico witness uninstall",
            code="WITNESS_ALREADY",
        )


def install_steps(token: JoinToken, state: Path) -> list[Step]:
    """What an installation does, in order; each step may be repeated."""
    steps = [
        Step("Look for etcd", lambda: True, find_etcd),
        Step(f"Create the system user {USER}", lambda: not _user_exists(), partial(_make_user, state)),
        Step(f"Ask to be taken as the witness {token.name}", lambda: True, lambda: f"by {_join(token, state)}"),
    ]
    if systemd_runs():
        steps.append(Step(f"Enable and start {UNIT}", lambda: True, partial(_enable, state)))
    return steps


def uninstall_steps(state: Path) -> list[Step]:
    """What taking the witness off does: the unit that was made, its data and keys, the account that was made."""
    made = _made(state)
    steps = []
    if systemd_runs():
        steps.append(Step(f"Stop and disable {UNIT}", _unit_known, lambda: _run("systemctl", "disable", "--now", UNIT)))
    for path in (Path(line) for line in made if line.startswith("/")):
        steps.append(Step(f"Remove {path}", path.exists, partial(_remove_unit, path)))
    steps.append(Step(f"Delete {state}", state.exists, partial(_purge, state)))
    if "user" in made:
        steps.append(Step(f"Remove the system user {USER}", _user_exists, lambda: _run("userdel", "--force", USER)))
    return steps


def _join(token: JoinToken, state: Path) -> str:
    server = asyncio.run(join(token, state))
    _give_away(state)
    return server


def _give_away(state: Path) -> None:
    """The directory and its files belong to the account that runs the witness."""
    if os.geteuid() != 0 or not _user_exists():
        return
    account = pwd.getpwnam(USER)
    for path in (state, *state.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _made(state: Path) -> list[str]:
    try:
        return read_file(state / MADE_NAME).decode().splitlines()
    except PorticoError:
        return []


def _note(state: Path, what: str) -> None:
    if what not in (made := _made(state)):
        write_file(private_directory(state) / MADE_NAME, "\n".join([*made, what]).encode())


def _user_exists() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _make_user(state: Path) -> str:
    _note(state, "user")
    return _run(
        "useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER
    )


def _enable(state: Path) -> str:
    if not any((directory / UNIT).exists() for directory in _PACKAGED):
        target = _UNIT_DIRECTORY / UNIT
        _note(state, str(target))
        write_file(target, unit_text(UNIT, executable(), sys.executable).encode(), mode=0o644)
        _run("systemctl", "daemon-reload")
    return _run("systemctl", "enable", "--now", UNIT)


def _unit_known() -> bool:
    return any((directory / UNIT).exists() for directory in (_UNIT_DIRECTORY, *_PACKAGED))


def _remove_unit(path: Path) -> str:
    path.unlink(missing_ok=True)
    return _run("systemctl", "daemon-reload") if systemd_runs() else ""


def _purge(state: Path) -> str:
    try:
        shutil.rmtree(state)
    except OSError as error:
        raise Unavailable(f"Cannot delete {state}", why=str(error)) from None
    return ""


def _run(*command: str) -> str:
    environment: dict[str, Any] = {**os.environ, "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PorticoError(f"Cannot run {command[0]}", why=str(error), resolution="Do this by hand") from None
    if done.returncode != 0:
        raise PorticoError(f"{' '.join(command)} failed", why=" ".join(done.stderr.split())[:500])
    return ""
