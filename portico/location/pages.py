"""What the pages say. Pure."""

from __future__ import annotations

import html
import json
from enum import StrEnum
from http import HTTPStatus

from portico.location.availability import Availability
from portico.location.core import Answer, Request

BALANCER_PATH = "/portico/health"
"""What an external load balancer asks for: as the web probe, but 503 also while a server is to get no new clients."""


class Site(StrEnum):
    """Which of the two a listener is."""

    NLS = "nls"
    WEB_PROBE = "web_probe"


def page(site: Site, request: Request, said: Availability) -> Answer:
    """The answer to a request.

    The network location server answers 200 to whatever is asked: that it can be reached is all it says, and it says so
    also while no client outside can be served. The web probe does the same while clients can be served; clients look
    for the status alone, so every path is the page.
    """
    if site is Site.NLS:
        return Answer(HTTPStatus.OK, _html("Network location server", "This computer is inside.", ()))
    if request.path == BALANCER_PATH:
        return _for_balancer(said)
    if said.available:
        return Answer(HTTPStatus.OK, _html("Remote Access", "available", ()))
    reasons = tuple(f"{part}: {why}" for part, why in said.reasons.items())
    return Answer(
        HTTPStatus.SERVICE_UNAVAILABLE, _html("Remote Access", "unavailable", reasons), headers={"Retry-After": "5"}
    )


def _for_balancer(said: Availability) -> Answer:
    state = "draining" if said.available and said.draining else "available" if said.available else "unavailable"
    body = json.dumps({"status": state, "reasons": dict(said.reasons)}).encode() + b"\n"
    status = HTTPStatus.OK if state == "available" else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, body, "application/json")


def _html(title: str, text: str, reasons: tuple[str, ...]) -> bytes:
    items = "".join(f"<li>{html.escape(reason)}</li>\n" for reason in reasons)
    listed = f"<ul>\n{items}</ul>\n" if items else ""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<p>{html.escape(text)}</p>\n'
        f"{listed}</html>\n"
    ).encode()
