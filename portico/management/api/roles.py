"""Which role a route needs: GET a viewer, everything else an administrator, unless the route is marked otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.routing import Match, Route

from portico.administration.roles import Role

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_MARK = "__portico_role__"
_PUBLIC = "__portico_public__"
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def needs(role: Role) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint that needs another role than its method says. Below the decorator of the route."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, role)
        return endpoint

    return mark


operator = needs(Role.OPERATOR)
"""Marks what an operator may do."""

viewer = needs(Role.VIEWER)
"""Marks a question that has a body: it changes nothing."""


def public(endpoint: Endpoint) -> Endpoint:
    """Marks what may be asked without logging in: only what a login begins with."""
    setattr(endpoint, _PUBLIC, True)
    return endpoint


class Requirements:
    """The role that each request to an application needs."""

    def __init__(self, app: FastAPI) -> None:
        self._routes = list(_routes(app))

    def role(self, method: str, path: str) -> Role | None:
        """None for what is public. A route that does not exist needs what its method says."""
        by_method = Role.VIEWER if method in READING else Role.ADMINISTRATOR
        for route in self._routes:
            match, _ = route.matches({"type": "http", "method": method, "path": path, "headers": []})
            if match is Match.FULL:
                if getattr(route.endpoint, _PUBLIC, False):
                    return None
                marked = getattr(route.endpoint, _MARK, by_method)
                assert isinstance(marked, Role)
                return marked
        return by_method

    def table(self) -> list[tuple[str, str, str]]:
        """(method, path, role) of every route, for people and tests."""
        return [
            (method, route.path, role.text if (role := self._of(route, method)) is not None else "-")
            for route in self._routes
            for method in sorted(route.methods or ())
            if method != "HEAD"
        ]

    def _of(self, route: Route, method: str) -> Role | None:
        return self.role(method, re.sub(r"\{[^}]*\}", "x", route.path))


def _routes(app: Any) -> Iterator[Route]:
    """The routes in the order in which they are looked through; FastAPI keeps included routers whole."""
    for route in app.routes:
        if isinstance(route, Route):
            yield route
        elif (inner := getattr(route, "original_router", None)) is not None:
            yield from _routes(inner)
