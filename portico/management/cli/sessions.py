"""`portico connect`, `login`, `logout`, `whoami`: from this machine to a cluster elsewhere."""

from __future__ import annotations

import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from portico.certificates.trust import pin
from portico.errors import InvalidInput, NotFound, NotPermitted
from portico.files import read_file
from portico.management.cli import output, target
from portico.management.cli.connection import server
from portico.management.cli.login import Login, provider_client
from portico.management.cli.profiles import Profile, Profiles, address
from portico.management.cli.remote import RemoteTransport, ask_authority


def connect(
    name: Annotated[str, typer.Argument(help="What you call the cluster.")],
    url: Annotated[str, typer.Argument(help="One of its servers: https://da1.corp.example.net:2506")],
    fingerprint: Annotated[
        str | None, typer.Option("--pin", help="SHA-256 of its CA, as `portico admin pin` prints it on a server.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the CA, instead of asking the server for it.")
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="With --ca: it is an organisation's CA, so servers' names are checked too.")
    ] = False,
    system: Annotated[bool, typer.Option("--system-ca", help="Trust the CAs of this machine.")] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM file with your certificate and its key, to log in with.")
    ] = None,
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Remember a cluster, and how its servers are recognised.

    Example: `portico connect office https://da1.corp.example.net --pin 3f0c...`
    """
    place = address(url)
    authority: str | None = None
    if ca is not None:
        authority = read_file(ca).decode("ascii", "replace")
    elif not system:
        authority = ask_authority(place)
        found = pin(authority)
        if fingerprint is not None and fingerprint.lower().replace(":", "") != found:
            raise NotPermitted(
                f"The server at {place} is not the one that was meant",
                why=f"the SHA-256 of its CA is {found}",
                resolution="Compare with what this prints on a server of the cluster: portico admin pin",
                code="PIN_MISMATCH",
            )
        if fingerprint is None:
            output.note(f"The SHA-256 of its CA is {found}")
            output.note("On a server of the cluster, this prints the same: portico admin pin")
            output.confirm("Is it the same?", yes=yes)
    profile = Profile(
        name, place, authority, names=names, certificate=str(certificate.absolute()) if certificate else None
    )
    RemoteTransport(profile).close()  # says now what of it cannot be used
    Profiles.load().keep(profile)
    result = {"name": name, "url": place, "pin": pin(authority) if authority else None}
    output.show(result, lambda out: out.print(f"Connected. Log in: portico --server {name} login", markup=False))


def login(
    token: Annotated[bool, typer.Option("--token", help="With an API token, read from standard input.")] = False,
    device: Annotated[bool, typer.Option("--device", help="With a browser on another device.")] = False,
    json: output.Json = False,
) -> None:
    """Log in at a cluster: with its OpenID Connect provider, or with an API token.

    Example: `portico login`, or `portico --server office login` where several are connected
    """
    profiles, profile = _profile()
    if token:
        text = (typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()).strip()
        if not text:
            raise InvalidInput("There is no token", why="standard input is empty", resolution="Paste it, or pipe it in")
        profile = replace(profile, token=text)
    else:
        profile = replace(profile, token=_session(profile, device=device))
    who = _ask(profile, "GET", "/v1/whoami")
    profiles.keep(profile)
    output.show(who, lambda out: _who(out, who))


def logout(json: output.Json = False) -> None:
    """End the session at a cluster, on all its servers, and forget it here.

    An API token is only forgotten here: other programs may use it. `portico admin revoke` makes it useless.

    Example: `portico logout`
    """
    profiles, profile = _profile()
    ended = False
    if profile.token and profile.token.startswith("portico_session_"):
        try:
            _ask(profile, "DELETE", "/v1/sessions/current")
            ended = True
        except NotPermitted as error:
            output.note(f"It had ended already: {error.why}")
    profiles.keep(replace(profile, token=None))
    output.show({"ended": ended, "cluster": profile.name}, lambda out: out.print("Logged out.", markup=False))


def whoami(json: output.Json = False) -> None:
    """Show who you are to the cluster, your role, and which server answered.

    Example: `portico whoami`
    """
    with server() as api:
        who = api.get("/v1/whoami")
    output.show(who, lambda out: _who(out, who))


def _who(out: Console, who: dict[str, Any]) -> None:
    out.print(f"{who['name']} ({who['kind']}), {who['role']}, at {who['server']}", markup=False)


def _profile() -> tuple[Profiles, Profile]:
    profiles = Profiles.load()
    chosen = target.chosen.server
    if chosen is None:
        names = profiles.names()
        if len(names) != 1:
            raise InvalidInput(
                "No cluster is chosen",
                why=f"connected are: {', '.join(names) or 'none'}",
                resolution="Choose one: portico --server NAME login; or connect to it: portico connect NAME URL",
                code="NO_CLUSTER",
            )
        chosen = names[0]
    return profiles, profiles.find(chosen)


def _session(profile: Profile, *, device: bool) -> str:
    options = _ask(profile, "GET", "/v1/login", anonymous=True)["oidc"]
    if options is None:
        raise NotFound(
            f"Nobody can log in at {profile.name} through a provider",
            why="management.oidc is not set",
            resolution=f"Use an API token: portico --server {profile.name} login --token",
            code="OIDC_DISABLED",
        )
    with provider_client(options.get("authority")) as http:
        attempt = Login(options["issuer"], options["client_id"], options["scopes"], http, output.note)
        elsewhere = device or (attempt.has_device_flow and not _has_browser())
        identity = attempt.device() if elsewhere else attempt.code(_open)
    made = _ask(replace(profile, token=identity), "POST", "/v1/sessions")
    return str(made["token"])


def _has_browser() -> bool:
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _ask(profile: Profile, method: str, path: str, *, anonymous: bool = False) -> Any:
    from portico import paths
    from portico.management.client import ApiClient

    plain = replace(profile, token=None) if anonymous else profile
    transport = RemoteTransport(plain)
    with ApiClient(paths.server_socket(), what=f"cluster {profile.name}", transport=transport) as api:
        if method == "GET":
            return api.get(path)
        return api.post(path) if method == "POST" else api.delete(path)


def _open(url: str) -> None:
    webbrowser.open(url)
