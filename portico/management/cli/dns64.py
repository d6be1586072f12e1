"""`portico dns64`: stats, flush, query."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.management.cli import output, watch
from portico.management.cli.connection import server

app = typer.Typer()

_TYPES = ("AAAA", "A", "PTR", "CNAME", "MX", "NS", "SOA", "SRV", "TXT", "DS", "DNSKEY", "HTTPS")

_SOURCES = {
    "cache": "from the cache",
    "stale": "from the cache, expired: no DNS server answers",
    "upstream": "asked just now",
    "local": "answered here",
}


def _types(incomplete: str) -> list[str]:
    return [kind for kind in _TYPES if kind.startswith(incomplete.upper())]


@app.command()
def stats(interval: watch.Watch = None, json: output.Json = False) -> None:
    """Show how many questions DNS64 answered and how, and the state of the DNS servers it asks.

    Example: `portico dns64 stats --watch 2`
    """
    with server() as api:
        watch.show(lambda: api.get("/v1/dns64/stats"), _stats, interval)


@app.command()
def flush(
    name: Annotated[str | None, typer.Argument(help="Only answers for this name; without it everything.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Also for all names below it.")] = False,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Forget cached answers, so that the intranet's DNS servers are asked again.

    Example: `portico dns64 flush www.corp.example.net`

    Example: `portico dns64 flush corp.example.net --tree`
    """
    what = f"the answers for {name}{' and all names below it' if tree else ''}" if name else "all cached answers"
    if dry_run:
        output.show(
            {"dry_run": True, "name": name, "tree": tree}, lambda out: out.print(f"Would forget {escape(what)}.")
        )
        return
    with server() as api:
        output.confirm(f"Forget {what}?", yes=yes)
        done = api.post("/v1/dns64/flush", {"name": name, "tree": tree})
    output.show(done, lambda out: out.print(f"Forgot {done['removed']} answers."))


@app.command()
def query(
    name: Annotated[str, typer.Argument(help="The name, or an address for PTR.")],
    kind: Annotated[str, typer.Argument(metavar="[TYPE]", help="Record type.", autocompletion=_types)] = "AAAA",
    dnssec: Annotated[bool, typer.Option("--dnssec", help="Ask for DNSSEC records too.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.1, max=30)] = 5.0,
    json: output.Json = False,
) -> None:
    """Ask DNS64 as a client would, and say how the answer came to be.

    Exit status 1 when there is an answer but not the one that was asked for (no such name, no record, server failure).

    Example: `portico dns64 query app4.corp.example.net`

    Example: `portico dns64 query 10.0.0.4 PTR --json`
    """
    kind = kind.upper()
    with server() as api:
        found = api.post(
            "/v1/dns64/query",
            {"name": _reverse(name) if kind == "PTR" else name, "type": kind, "dnssec": dnssec, "timeout": timeout},
        )
    output.show(found, lambda out: _answer(out, found))
    if found["rcode"] != "NOERROR" or not found["answers"]:
        raise typer.Exit(1)


def _answer(out: Console, found: dict[str, Any]) -> None:
    rows = [(item["name"], item["type"], item["ttl"], item["data"]) for item in found["answers"]]
    out.print(output.table(["Name", "Type", "TTL", "Data"], rows, empty=f"No answer: {found['rcode']}."))
    asked = ", ".join(map(_question, found["upstream_questions"]))
    elapsed = f", {found['elapsed_ms']:.1f} ms" if found.get("elapsed_ms") is not None else ""
    out.print(
        output.fields(
            {
                "Result": found["rcode"],
                "Source": f"{_SOURCES.get(found['source'], found['source'])}{elapsed}",
                "Server": found.get("server"),
                "Asked": asked or None,
                "Synthesized": f"yes, {found['prefix_mapping']}"
                if found.get("prefix_mapping")
                else found["synthesized"],
                "Why": found["why"],
            }
        )
    )


def _question(question: Any) -> str:
    """A question that was asked upstream: name, type, server and what it answered."""
    if not isinstance(question, dict):
        return str(question)
    server = f" at {question['server']}" if question.get("server") else ""
    rcode = f": {question['rcode']}" if question.get("rcode") else ""
    return f"{question.get('name')} {question.get('type')}{server}{rcode}"


def _reverse(name: str) -> str:
    from ipaddress import ip_address

    try:
        return ip_address(name).reverse_pointer
    except ValueError:
        return name


def _stats(out: Console, found: dict[str, Any], rates: watch.Rates) -> None:
    counters = found["counters"]
    out.print(
        output.fields({"Address": found["address"], "Prefixes": found["prefix_mapping"] or "none: NAT64 is disabled"})
    )
    servers = counters.get("servers")
    if isinstance(servers, list) and servers:
        keys = list(dict.fromkeys(key for entry in servers for key in entry))
        rows = [[output.words(entry.get(key, "")) for key in keys] for entry in servers]
        out.print(output.table([key.replace("_", " ").capitalize() for key in keys], rows))
    out.print(watch.counter_table(counters, rates))
