"""`portico server upgrade` on each server, one after the other; `portico cluster upgrade` says whose turn it is.

The agent installs nothing: what an upgrade runs is a command of root on the machine itself.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico import __version__, paths
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import exclusive, private_directory, write_file
from portico.management.cli import output
from portico.management.cli.connection import server
from portico.management.client import ApiClient
from portico.server import control, install
from portico.server.upgrade import core, program, running, wheels
from portico.versions import Version, is_older, side_by_side


class Machine:
    """This machine and its agent. What it needs is imported before the program is exchanged below it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def status(self) -> dict[str, Any]:
        with local() as api:
            found: dict[str, Any] = api.get("/v1/status")
        return found

    def cluster(self) -> dict[str, Any] | None:
        try:
            with local() as api:
                found: dict[str, Any] = api.get("/v1/cluster")
        except NotFound:
            return None
        return found

    def command(self, command: str) -> None:
        with local() as api:
            api.post("/v1/cluster/command", {"command": command, "server": self._name})

    def install(self, wheel: Path) -> None:
        program.install(wheel)
        program.refresh()

    def restart(self) -> None:
        runtime = paths.runtime_directory()
        if not control.stop(runtime) and self._answers():
            raise _not_ours()
        control.start(runtime, paths.server_state(), self._answers)

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _answers(self) -> bool:
        try:
            self.status()
        except PorticoError:
            return False
        return True


def local() -> ApiClient:
    """The agent of this machine, whatever cluster was chosen."""
    return ApiClient(paths.server_socket(), timeout=30.0)


def upgrade(
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The new program, as `make wheel` built it; to go on: not needed."),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="The SHA-256 that the file must have.")] = None,
    drain_timeout: Annotated[
        float,
        typer.Option(help="Seconds for connections to end by themselves; the rest dials again.", min=0, max=86_400),
    ] = 300.0,
    health_timeout: Annotated[
        float,
        typer.Option(help="Seconds for the new program to serve; else the former one comes back.", min=5, max=3600),
    ] = 120.0,
    back: Annotated[bool, typer.Option("--back", help="Give an interrupted upgrade up: put the former back.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also to an older version, or while other servers take no clients.")
    ] = False,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Exchange the program of this server: out of the cluster, install, restart, check, back into the cluster.

    When the new program does not serve in time, the former one is put back, and the exit status is 1. One that was
    interrupted goes on where it was when it is repeated. Servers of neighbouring versions work together meanwhile:
    upgrade one after the other, `portico cluster upgrade` shows whose turn it is.

    Example: `portico server upgrade --wheel portico-0.2.0-cp311-abi3-linux_x86_64.whl --dry-run`

    Example: `portico server upgrade --wheel portico-0.2.0-cp311-abi3-linux_x86_64.whl --sha256 4f1c...`
    """
    state = paths.server_state()
    directory = state / "upgrade"
    former = running.read_journal(directory)
    if former is not None and not former.ended:
        journal, new = _going_on(former, wheel, sha256, back=back), None
    else:
        if back:
            raise NotFound("There is no upgrade to give up", why="none was interrupted", code="NO_UPGRADE")
        journal, new = _begun(wheel, sha256, force=force)
    machine = Machine(_own_name(_cluster_now(journal)))
    if dry_run:
        output.show({**_plain(journal), "plan": journal.plan(), "dry_run": True}, lambda out: _show_plan(out, journal))
        return
    output.require_root("Cannot upgrade the server")
    if not output.wants_json():
        _show_plan(output.stderr(), journal)
        output.note(f"Should 'portico' not even start any more: {_pip(directory / running.FORMER / journal.old_wheel)}")
    output.confirm("Begin?" if new is not None else "Go on?", yes=yes)
    private_directory(directory)
    with exclusive(directory / "lock", what="An upgrade runs already", resolution="Wait until it has ended"):
        if new is not None:
            for name in (running.FORMER, running.NEW):
                private_directory(directory / name)
            wheels.pack(wheels.installed(), directory / running.FORMER)
            write_file(directory / running.NEW / new.name, new.data)
        running.write_journal(directory, journal)
        progress = output.Progress()
        try:
            ended = running.run(
                journal, directory, machine, running.Times(drain_timeout, health_timeout), progress.step
            )
        except KeyboardInterrupt:
            _interrupted(running.read_journal(directory) or journal)
            raise typer.Exit(1) from None
        except PorticoError:
            _by_hand(running.read_journal(directory) or journal, directory)
            raise
    _report(ended, progress)


def _cluster_now(journal: core.Journal) -> dict[str, Any] | None:
    """The cluster as the agent sees it; None while it does not answer, which an upgrade in flight may cause."""
    try:
        return Machine("").cluster()
    except PorticoError:
        if journal.step is core.Step.DRAIN:
            raise
        return None


def _begun(wheel: Path | None, sha256: str | None, *, force: bool) -> tuple[core.Journal, wheels.Wheel]:
    """A new upgrade, with everything checked that can be checked before. Nothing is changed."""
    if wheel is None:
        raise InvalidInput(
            "There is nothing to install", why="no upgrade was interrupted", resolution="Give --wheel FILE"
        )
    new, found = wheels.read_wheel(wheel, sha256), wheels.installed()
    former = wheels.former_name(found)
    machine = Machine("")
    status, cluster = machine.status(), machine.cluster()
    if not install.systemd_runs() and control.running_pid(paths.runtime_directory()) is None:
        raise _not_ours()
    if is_older(new.version, found.version) and not force:
        raise Conflict(
            f"{wheel.name} is older than what is installed",
            why=f"that is {found.version}; an older version may not read what a newer one has written",
            resolution="Repeat it with --force if you have a backup: portico backup create",
            code="UPGRADE_OLDER",
        )
    _require_company(new.version, cluster, force=force)
    program.require_libraries(wheel)
    state = running.own_state(cluster)
    journal = core.Journal(
        core.Step.DRAIN, found.version, new.version, former, new.name, new.sha256, state, bool(status["serving"])
    )
    return journal, new


def _require_company(version: str, cluster: dict[str, Any] | None, *, force: bool) -> None:
    """Raises Conflict when the others do not work with the new version, or one of them is out already."""
    for item in (cluster or {}).get("servers", ()):
        if item.get("version") and not side_by_side(version, item["version"]):
            raise Conflict(
                f"Portico {version} does not work with the other servers",
                why=f"{item['name']} has {item['version']}; only neighbouring minor versions work together",
                resolution="Upgrade all servers to a version between first",
                code="VERSIONS_APART",
            )
    _, out = running.others_serving(cluster)
    if out and not force:
        raise Conflict(
            "Other servers take no clients",
            why=f"{', '.join(out)} of the others; one after the other is upgraded, so that the service goes on",
            resolution="Wait for them, or start them: portico cluster status; with --force this one goes too",
            code="UPGRADE_OTHERS_OUT",
        )


def _going_on(journal: core.Journal, wheel: Path | None, sha256: str | None, *, back: bool) -> core.Journal:
    if wheel is not None and wheels.read_wheel(wheel, sha256).sha256 != journal.sha256:
        raise Conflict(
            "Another upgrade was interrupted",
            why=f"it stands at '{journal.words}' ({journal.old} to {journal.new})",
            resolution="Finish it: portico server upgrade; or give it up: portico server upgrade --back",
            code="UPGRADE_IN_FLIGHT",
        )
    if not back:
        return journal
    try:
        return journal.given_up()
    except ValueError:
        return journal


def _own_name(cluster: dict[str, Any] | None) -> str:
    return str(cluster.get("name", "")) if cluster is not None else ""


def _plain(journal: core.Journal) -> dict[str, Any]:
    return {
        "step": journal.step.value,
        "from": journal.old,
        "to": journal.new,
        "wheel": journal.new_wheel,
        "sha256": journal.sha256,
        "failure": journal.failure,
    }


def _show_plan(out: Console, journal: core.Journal) -> None:
    out.print(f"Portico {journal.old} → {journal.new}, {journal.new_wheel}", markup=False, soft_wrap=True)
    out.print(f"SHA-256 {journal.sha256}", markup=False, soft_wrap=True)
    for line in journal.plan():
        out.print(f"Will: {line}", markup=False)


def _not_ours() -> Unavailable:
    return Unavailable(
        "The server cannot be restarted",
        why="it was not started by 'portico server start', but in the foreground or by another service manager",
        resolution="Stop it there, and begin it with: portico server start",
        code="NOT_OURS",
    )


def _interrupted(journal: core.Journal) -> None:
    output.warn(
        f"The upgrade stands at '{journal.words}'. Go on: portico server upgrade; or put Portico {journal.old} back: "
        "portico server upgrade --back"
    )


def _by_hand(journal: core.Journal, directory: Path) -> None:
    """What a person does when even the way back failed."""
    former = directory / running.FORMER / journal.old_wheel
    output.warn(
        f"It stands at '{journal.words}'. Repeat it when the reason is gone: portico server upgrade. "
        f"The former program by hand: {_pip(former)}, then restart the server"
    )


def _pip(former: Path) -> str:
    return f"{sys.executable} -m pip install --no-index --no-deps --force-reinstall {former}"


def _report(journal: core.Journal, progress: output.Progress) -> None:
    done = journal.step is core.Step.DONE
    result = {**_plain(journal), "upgraded": done, "steps": progress.steps}

    def people(out: Console) -> None:
        if done:
            out.print(f"This server has Portico {journal.new}. Whose turn is next: portico cluster upgrade")
            return
        out.print(f"[red]Portico {escape(journal.old)} is in place again[/] and serves as before.")
        if journal.failure is not None:
            output.print_problem(out, journal.failure)

    output.show(result, people)
    if not done:
        raise typer.Exit(1)


def refresh(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Make the accounts and units that this version needs; what an upgrade runs after it has installed.

    Example: `portico server refresh --dry-run`
    """
    steps = [step for step in install.refresh_steps(paths.server_state()) if step.needed()]
    names = [step.name for step in steps]
    if dry_run or not steps:
        text = "\n".join(f"Would: {name}" for name in names) or "Everything is there."
        output.show({"steps": names, "dry_run": dry_run}, lambda out: out.print(text, markup=False))
        return
    output.require_root("Cannot prepare this machine")
    output.confirm(f"{'; '.join(names)}?", yes=yes)
    progress = output.Progress()
    for step in steps:
        with progress.step(step.name) as detail:
            detail(step.do())
    output.show({"steps": progress.steps}, lambda out: None)


def turns(
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version; else the newest that a server has.")
    ] = None,
    json: output.Json = False,
) -> None:
    """Show which servers of the cluster have which version, and on which one to upgrade next.

    Nothing is run on other servers: on each, as root, `portico server upgrade --wheel FILE`. The exit status is 0 when
    all have the version.

    Example: `portico cluster upgrade --to 0.2.0`
    """
    with server() as api:
        found = api.get("/v1/cluster")
    servers = {item["name"]: (item.get("version") or "", item["state"]) for item in found["servers"]}
    versions = [version for version, _ in servers.values() if version]
    target = to or max(versions, key=_order, default=__version__)
    following = core.turn(servers, target)
    rows = [
        (name, version or "not known", state or "not heard", _word(name, version, state, target, following))
        for name, (version, state) in servers.items()
    ]
    complete = all(version == target for version, _ in servers.values())
    result = {
        "target": target,
        "complete": complete,
        "next": following,
        "servers": [
            {"name": n, "version": v or None, "state": s, "upgrade": w} for n, (v, s), w in _zipped(servers, rows)
        ],
    }

    def people(out: Console) -> None:
        out.print(output.table(["Server", "Version", "State", "Upgrade"], rows))
        if complete:
            out.print(f"All servers have Portico {escape(target)}.")
        elif following is not None:
            out.print(f"Next, on {escape(following)}, as root: portico server upgrade --wheel FILE")
        else:
            out.print("Wait until every server that has the new version takes clients again: portico health")

    output.show(result, people)
    if not complete:
        raise typer.Exit(1)


def _zipped(servers: dict[str, Any], rows: list[tuple[str, str, str, str]]) -> list[tuple[str, Any, str]]:
    return [(name, value, row[3]) for (name, value), row in zip(servers.items(), rows, strict=True)]


def _word(name: str, version: str, state: str | None, target: str, following: str | None) -> str:
    if version == target:
        return "done" if state in core.SERVING else "has it, and does not serve yet"
    return "next" if name == following else "later"


def _order(text: str) -> tuple[int, int, int]:
    found = Version.parse(text)
    return (found.major, found.minor, found.patch) if found is not None else (0, 0, 0)
