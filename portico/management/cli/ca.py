"""`portico ca`: the built-in CA, enrolment tokens, certificates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.certificates.issue import make_request
from portico.errors import InvalidInput
from portico.files import read_file, write_file
from portico.management.cli import output
from portico.management.cli.clients import Reason
from portico.management.cli.connection import author, server

app = typer.Typer()
token_app = typer.Typer(no_args_is_help=True)
app.add_typer(token_app, name="token", help="One-time tokens that enrol a computer.")

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@app.command()
def init(
    name: Annotated[str | None, typer.Option(help="What the CA is for; the domain when not given.")] = None,
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Make the built-in CA where there is none. `portico server install` does it by itself.

    Example: `portico ca init --name corp.example.net`
    """
    output.confirm("Make a new certification authority?", yes=yes)
    with server() as api:
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
    json: output.Json = False,
) -> None:
    """Issue a client certificate without a token, for a computer that cannot enrol by itself.

    Example: `portico ca issue --name printer1 --csr printer1.csr`
    """
    key: str | None = None
    if request is not None:
        csr = read_file(request, limit=16_384).decode("utf-8", "replace")
    else:
        key, csr = make_request(name)
    with server() as api:
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
    name: Annotated[str | None, typer.Option(help="Only this client's.")] = None, json: output.Json = False
) -> None:
    """List issued certificates, newest first.

    Example: `portico ca list --name laptop7`
    """
    with server() as api:
        found = api.get("/v1/ca/certificates", name=name)
    rows = [
        (c["name"], c["kind"], c["serial"], c["issued"][:19].replace("T", " "), c["not_after"][:10], c["reason"] or "")
        for c in found
    ]
    columns = ["Name", "For", "Serial", "Issued (UTC)", "Until", "Revoked"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No certificates yet.")))


@app.command()
def revoke(
    serial: Annotated[str, typer.Argument(help="Serial number in hex; see: portico ca list.")],
    reason: Annotated[Reason, typer.Option(help="Goes into the revocation list.")] = Reason("unspecified"),  # noqa: B008
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Revoke one certificate. To revoke all of a client's: `portico clients revoke NAME`.

    Example: `portico ca revoke 4217b50eda7c3dbbbd49b9042afd74283b05d352`
    """
    output.confirm(f"Revoke the certificate {serial}?", yes=yes)
    with server() as api:
        done = api.post("/v1/revocations", {"serial": serial, "reason": reason.value})
    text = f"Revoked, closed {done['closed']} tunnels." if done["serials"] else "It was revoked or expired already."
    output.show(done, lambda out: out.print(text))


@app.command()
def repair(yes: output.Yes = False, json: output.Json = False) -> None:
    """Put a damaged certificate database aside and start a new one that knows what was revoked.

    Lost are the list of what was issued and the tokens not yet used. Enrolled computers connect until their
    certificates end, but cannot renew them: give each a new token before that.

    Example: `portico ca repair --yes`
    """
    output.confirm("Start a new certificate database, with what was revoked?", yes=yes)
    with server() as api:
        done = api.post("/v1/ca/repair")
    aside = done["set_aside"]
    text = f"The damaged database is now {aside}." if aside else "The certificate database is sound; nothing was done."
    output.show(done, lambda out: out.print(escape(text)))


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="Name of the computer: 1 to 64 letters, digits, '.', '_', '-'.")],
    ttl: Annotated[str, typer.Option(help="How long the token lives: 30m, 1h, 7d.")] = "1h",
    json: output.Json = False,
) -> None:
    """Make a token that enrols one computer once. It is shown this once.

    Example: `portico ca token create --name laptop7 --ttl 1d`
    """
    with server() as api:
        made = api.post("/v1/ca/tokens", {"name": name, "lifetime_seconds": parse_duration(ttl), "author": author()})

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
        found = api.get("/v1/ca/tokens")
    rows = [(t["id"], t["name"], t["state"], t["expires"][:19].replace("T", " "), t["author"]) for t in found]
    columns = ["Token", "For", "State", "Expires (UTC)", "Author"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No tokens.")))


@token_app.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(help="The token's id; see: portico ca token list.")],
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Make an open token useless.

    Example: `portico ca token revoke ea936d103661ca73`
    """
    output.confirm(f"Revoke the token {token}?", yes=yes)
    with server() as api:
        done = api.delete(f"/v1/ca/tokens/{token}")
    output.show(done, lambda out: out.print(f"The token {escape(token)} is {done['state']}."))


def parse_duration(text: str) -> int:
    """Seconds from `45s`, `30m`, `1h`, `7d`, `1d12h`.

    Raises:
        InvalidInput: it is something else, or zero.
    """
    parts = re.findall(r"([0-9]{1,9})\s*(min|[smhd])", text.strip().lower(), flags=re.ASCII)
    if not parts or re.sub(r"([0-9]{1,9})\s*(min|[smhd])\s*", "", text.strip().lower(), flags=re.ASCII):
        raise InvalidInput(f"'{text}' is not a duration", resolution="Write it like 30m, 1h or 7d")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in parts)
    if seconds == 0:
        raise InvalidInput("The duration is zero", resolution="Write it like 30m, 1h or 7d")
    return seconds


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
