"""`portico ca`: the built-in CA, enrolment tokens, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape

from portico.certificates.issue import client_name, make_request, parse_request
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError
from portico.files import read_file, write_file
from portico.management.cli import output
from portico.management.cli.clients import Reason
from portico.management.cli.connection import author, client_names, open_tokens, serials, server
from portico.management.cli.times import parse_duration
from portico.management.client import ApiClient

app = typer.Typer()
token_app = typer.Typer(no_args_is_help=True)
app.add_typer(token_app, name="token", help="One-time tokens that enrol a computer.")


@app.command()
def init(
    name: Annotated[str | None, typer.Option(help="What the CA is for; the domain when not given.")] = None,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make the built-in CA where there is none. `portico server install` does it by itself.

    Example: `portico ca init --name corp.example.net`
    """
    with server() as api:
        if dry_run:
            _would_init(api)
            return
        output.confirm("Make a new certification authority?", yes=yes)
        found = api.post("/v1/ca", {"name": name})
    output.show(found, lambda out: _show(out, found))


@app.command()
def show(json: output.Json = False) -> None:
    """Show the CA and the server's certificate.

    Example: `portico ca show`
    """
    with server() as api:
        found = api.get("/v1/ca")
    output.show(found, lambda out: _show(out, found))


@app.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to; standard output when not given.")] = None,
    json: output.Json = False,
) -> None:
    """Write the CA's certificate (not its key) as PEM.

    Example: `portico ca export ca.pem`
    """
    with server() as api:
        found = api.get("/v1/ca")
    if file is not None:
        write_file(file, found["certificate"].encode(), mode=0o644)
        output.show({"file": str(file)}, lambda out: out.print(f"Written to {escape(str(file))}."))
        return
    output.show({"certificate": found["certificate"]}, lambda out: out.print(found["certificate"], end=""))


@app.command()
def renew(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Issue a new server certificate now. Tunnels stay; it is done by itself before the old one ends.

    Example: `portico ca renew --yes`
    """
    with server() as api:
        if dry_run:
            found = api.get("/v1/ca")
            text = f"Would replace the certificate that ends on {_end(found)}."
            output.show({"dry_run": True, "replaces": found["server_certificate"]}, lambda out: out.print(text))
            return
        output.confirm("Issue a new server certificate?", yes=yes)
        found = api.post("/v1/ca/renew")
    output.show(found, lambda out: _show(out, found))


@app.command()
def issue(
    name: Annotated[str, typer.Option(help="The client's name.")],
    request: Annotated[Path | None, typer.Option("--csr", help="A signing request; otherwise a key is made.")] = None,
    into: Annotated[Path, typer.Option(help="Directory for NAME.pem (and NAME.key).")] = Path(),
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Issue a client certificate without a token, for a computer that cannot enrol by itself.

    Example: `portico ca issue --name printer1 --csr printer1.csr`
    """
    if not into.is_dir():
        raise InvalidInput(
            f"The certificate cannot be written into {into}",
            why="there is no such directory",
            resolution=f"Make it: mkdir -p {into}",
        )
    key: str | None = None
    if request is not None:
        csr = read_file(request, limit=16_384).decode("utf-8", "replace")
    else:
        key, csr = make_request(name)
    with server() as api:
        if dry_run:
            client_name(name)
            parse_request(csr)
            api.get("/v1/ca")
            output.show(
                {"dry_run": True, "would": "issue", "name": name, "into": str(into)},
                lambda out: out.print(
                    f"Would issue a certificate to {escape(name)} and write it into {escape(str(into))}."
                ),
            )
            return
        done = api.post("/v1/ca/issue", {"name": name, "csr": csr})
    files = {"certificate": into / f"{name}.pem", "trust": into / "ca.pem"}
    write_file(files["certificate"], done["certificate_chain"].encode(), mode=0o644)
    write_file(files["trust"], done["trust"].encode(), mode=0o644)
    if key is not None:
        files["key"] = into / f"{name}.key"
        write_file(files["key"], key.encode())
    result = {what: str(path) for what, path in files.items()}
    output.show(result, lambda out: out.print(output.fields(result)))


@app.command("list")
def list_command(
    name: Annotated[str | None, typer.Option(help="Only this client's.", autocompletion=client_names)] = None,
    json: output.Json = False,
) -> None:
    """List issued certificates, newest first.

    Example: `portico ca list --name laptop7`
    """
    with server() as api:
        found = list(api.entries("/v1/ca/certificates", "certificates", name=name))
    rows = [
        (c["name"], c["kind"], c["serial"], c["issued"][:19].replace("T", " "), c["not_after"][:10], c["reason"] or "")
        for c in found
    ]
    columns = ["Name", "For", "Serial", "Issued (UTC)", "Until", "Revoked"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No certificates yet.")))


@app.command()
def revoke(
    serial: Annotated[str, typer.Argument(help="Serial number in hex; see: portico ca list.", autocompletion=serials)],
    reason: Annotated[Reason, typer.Option(help="Goes into the revocation list.")] = Reason("unspecified"),  # noqa: B008
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Revoke one certificate. To revoke all of a client's: `portico clients revoke NAME`.

    Example: `portico ca revoke 4217b50eda7c3dbbbd49b9042afd74283b05d352`
    """
    with server() as api:
        if dry_run:
            _would_revoke(api, serial)
            return
        output.confirm(f"Revoke the certificate {serial}?", yes=yes)
        done = api.post("/v1/revocations", {"serial": serial, "reason": reason.value})
    text = f"Revoked, closed {done['closed']} tunnels." if done["serials"] else "It was revoked or expired already."
    output.show(done, lambda out: out.print(text))


@app.command()
def repair(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Put a damaged certificate database aside and start a new one that knows what was revoked.

    Lost are the list of what was issued and the tokens not yet used. Enrolled computers connect until their
    certificates end, but cannot renew them: give each a new token before that.

    Example: `portico ca repair --yes`
    """
    with server() as api:
        if dry_run:
            found = api.get("/v1/status")["warnings"]
            damage = next(
                (w["what"] for w in found if w["code"] == "DATABASE_CORRUPT" and ".sqlite" in w["what"]), None
            )
            text = (
                f"Would start a new certificate database: {damage}." if damage else "The certificate database is sound."
            )
            output.show({"dry_run": True, "damage": damage}, lambda out: out.print(escape(text)))
            return
        output.confirm("Start a new certificate database, with what was revoked?", yes=yes)
        done = api.post("/v1/ca/repair")
    aside = done["set_aside"]
    text = f"The damaged database is now {aside}." if aside else "The certificate database is sound; nothing was done."
    output.show(done, lambda out: out.print(escape(text)))


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="Name of the computer: 1 to 64 letters, digits, '.', '_', '-'.")],
    ttl: Annotated[str, typer.Option(help="How long the token lives: 30m, 1h, 7d.")] = "1h",
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make a token that enrols one computer once. It is shown this once.

    Example: `portico ca token create --name laptop7 --ttl 1d`
    """
    seconds = parse_duration(ttl)
    with server() as api:
        if dry_run:
            client_name(name)
            api.get("/v1/ca")
            output.show(
                {"dry_run": True, "would": "create", "name": name, "lifetime_seconds": seconds},
                lambda out: out.print(f"Would make a token that enrols {escape(name)} once."),
            )
            return
        made = api.post("/v1/ca/tokens", {"name": name, "lifetime_seconds": seconds, "author": author()})

    def people(out: Console) -> None:
        output.note(f"Enrols {made['name']} once, until {made['expires'][:19].replace('T', ' ')} UTC. On it, run:")
        output.note("portico client enrol TOKEN")
        out.print(made["token"], soft_wrap=True, markup=False)

    output.show(made, people)


@token_app.command("list")
def token_list(json: output.Json = False) -> None:
    """List tokens, newest first, without their secrets.

    Example: `portico ca token list`
    """
    with server() as api:
        found = list(api.entries("/v1/ca/tokens", "tokens"))
    rows = [(t["id"], t["name"], t["state"], t["expires"][:19].replace("T", " "), t["author"]) for t in found]
    columns = ["Token", "For", "State", "Expires (UTC)", "Author"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No tokens.")))


@token_app.command("revoke")
def token_revoke(
    token: Annotated[
        str, typer.Argument(help="The token's id; see: portico ca token list.", autocompletion=open_tokens)
    ],
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make an open token useless.

    Example: `portico ca token revoke ea936d103661ca73`
    """
    with server() as api:
        if dry_run:
            _would_burn(api, token)
            return
        output.confirm(f"Revoke the token {token}?", yes=yes)
        done = api.delete(f"/v1/ca/tokens/{token}")
    output.show(done, lambda out: out.print(f"The token {escape(token)} is {done['state']}."))


def _would_init(api: ApiClient) -> None:
    try:
        found = api.get("/v1/ca")
    except PorticoError as error:
        if error.code != "CA_MISSING":
            raise
        output.show({"dry_run": True, "would": "init"}, lambda out: out.print("Would make a certification authority."))
        return
    raise Conflict(
        "there is a certification authority already",
        why=found["subject"],
        resolution="Look at it: portico ca show",
        code="CA_EXISTS",
    )


def _would_revoke(api: ApiClient, serial: str) -> None:
    wanted = serial.lower().lstrip("0") or "0"
    found = list(api.entries("/v1/ca/certificates", "certificates", serial=wanted))
    if not found:
        raise NotFound(
            f"no certificate has the serial {serial}",
            resolution="List them with: portico ca list",
            code="CERTIFICATE_NOT_FOUND",
        )
    good = [c["serial"] for c in found if c["revoked"] is None]
    name = found[0]["name"]
    text = f"Would revoke {serial}, issued to {name}." if good else f"{serial}, issued to {name}, is revoked already."
    output.show({"dry_run": True, "revokes": good, "name": name}, lambda out: out.print(escape(text)))


def _would_burn(api: ApiClient, token: str) -> None:
    found = api.get(f"/v1/ca/tokens/{quote(token, safe='')}")
    state = found["state"]
    text = f"Would revoke the token for {found['name']}." if state == "open" else f"The token is {state} already."
    output.show({"dry_run": True, "revokes": state == "open", "state": state}, lambda out: out.print(escape(text)))


def _show(out: Console, found: dict[str, Any]) -> None:
    out.print(
        output.fields(
            {
                "CA": found["subject"],
                "Until": found["not_after"][:10],
                "Pin": found["pin"],
                "Server certificate": (found["server_certificate"] or {}).get("subject"),
                "Its end": _end(found),
            }
        )
    )


def _end(found: dict[str, Any]) -> str:
    return str((found["server_certificate"] or {}).get("not_after", "unknown"))[:10]
