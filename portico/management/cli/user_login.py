"""`portico client login|logout`: the user of this computer, at the server."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rich.console import Console

from portico.certificates.trust import parse_certificates, to_pem
from portico.client.control_client import ask
from portico.errors import InvalidInput, PorticoError
from portico.files import read_file
from portico.management.cli.login import Login, provider_client
from portico.management.cli.output import Json, Progress, duration_text, fields, note, show, time_text
from portico.server.users.proof import sign, signed_text

MAXIMUM_FILE = 256 << 10


def login(
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the user's certificate and its chain.", dir_okay=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="PEM file of its private key; without it, the certificate's file.", dir_okay=False),
    ] = None,
    json: Json = False,
) -> None:
    """Authenticate the user of this computer, so that the intranet opens.

    With a certificate, or at the OpenID Connect provider that the server names: then a page and a code are shown, to be
    opened on any device.

    Example: `portico client login --certificate alice.pem --key alice.key`

    Example: `portico client login`
    """
    progress = Progress()
    with progress.step("Ask the server how users authenticate"):
        state = ask("GET", "user")
    if state["authentication"] == "none":
        show(state, lambda out: out.print("No user has to log in: this computer reaches the intranet."))
        return
    if state["authentication"] == "certificate":
        body = _proof(certificate, key, progress)
    else:
        with progress.step("Ask the server for the provider"):
            provider = ask("GET", "user/provider")
        body = {"token": _token(provider)}
    with progress.step("Log in"):
        found = ask("POST", "user/login", body=body)
    show(found, lambda out: _draw(out, found))


def logout(json: Json = False) -> None:
    """End what the user of this computer was allowed. The intranet closes.

    Example: `portico client logout`
    """
    found = ask("POST", "user/logout")
    show(found, lambda out: _draw(out, found))


def level_fields(status: dict[str, Any]) -> dict[str, Any]:
    """The lines of `portico client status` about the level of access."""
    since, until = status.get("user_since"), status.get("user_until")
    return {
        "Level": status.get("level") or None,
        "User": status.get("user") or None,
        "User since": time_text(since) if since else None,
        "User until": f"{time_text(until)} (in {duration_text(until - time.time())})" if until else None,
    }


def refresh() -> None:
    """Has the agent ask the server for the level; an agent that cannot says what it knows."""
    try:
        ask("GET", "user", timeout=5.0)
    except PorticoError:
        return


def _proof(certificate: Path | None, key: Path | None, progress: Progress) -> dict[str, str]:
    if certificate is None:
        raise InvalidInput(
            "A certificate is needed",
            why="the server authenticates users by certificate",
            resolution="Give it: portico client login --certificate FILE --key FILE",
            code="USER_CERTIFICATE_NEEDED",
        )
    chain = to_pem(*parse_certificates(read_file(certificate, limit=MAXIMUM_FILE), source=str(certificate)))
    private = _key(key or certificate)
    with progress.step("Prove that the key is here"):
        challenge = ask("GET", "user/challenge")
        text = signed_text(str(challenge["challenge"]), str(challenge["issuer_sha256"]), str(challenge["serial"]))
        signature = sign(private, text)
    return {"challenge": str(challenge["challenge"]), "certificate_chain": chain, "signature": signature}


def _key(path: Path) -> Any:
    data = read_file(path, limit=MAXIMUM_FILE)
    try:
        try:
            return load_pem_private_key(data, password=None)
        except TypeError:
            return load_pem_private_key(data, password=getpass.getpass(f"Password of {path}: ").encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"{path} cannot be used", why=f"it holds no private key in PEM form: {error}", resolution="Give --key FILE"
        ) from None


def _token(oidc: dict[str, Any]) -> str:
    with provider_client(oidc.get("authority")) as http:
        return Login(
            str(oidc.get("issuer", "")),
            str(oidc.get("client_id", "")),
            list(oidc.get("scopes", ())),
            http,
            note,
            look_at="the network and at the provider; its address is access.user_oidc of the server",
        ).device()


def _draw(out: Console, found: dict[str, Any]) -> None:
    grant = found.get("grant") or {}
    out.print(
        fields(
            {
                "Level": found.get("level"),
                "User": grant.get("user"),
                "Until": time_text(grant.get("until")) if grant else None,
            }
        )
    )
