"""The lines of the binding log, one JSON object each. Pure.

A row: `{"t": 1763704800.5, "event": "open", "protocol": "tcp", "client": "fd7c::c", "client_port": 51000,
"address": "10.0.0.2", "port": 40123, "name": "laptop7", "serial": "42af", "session": 7}`. `event` is `open`, `close`,
or `held` (it existed when logging began). For ICMP the ports are echo identifiers. A binding of the settings has
`"static": true` as well.

A mark says something about all rows: `{"mark": "start", "t": ...}` the gateway began with no bindings (those open
before ended), `stop` the server was stopped, `on` and `off` logging was switched, `lost` so many `rows` are missing
here, and `why`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from portico.accounting.owners import Owner

MARK: Final = b'{"mark":'
"""How a line begins that is a mark."""

Mark = Literal["start", "stop", "on", "off", "lost"]


def row(values: Sequence[Any], owner: Owner | None, *, static: bool = False) -> bytes:
    """The line for one row of the event `nat64_bindings`.

    Args:
        values: event, time, protocol, client, client port, address, port.
        static: it is a binding of the settings; the line says so.

    Raises:
        ValueError, TypeError: it is not such a row.
    """
    event, at, protocol, client, client_port, address, port = values
    return _line(
        {
            "t": round(float(at), 3),
            "event": str(event),
            "protocol": str(protocol),
            "client": str(client),
            "client_port": int(client_port),
            "address": str(address),
            "port": int(port),
            "name": owner.name if owner is not None else None,
            "serial": owner.serial if owner is not None else None,
            "session": owner.session if owner is not None else None,
            **({"static": True} if static else {}),
        }
    )


def mark(kind: Mark, at: float, **values: Any) -> bytes:
    return _line({"mark": kind, "t": round(at, 3), **values})


def needles(
    *, address: str | None = None, port: int | None = None, client: str | None = None, name: str | None = None
) -> list[bytes]:
    """Texts that every row with these values has, the one that is likely the rarest first."""
    found = []
    if client is not None:
        found.append(_field("client", client))
    if port is not None:
        # A comma follows, and `client_port` has no quotation mark before its `port`.
        found.append(_field("port", port) + b",")
    if name is not None:
        found.append(_field("name", name))
    if address is not None:
        found.append(_field("address", address))
    return found


def parse(line: bytes) -> Mapping[str, Any] | None:
    """A line's object; None for one that was cut or damaged."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("t"), int | float):
        return None
    wanted: Iterable[str] = ("mark",) if "mark" in data else ("event", "protocol", "client", "address", "port")
    return data if all(key in data for key in wanted) else None


def _field(name: str, value: str | int) -> bytes:
    return f'"{name}":{json.dumps(value)}'.encode()


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"
