"""`portico nat64`: sessions, bindings, stats, log."""

from __future__ import annotations

import time
from datetime import datetime
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import InvalidInput
from portico.management.cli import output, watch
from portico.management.cli.connection import client_names, server
from portico.management.cli.times import parse_time

app = typer.Typer()


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


Client = Annotated[
    str | None, typer.Option(help="Only of this client: its name or IPv6 address.", autocompletion=client_names)
]
OfProtocol = Annotated[Protocol | None, typer.Option(help="Only this protocol.")]
Port = Annotated[
    int | None, typer.Option(help="Only this port of the IPv4 side (echo identifier for ICMP).", min=0, max=65_535)
]
Limit = Annotated[int, typer.Option(help="At most so many rows.", min=1, max=5000)]
After = Annotated[str | None, typer.Option(help="Go on where a page ended: its 'next'.")]


@app.command()
def sessions(
    client: Client = None,
    protocol: OfProtocol = None,
    port: Port = None,
    destination: Annotated[str | None, typer.Option(help="Only to this IPv4 server.")] = None,
    limit: Limit = 100,
    after: After = None,
    json: output.Json = False,
) -> None:
    """List who talks to which IPv4-only server now.

    Example: `portico nat64 sessions --client laptop7`

    Example: `portico nat64 sessions --destination 10.0.0.4 --protocol tcp --json`
    """
    with server() as api:
        found = api.get(
            "/v1/nat64/sessions",
            client=client,
            protocol=protocol.value if protocol else None,
            port=port,
            destination=_ipv4(destination),
            limit=limit,
            after=after,
        )
    rows = [
        (
            item["protocol"],
            item.get("name"),
            _end(item, "client", "client_port"),
            _end(item, "address", "port"),
            item["destination"] if item["protocol"] == "icmp" else _end(item, "destination", "destination_port"),
            item.get("state"),
            output.duration_text(item["expires_in"]) if item.get("expires_in") is not None else "",
        )
        for item in found["sessions"]
    ]
    columns = ["Protocol", "Name", "Client", "As", "Server", "State", "Expires in"]
    output.show(found, lambda out: _page(out, columns, rows, found, "sessions"))


@app.command()
def bindings(
    client: Client = None,
    protocol: OfProtocol = None,
    port: Port = None,
    limit: Limit = 100,
    after: After = None,
    json: output.Json = False,
) -> None:
    """List which IPv4 address and port stands for which client and port now.

    Example: `portico nat64 bindings --port 40123`
    """
    with server() as api:
        found = api.get(
            "/v1/nat64/bindings",
            client=client,
            protocol=protocol.value if protocol else None,
            port=port,
            limit=limit,
            after=after,
        )
    rows = [
        (
            item["protocol"],
            item.get("name"),
            _end(item, "client", "client_port"),
            _end(item, "address", "port"),
            item.get("sessions"),
            "static" if item.get("static") else "",
        )
        for item in found["bindings"]
    ]
    columns = ["Protocol", "Name", "Client", "As", "Sessions", ""]
    output.show(found, lambda out: _page(out, columns, rows, found, "bindings"))


@app.command()
def stats(interval: watch.Watch = None, json: output.Json = False) -> None:
    """Show how much NAT64 carries, how full its tables are, and what it refused and why.

    Example: `portico nat64 stats --watch 2`
    """
    with server() as api:
        watch.show(lambda: api.get("/v1/nat64/stats"), _stats, interval)


@app.command()
def log(
    at: Annotated[str | None, typer.Option(help="At this time: 14:05, '2026-11-21 14:05', 2h (ago).")] = None,
    start: Annotated[str | None, typer.Option("--from", help="From this time on; a day ago when not given.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Up to this time; now when not given.")] = None,
    address: Annotated[str | None, typer.Option(help="Only this IPv4 address.")] = None,
    port: Port = None,
    protocol: OfProtocol = None,
    client: Client = None,
    limit: Limit = 100,
    offset: Annotated[int, typer.Option(help="Skip so many rows.", min=0)] = 0,
    json: output.Json = False,
) -> None:
    """Tell which client had which IPv4 address and port, from the log of bindings (nat64.log_bindings).

    Example: `portico nat64 log --address 10.0.0.2 --port 40123 --at 14:05`

    Example: `portico nat64 log --client laptop7 --from "2026-11-20 08:00" --to "2026-11-20 18:00"`
    """
    first, last = _times(at, start, end)
    is_address = _is_ipv6(client)
    with server() as api:
        found = api.get(
            "/v1/nat64/log",
            start=first,
            end=last,
            address=_ipv4(address),
            port=port,
            protocol=protocol.value if protocol else None,
            client=str(IPv6Address(client)) if client and is_address else None,
            name=client if client and not is_address else None,
            limit=limit,
            offset=offset,
        )
    output.show(found, lambda out: _log(out, found, offset))
    if found["lost"]:
        output.warn(f"{found['lost']} rows are missing from the log within this time: the answer may be incomplete")
    if found["covers"] is None or found["covers"] > first:
        begins = output.time_text(found["covers"]) or "now, it is empty"
        output.warn(f"The log begins at {begins}; it says nothing about the time before")


def _log(out: Console, found: dict[str, Any], offset: int) -> None:
    rows = [
        (
            "since before" if item["opened"] is None else output.time_text(item["opened"]),
            _until(item),
            item["protocol"],
            _end(item, "address", "port"),
            item["name"] or ("static" if item["static"] else "unknown"),
            _end(item, "client", "client_port"),
            item["serial"],
        )
        for item in found["bindings"]
    ]
    columns = ["From", "To", "Protocol", "Address", "Name", "Client", "Serial"]
    out.print(output.table(columns, rows, empty="Nobody had it then, as far as the log knows."))
    left = found["total"] - offset - len(rows)
    if left > 0:
        out.print(f"{left} more: --offset {offset + len(rows)}")


def _until(item: dict[str, Any]) -> str:
    if item["closed"] is None:
        return "still open"
    text = output.time_text(item["closed"])
    return text if item["end"] == "closed" else f"{text} ({item['end']})"


def _stats(out: Console, found: dict[str, Any], rates: watch.Rates) -> None:
    counters, log_state = found["counters"], found["log"]
    lost = f", {log_state['lost']} rows lost" if log_state["lost"] else ""
    written = f"{output.bytes_text(log_state['bytes'])} in {log_state['directory']}{lost}"
    out.print(
        output.fields(
            {
                "Prefixes": found["prefix_mapping"],
                "Pool": found["pool"],
                "Bindings": _of(counters.get("bindings"), found["max_bindings"]),
                "Static": counters.get("static_bindings"),
                "Sessions": _of(counters.get("sessions"), found["max_sessions"]),
                "Clients": counters.get("clients"),
                "Log": written if log_state["enabled"] else "off (nat64.log_bindings)",
                "Log problem": log_state["trouble"],
            }
        )
    )
    shown = {"bindings", "static_bindings", "sessions", "clients"}
    out.print(watch.counter_table({k: v for k, v in counters.items() if k not in shown}, rates))


def _of(value: object, limit: int) -> str | None:
    return f"{value} of {limit}" if value is not None else None


def _page(out: Console, columns: list[str], rows: list[Any], found: dict[str, Any], what: str) -> None:
    out.print(output.table(columns, rows, empty=f"No {what} of this kind; there are {found['total']} in all."))
    if found["next"] is not None:
        out.print(f"{len(rows)} of at most {found['total']}. More: --after {escape(found['next'])}, or a filter")


def _end(item: dict[str, Any], address: str, port: str) -> str:
    """An address and its port; an echo has an identifier instead."""
    host, number = item[address], item[port]
    if item["protocol"] == "icmp":
        return f"{host} id {number}"
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _times(at: str | None, start: str | None, end: str | None) -> tuple[float, float]:
    now = datetime.now().astimezone()
    if at is not None:
        if start is not None or end is not None:
            raise InvalidInput(
                "The time is given twice", why="--at is one time", resolution="Give --at, or --from and --to"
            )
        moment = parse_time(at, now).timestamp()
        # A time of day to the minute or second means all of it.
        return moment, moment + (60.0 if at.count(":") == 1 and at.strip()[-3] == ":" else 1.0)
    first = parse_time(start, now).timestamp() if start is not None else time.time() - 86_400
    last = parse_time(end, now).timestamp() if end is not None else time.time()
    if first > last:
        raise InvalidInput(
            "The time ends before it begins",
            why=f"from {output.time_text(first)} to {output.time_text(last)}",
            resolution="Exchange --from and --to",
        )
    return first, last


def _ipv4(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise InvalidInput(
            f"'{text}' is not an IPv4 address", resolution="Write it like 10.0.0.4; --client takes names and IPv6"
        ) from None


def _is_ipv6(text: str | None) -> bool:
    try:
        IPv6Address(text or "")
    except AddressValueError:
        return False
    return True
