"""`portico client`: this machine as a remote computer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from portico.certificates.tokens import Token
from portico.client import enrol as enrolment
from portico.client.agent import ACCOUNT, ClientAgent
from portico.client.control_client import ask
from portico.client.identity import ClientFiles, LocalSettings, Wish, not_enrolled
from portico.client.service import run as run_service
from portico.errors import Conflict, InvalidInput, PorticoError, Unavailable
from portico.files import read_file
from portico.management.cli import client_assistant, user_login, windows
from portico.management.cli.output import (
    Json,
    Progress,
    Yes,
    confirm,
    fields,
    note,
    require_root,
    show,
    time_text,
    warn,
)

app = typer.Typer(help="This machine as a remote computer.", no_args_is_help=True)
app.command("status")(client_assistant.status)
app.command("page")(client_assistant.page)
app.command("collect")(client_assistant.collect)
app.command("export")(windows.export)
app.command("login")(user_login.login)
app.command("logout")(user_login.logout)

_CONNECTED = ("ConnectedRemotely", "ConnectedLocally")

ProxyFlag = Annotated[
    str | None,
    typer.Option(
        help="HTTP proxy as http://HOST:PORT; 'environment' stores what https_proxy says now; 'none' removes it."
    ),
]
ProxyFile = Annotated[
    Path | None, typer.Option(help="File with the proxy as http://USER:PASSWORD@HOST:PORT.", dir_okay=False)
]
Dns = Annotated[
    Literal["auto", "resolved", "resolv_conf", "none"] | None,
    typer.Option(help="How intranet names get to the tunnel: systemd-resolved, /etc/resolv.conf, or not at all."),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the tunnel; 0 does not wait.")]


@app.command()
def enrol(
    token: Annotated[str, typer.Argument(help="What `portico ca token create` printed; '-' reads it from stdin.")],
    proxy: ProxyFlag = None,
    proxy_file: ProxyFile = None,
    dns: Dns = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the identity this computer already has.")] = False,
    connect: Annotated[bool, typer.Option(help="Connect when the agent runs.")] = True,
    wait: Wait = 15.0,
    json: Json = False,
) -> None:
    """Make this computer a remote client of a server, with a one-time token.

    The private key is made here and never leaves this computer.

    Example: `portico client enrol eyJ2IjoxLCJ1cmwi...`

    Example: `portico client enrol - --proxy http://proxy.example.org:3128 < token`
    """
    require_root("This computer cannot be enrolled")
    files = ClientFiles()
    if files.enrolled and not force:
        raise Conflict(
            "This computer is already enrolled",
            why=f"it has an identity in {files.identity_path}",
            resolution="Look at it with 'portico client status', or replace it with --force",
            code="ALREADY_ENROLLED",
        )
    parsed = Token.parse(sys.stdin.read(8192) if token == "-" else token)  # noqa: S105
    local = _changed(files.local(), proxy=proxy, proxy_file=proxy_file, dns=dns)
    way = enrolment.effective_proxy(local)
    progress = Progress()
    with progress.step(f"Recognise the server at {parsed.url}"):
        trust = enrolment.fetch_trust(parsed, way)
    with progress.step("Make a key and get its certificate") as detail:
        enrolled = enrolment.enrol(parsed, trust, way)
        detail(f"as {enrolled.name}")
    with progress.step("Store identity and settings") as detail:
        detail(str(files.directory))
        files.save("local", local)
        enrolled.save(files)
        files.save("wish", Wish(connect=connect))
    with progress.step(f"Provide the account {ACCOUNT}") as detail:
        detail(_make_account())
    running = True
    status: dict[str, Any] = {}
    try:
        status = ask("POST", "reload")
    except Unavailable:
        running = False
        note("The agent does not run. Start it now and at boot: systemctl enable --now portico-client")
    if running and connect and wait > 0:
        status = _wait_connected(progress, wait)
    result = {
        "name": enrolled.name,
        "server": enrolled.settings.url,
        "domain": enrolled.settings.domain,
        "agent_running": running,
        "status": status,
        "steps": progress.steps,
    }

    def people(out: Console) -> None:
        out.print(
            fields(
                {
                    "Enrolled as": enrolled.name,
                    "Server": enrolled.settings.url,
                    "Intranet": enrolled.settings.domain,
                    "Status": status.get("status"),
                }
            )
        )

    show(result, people)


@app.command()
def connect(wait: Wait = 15.0, json: Json = False) -> None:
    """Open the tunnel, and keep it open, also after a restart.

    Example: `portico client connect`
    """
    progress = Progress()
    status = ask("POST", "connect")
    if wait > 0:
        status = _wait_connected(progress, wait)
    show(status, lambda out: client_assistant.draw_status(out, status))


@app.command()
def disconnect(json: Json = False) -> None:
    """Close the tunnel, and keep it closed, also after a restart. Everything it changed is given back.

    Example: `portico client disconnect`
    """
    progress = Progress()
    with progress.step("Close the tunnel and give the machine's DNS back"):
        status = ask("POST", "disconnect")
    show(status, lambda _: None)


@app.command()
def redial(json: Json = False) -> None:
    """Drop the connection and dial at once. Connections inside the tunnel live on.

    Example: `portico client redial`
    """
    found = ask("POST", "redial")
    show(found, lambda _: None)


@app.command()
def renew(json: Json = False) -> None:
    """Renew this computer's certificate now. The agent does it by itself in time.

    Example: `portico client renew`
    """
    progress = Progress()
    with progress.step("Renew the certificate") as detail:
        found = ask("POST", "renew", timeout=60)
        detail(f"good until {time_text(found.get('certificate_expires'))}")
    show(found, lambda _: None)


@app.command()
def settings(
    proxy: ProxyFlag = None,
    proxy_file: ProxyFile = None,
    dns: Dns = None,
    inbound: Annotated[
        Literal["allow", "deny"] | None, typer.Option(help="Whether the intranet may open connections to here.")
    ] = None,
    fallback: Annotated[
        Literal["none", "secure", "private", "unsecure"] | None,
        typer.Option(help="When intranet names are asked outside after all; anything but none shows them there."),
    ] = None,
    json: Json = False,
) -> None:
    """Show or change this computer's own choices.

    Example: `portico client settings --dns resolv_conf --inbound deny`
    """
    require_root("This computer's choices cannot be read")
    files = ClientFiles()
    before = files.local()
    local = _changed(before, proxy=proxy, proxy_file=proxy_file, dns=dns, inbound=inbound, fallback=fallback)
    if local != before:
        files.save("local", local)
        try:
            ask("POST", "reload")
        except Unavailable:
            note("The agent does not run; it takes the change up when it starts.")
    shown = local.model_dump(mode="json")
    way = enrolment.effective_proxy(local) if local.proxy != "environment" else None
    if way is not None:
        shown["proxy"] = way.url  # without its password
    show(shown, lambda out: out.print(fields(shown)))


@app.command()
def unenrol(yes: Yes = False, json: Json = False) -> None:
    """Forget the identity and everything the server gave. Revoke it there too: `portico clients revoke NAME`.

    Example: `portico client unenrol --yes`
    """
    require_root("This computer cannot be unenrolled")
    files = ClientFiles()
    if not files.enrolled:
        raise not_enrolled()
    confirm("Forget this computer's identity? Only a new token brings it back.", yes=yes)
    progress = Progress()
    with progress.step("Close the tunnel"):
        try:
            ask("POST", "disconnect")
        except Unavailable:
            asyncio.run(ClientAgent(files).clean_up())
    with progress.step("Remove the key, the certificate and the settings"):
        files.forget()
    show({"enrolled": False, "steps": progress.steps}, lambda _: None)


@app.command()
def run(
    tunnel_socket: Annotated[
        Path | None,
        typer.Option(help="Where the process of portico-tunnel.service connects. Without it, one is started here."),
    ] = None,
) -> None:
    """Run the agent in the foreground (what the service does). Connects when enrolled, unless told otherwise.

    Example: `portico client run`
    """
    require_root("The agent cannot start")
    run_service(tunnel_socket=tunnel_socket)


@app.command("clean-up", hidden=True)
def clean_up(json: Json = False) -> None:
    """Give back what a killed agent left behind: /etc/resolv.conf, the firewall table, policy rules."""
    require_root("Nothing can be given back")
    try:
        ask("GET", "status", timeout=3)
    except PorticoError:
        asyncio.run(ClientAgent(ClientFiles()).clean_up())
        show({"cleaned": True}, lambda _: None)
        return
    raise Conflict("Nothing was given back", why="the agent is running", resolution="Use: portico client disconnect")


def _changed(
    local: LocalSettings,
    *,
    proxy: str | None = None,
    proxy_file: Path | None = None,
    dns: str | None = None,
    inbound: str | None = None,
    fallback: str | None = None,
) -> LocalSettings:
    changes: dict[str, Any] = {}
    if proxy_file is not None:
        changes["proxy"] = read_file(proxy_file, limit=4096).decode("utf-8", "replace").strip()
    elif proxy == "none":
        changes["proxy"] = None
    elif proxy == "environment":
        # Stored now: the service's environment is not this shell's.
        changes["proxy"] = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
        if not changes["proxy"]:
            raise InvalidInput(
                "There is no proxy in the environment",
                why="https_proxy is not set",
                resolution="Give it with --proxy http://HOST:PORT (sudo drops the environment; see sudo -E)",
            )
    elif proxy is not None:
        if "@" in proxy:
            raise InvalidInput(
                "The proxy's password does not belong on a command line",
                why="every user of this computer can read it there",
                resolution="Write http://USER:PASSWORD@HOST:PORT into a file and name it with --proxy-file",
            )
        changes["proxy"] = proxy
    for name, value in (("dns", dns), ("inbound", inbound), ("name_query_fallback", fallback)):
        if value is not None:
            changes[name] = value
    try:
        return LocalSettings.model_validate({**local.model_dump(), **changes})
    except ValidationError as error:
        raise InvalidInput(
            "These choices cannot be used" if proxy_file is None else f"{proxy_file} cannot be used",
            why="; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
            resolution="See: portico client settings --help",
        ) from None


def _make_account() -> str:
    """Creates the account of the tunnel process when it is missing; says what was done."""
    import pwd

    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        pass
    else:
        return "it exists"
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
    if useradd is None:
        warn(f"useradd is not installed: the tunnel process runs as root without capabilities, not as {ACCOUNT}")
        return "not made"
    result = subprocess.run(
        [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        warn(f"the tunnel process runs as root without capabilities: useradd says {result.stderr.strip()}")
        return "not made"
    return "made"


def _wait_connected(progress: Progress, seconds: float) -> dict[str, Any]:
    """Asks until the tunnel carries packets. Raises Unavailable (NOT_CONNECTED) with the last error."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    with progress.step("Connect") as detail:
        while True:
            found = ask("GET", "status")
            if found["status"] in _CONNECTED:
                detail(", ".join(found["addresses"]))
                return found
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        error = found.get("last_error") or {}
        why = (
            client_assistant.first_failure(found)
            or error.get("text")
            or "; ".join(found.get("problems", ()))
            or f"no tunnel within {seconds:g} s"
        )
        raise Unavailable(
            f"Not connected ({found['status']}, {found['substatus']})",
            why=why,
            resolution="The agent goes on trying; watch it with: portico client status",
            code="NOT_CONNECTED",
        )
