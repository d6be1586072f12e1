"""`portico server`: install, join, upgrade, run, start, stop, status, uninstall."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico import paths
from portico.errors import PorticoError
from portico.management.cli import output, upgrade, wizard
from portico.management.cli.connection import author, server
from portico.management.cli.join import join
from portico.management.wizard.questions import Topology
from portico.server import control, install
from portico.server.facts import read_facts
from portico.settings.document import dump, load_data, load_file
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused, errors
from portico.settings.verify import verify
from portico.transition.addressing import generate_organisation_prefix

app = typer.Typer()


@app.command("install")
def install_command(
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Settings as YAML instead of questions.")] = None,
    domain: Annotated[str | None, typer.Option(help="DNS domain of the intranet.")] = None,
    connect_to: Annotated[str | None, typer.Option(help="Public name or address that clients dial.")] = None,
    internet: Annotated[str | None, typer.Option(help="Network interface to the Internet.")] = None,
    internal: Annotated[str | None, typer.Option(help="Network interface to the intranet.")] = None,
    dns: Annotated[list[str] | None, typer.Option(help="DNS server of the intranet; may be repeated.")] = None,
    prefix: Annotated[str | None, typer.Option(help="IPv6 /48 of the organisation; made up when not given.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the answers to this file, for --file on another machine.")
    ] = None,
    start: Annotated[bool, typer.Option(help="Start serving afterwards.")] = True,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make this machine a Remote Access server.

    Asks what is needed, or takes a file or options; checks everything before anything is changed; can be repeated.
    Each answer is checked at once; `<` goes back, and until the last question nothing is changed.

    Example: `portico server install --save answers.yaml`

    Example: `portico server install --file settings.yaml --dry-run`

    Example: `portico server install --domain corp.example.net --connect-to da.example.net --internet eth0
    --internal eth1 --dns 10.0.0.53 --yes`
    """
    state = paths.server_state()
    install.refuse_second_installation(state)
    if save is not None:
        wizard.require_free(save)
    asks = file is None and not yes and wizard.can_ask()
    if file is not None:
        settings = load_file(file)
    elif asks:
        if not dry_run:
            output.require_root("Cannot install the server")
        given = _given(domain, connect_to, internet, internal, dns, prefix)
        plan = lambda settings: [step.name for step in _steps(settings, state)]  # noqa: E731
        settings = wizard.ask(given, plan, last=None if dry_run else "Install this?")
    else:
        needed = {"domain": domain, "connect_to": connect_to, "internet": internet, "internal": internal}
        settings = _from_options(needed, dns, prefix)
    problems = verify(settings, read_facts(settings, resolve=True))
    if errors(problems):
        raise SettingsRefused("This machine cannot be installed with these settings", problems)
    if not asks:  # whoever answered has seen them
        for problem in problems:
            output.warn(str(problem))
    steps = _steps(settings, state)
    if save is not None:
        wizard.save(settings, save)
    if dry_run:
        output.show(
            {"settings": settings.as_data(), "steps": [step.name for step in steps], "dry_run": True},
            lambda out: _show_plan(out, settings, steps),
        )
        return
    output.require_root("Cannot install the server")
    if not asks:
        if not output.wants_json():
            _show_plan(output.stderr(), settings, steps)
        output.confirm("Install this?", yes=yes)
    progress = output.Progress()
    _run_steps(steps, progress)
    running = ""
    if start:
        with progress.step("Start the server") as detail:
            running = control.start(paths.runtime_directory(), state, _answers)
            detail(running)
    status = _status() if start else None
    result = {"installed": True, "running": running or None, "steps": progress.steps, "status": status}
    output.show(result, lambda out: _installed(out, settings, running))


app.command("join")(join)
app.command("upgrade")(upgrade.upgrade)
app.command("refresh", hidden=True)(upgrade.refresh)


@app.command("status")
def status_command(json: output.Json = False) -> None:
    """Show what this server does, and what is wrong with it. Exit status 1 when it does not serve.

    Example: `portico server status --json`
    """
    with server() as api:
        status = api.get("/v1/status")
    output.show(status, lambda out: _show_status(out, status))
    if not status["serving"]:
        raise typer.Exit(1)


@app.command("start")
def start_command(dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Start the server: its systemd unit, or a detached process where systemd does not run.

    Example: `portico server start`
    """
    if _answers():
        output.show({"started": False, "running": True}, lambda out: out.print("The server runs already."))
        return
    if dry_run:
        output.show({"dry_run": True, "would": "start"}, lambda out: out.print("Would start the server."))
        return
    output.require_root("Cannot start the server")
    progress = output.Progress()
    with progress.step("Start the server") as detail:
        how = control.start(paths.runtime_directory(), paths.server_state(), _answers)
        detail(how)
    status = _status()
    output.show({"started": True, "running": how, "status": status}, lambda out: _show_status(out, status))


@app.command("stop")
def stop_command(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Stop the server. Every tunnel is closed and the kernel is left as it was before.

    Example: `portico server stop --yes`
    """
    connected = _connected()
    if dry_run:
        output.show(
            {"dry_run": True, "would": "stop", "disconnects": connected},
            lambda out: out.print(f"Would stop the server and close {connected} tunnels."),
        )
        return
    output.require_root("Cannot stop the server")
    output.confirm(f"Stop the server and close {connected} tunnels?", yes=yes)
    stopped = control.stop(paths.runtime_directory())
    if not stopped:
        _refuse_running()
    output.show({"stopped": stopped}, lambda out: out.print("Stopped." if stopped else "The server did not run."))


@app.command("run")
def run_command(
    gateway_socket: Annotated[
        Path | None,
        typer.Option(help="Where the gateway of portico-gateway.service connects. Without it, one is started here."),
    ] = None,
    balancer_socket: Annotated[
        Path | None,
        typer.Option(help="Where the balancer of portico-balancer.service connects. Without it, one is started here."),
    ] = None,
    store_socket: Annotated[
        Path | None,
        typer.Option(help="Where the etcd of portico-store.service connects. Without it, one is started here."),
    ] = None,
    location_socket: Annotated[
        Path | None,
        typer.Option(help="Where the pages of portico-location.service connect. Without it, they are started here."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the server in the foreground; what the systemd unit runs. Logs to stderr, one event a line.

    Example: `portico server run --verbose`
    """
    from portico.management.api.serve import run

    output.require_root("Cannot run the server")
    raise typer.Exit(
        run(
            paths.server_state(),
            paths.server_socket(),
            gateway_socket=gateway_socket,
            balancer_socket=balancer_socket,
            store_socket=store_socket,
            location_socket=location_socket,
            verbose=verbose,
        )
    )


@app.command("uninstall")
def uninstall_command(
    purge: Annotated[bool, typer.Option("--purge", help="Also delete settings, certificates and the CA.")] = False,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Take the role off this machine: exactly what Portico made goes, settings and certificates stay.

    With --purge everything goes; enrolled computers must then be enrolled again.

    Example: `portico server uninstall --dry-run`
    """
    state = paths.server_state()
    steps = [step for step in install.uninstall_steps(state, purge=purge) if step.needed()]
    names = ["Stop the server", *(step.name for step in steps)]
    if dry_run:
        output.show(
            {"dry_run": True, "steps": names}, lambda out: out.print("\n".join(f"Would: {name}" for name in names))
        )
        return
    output.require_root("Cannot uninstall the server")
    output.confirm(f"{'; '.join(names)}?", yes=yes)
    progress = output.Progress()
    with progress.step("Stop the server") as detail:
        detail("done" if control.stop(paths.runtime_directory()) else "it did not run")
    _refuse_running()
    _run_steps(steps, progress)
    output.show({"uninstalled": True, "purged": purge, "steps": progress.steps}, lambda out: None)


def _refuse_running() -> None:
    """Raises PorticoError when a server answers that this command could not stop."""
    if _answers():
        raise PorticoError(
            "The server still runs",
            why="it was not started by 'portico server start', but in the foreground or by another service manager",
            resolution="End 'portico server run' where it runs, then repeat this",
        )


def _run_steps(steps: list[install.Step], progress: output.Progress) -> None:
    for step in steps:
        with progress.step(step.name) as detail:
            text = step.do()
            if text:
                detail(text)


def _steps(settings: Settings, state: Path) -> list[install.Step]:
    return [step for step in install.install_steps(settings, state, author=author()) if step.needed()]


def _given(
    domain: str | None,
    connect_to: str | None,
    internet: str | None,
    internal: str | None,
    dns: list[str] | None,
    prefix: str | None,
) -> dict[str, str]:
    """Options as answers of the wizard, which does not ask for them then."""
    given = {
        "domain": domain,
        "connect_to": connect_to,
        "internet": internet,
        "internal": internal,
        "dns": ", ".join(dns) if dns else None,
        "organisation": prefix,
    }
    if internet is not None and internet == internal:
        given |= {"topology": Topology.SINGLE_ADAPTER, "internal": None}
    return {key: value for key, value in given.items() if value is not None}


def _from_options(given: dict[str, str | None], dns: list[str] | None, prefix: str | None) -> Settings:
    """A document from options alone."""
    missing = [f"--{key.replace('_', '-')}" for key, value in given.items() if value is None]
    if missing:
        raise wizard.nobody_to_ask(missing)
    organisation = prefix or str(generate_organisation_prefix(secrets.token_bytes))
    return load_data(
        {
            "schema_version": 1,
            "deployment": {
                "domain": given["domain"],
                "connect_to": given["connect_to"],
                "organisation_prefix": organisation,
            },
            "server": {
                "name": socket.gethostname().split(".")[0],
                "internet_interface": given["internet"],
                "internal_interface": given["internal"],
            },
            "dns64": {"upstream_servers": dns or []},
        },
        source="the answers",
    )


def _show_plan(out: Console, settings: Settings, steps: list[install.Step]) -> None:
    out.print(escape(dump(settings)))
    for step in steps:
        out.print(f"Will: {escape(step.name)}")


def _installed(out: Console, settings: Settings, running: str) -> None:
    if running:
        out.print(f"\nServing as {escape(settings.deployment.connect_to)} ({escape(running)}).")
    else:
        out.print("\nInstalled. Start it with: portico server start")
    out.print("Enrol a computer: portico ca token create --name NAME, then on it: portico client enrol TOKEN")


def _show_status(out: Console, status: dict[str, Any]) -> None:
    gateway, balancer = status["gateway"], status["balancer"]
    now = time.time()
    out.print("[green]Serving[/]" if status["serving"] else "[bold red]Not serving[/]")
    out.print(
        output.fields(
            {
                "Problem": _fault(status["problem"]) if status["problem"] else None,
                "Address": status["url"],
                "Settings": f"revision {status['revision']}" if status["revision"] else "none in force",
                "Read-only": status["settings_damage"] if status["settings_read_only"] else None,
                "Gateway": _process(gateway, now),
                "Reason": gateway["reason"] or None,
                "Balancer": _balancer(balancer, now),
                "Tunnels": status["sessions"],
                "Drift": "; ".join(status["drifting"]) or None,
                "Running for": output.duration_text(now - status["started"]),
                "Version": status["version"],
            }
        )
    )
    for warning in status["warnings"]:
        out.print(f"[yellow]Warning:[/] {escape(_fault(warning))}")
    for drift in status["drifts"][:3]:
        what = "repaired" if drift["repaired"] else "not repaired"
        out.print(f"{output.time_text(drift['at'])} {what}: {escape('; '.join(drift['changes']))}")


def _process(process: dict[str, Any], now: float) -> str:
    since = f", {output.duration_text(now - process['since'])}" if process["since"] else ""
    restarts = f", {process['restarts']} restarts" if process["restarts"] else ""
    unit = f", {process['unit']}" if process["unit"] else ""
    return f"{process['state']}{since}{restarts}{unit}"


def _balancer(process: dict[str, Any], now: float) -> str | None:
    """Nothing where it is neither needed nor there."""
    if not process["configured"] and process["unit"] is None:
        return None
    return _process(process, now) + (f": {process['reason']}" if process["reason"] else "")


def _fault(fault: dict[str, Any]) -> str:
    return ". ".join(part for part in (f"{fault['what']}: {fault['why']}", fault["resolution"]) if part)


def _status() -> dict[str, Any]:
    with server() as api:
        status: dict[str, Any] = api.get("/v1/status")
    return status


def _connected() -> int:
    try:
        return int(_status()["sessions"] or 0)
    except PorticoError:
        return 0


def _answers() -> bool:
    if not paths.server_socket().exists():
        return False
    try:
        status = _status()
    except PorticoError:
        return False
    # The API answers before the first attempt to serve has ended; that attempt is what is waited for.
    return bool(status["serving"] or status["problem"])
