"""Asks the agent over its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from portico.errors import NotPermitted, Unavailable
from portico.http_status import kind_of
from portico.paths import client_socket


def ask(
    method: str,
    operation: str,
    *,
    path: Path | None = None,
    timeout: float = 30.0,
    body: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One request to the agent, for example `ask("GET", "status")`.

    Raises:
        Unavailable: code AGENT_NOT_RUNNING, nobody answers.
        NotPermitted: the socket is root's.
        PorticoError: the agent's own error.
    """
    place = client_socket() if path is None else path
    try:
        transport = httpx.HTTPTransport(uds=str(place))
        with httpx.Client(transport=transport, timeout=timeout, base_url="http://client") as client:
            response = client.request(method, f"/v1/{operation}", json=body)
        data = response.json()
    except PermissionError:
        raise _not_permitted(place) from None
    except (httpx.HTTPError, OSError, ValueError) as error:
        if "Permission denied" in str(error):
            raise _not_permitted(place) from None
        raise Unavailable(
            "The client's agent does not answer",
            why=f"{place}: {error}",
            resolution="Start it: systemctl start portico-client (or in the foreground: portico client run)",
            code="AGENT_NOT_RUNNING",
        ) from None
    if response.is_success and isinstance(data, dict):
        return data
    detail = data.get("error", {}) if isinstance(data, dict) else {}
    kind = kind_of(response.status_code, Unavailable)
    raise kind(
        str(detail.get("what", f"The agent answers with HTTP {response.status_code}")),
        why=str(detail.get("why", "")),
        resolution=str(detail.get("resolution", "")),
        code=detail.get("code"),
    )


def _not_permitted(place: Path) -> NotPermitted:
    return NotPermitted(
        "The client's agent cannot be asked", why=f"{place} is root's", resolution="Run the command with sudo"
    )
