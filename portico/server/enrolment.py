"""Requests from remote computers that the gateway hands up: trust, enrolment, renewal, their settings.

Whatever arrives here comes from the Internet. The gateway has bounded its size and verified the certificate, if any.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from portico.certificates.tokens import TokenRefused
from portico.errors import InvalidInput, NotFound, NotPermitted, PorticoError
from portico.http_status import status_of
from portico.location.clients import assistant_settings
from portico.naming.nrpt import table
from portico.server.credentials import Credentials
from portico.server.gateway import Request, Response
from portico.settings.effective import Effective
from portico.settings.model import Settings

log = logging.getLogger("portico.enrolment")

_JSON = "application/json"


def client_settings(settings: Settings, values: Effective, revision: int) -> dict[str, Any]:
    """What a remote computer needs to know: {url, domain, nrpt, dns_address, intranet_prefixes, revision, assistant}.

    The last is `portico.location.clients`.
    """
    return {
        "url": values.url,
        "domain": settings.deployment.domain,
        "nrpt": table(settings, values).as_list(),
        "dns_address": str(values.dns64_address) if values.dns64_address is not None else None,
        "intranet_prefixes": [str(route) for route in values.routes],
        "assistant": assistant_settings(settings, values),
        "revision": revision,
    }


class Enrolment:
    """Answers one request at a time. Blocking; the agent calls it in a thread.

    Args:
        current: the settings in force, what is derived from them and their revision, or None before the first.
    """

    def __init__(
        self,
        credentials: Credentials,
        current: Callable[[], tuple[Settings, Effective, int] | None],
        clock: Callable[[], datetime],
    ) -> None:
        self._credentials = credentials
        self._current = current
        self._clock = clock
        self._routes: Mapping[tuple[str, str], Callable[[Request, Settings, Effective, int], Response]] = {
            ("GET", "/portico/v1/trust"): self._trust,
            ("POST", "/portico/v1/enrol"): self._enrol,
            ("POST", "/portico/v1/renew"): self._renew,
            ("GET", "/portico/v1/client-settings"): self._settings,
            ("GET", "/portico/v1/crl"): self._crl,
        }
        self.users: Mapping[tuple[str, str], Callable[[Request, Settings], dict[str, Any]]] = {}
        """Requests about the users of computers."""

    def answer(self, request: Request) -> Response:
        """The response to a request; errors become responses, never exceptions."""
        key = (request.method, request.path)
        handler = self._user if key in self.users else self._routes.get(key)
        current = self._current()
        if handler is None:
            known = any(path == request.path for _, path in (*self._routes, *self.users))
            return _problem(405 if known else 404, NotFound("There is nothing here", code="NO_SUCH_RESOURCE"))
        if current is None:
            return _problem(503, PorticoError("The server has no settings yet", code="NOT_CONFIGURED"))
        try:
            return handler(request, *current)
        except TokenRefused as error:
            log.warning("enrolment=refused peer=%s reason=%r", request.peer, error.reason)
            return _problem(403, error)
        except PorticoError as error:
            log.warning("path=%s peer=%s refused=%s %s", request.path, request.peer, error.code, error)
            status = status_of(error, 503)
            return _problem(status, error)
        except Exception:
            log.exception("path=%s peer=%s failed", request.path, request.peer)
            return _problem(500, PorticoError("The server failed", why="its log says why", code="INTERNAL"))

    def _trust(self, _request: Request, settings: Settings, _values: Effective, _revision: int) -> Response:
        return Response(200, "application/x-pem-file", self._credentials.trust(settings).encode())

    def _crl(self, _request: Request, _settings: Settings, _values: Effective, _revision: int) -> Response:
        """The signed list of what the built-in CA has revoked: public, as those of other CAs."""
        crl = self._credentials.crl()
        if crl is None:
            return _problem(404, NotFound("There is no revocation list", code="NO_SUCH_RESOURCE"))
        return Response(200, "application/x-pem-file", crl)

    def _enrol(self, request: Request, settings: Settings, values: Effective, revision: int) -> Response:
        fields = _fields(request.body, ("id", "secret", "csr"))
        name, chain = self._credentials.issuer().enrol(
            token=fields["id"],
            secret=fields["secret"],
            request=fields["csr"],
            days=settings.certificates.client_lifetime_days,
            now=self._clock(),
        )
        log.info("enrolment=done name=%s peer=%s", name, request.peer)
        return self._issued(name, chain, settings, values, revision)

    def _renew(self, request: Request, settings: Settings, values: Effective, revision: int) -> Response:
        if request.identity is None and settings.ip_https.authentication == "none":
            raise NotPermitted(
                "Certificates are not renewed now",
                why="ip_https.authentication is none, so that the server does not see who asks",
                resolution="Renew when it is certificates again, or enrol with a new token and --force",
                code="AUTHENTICATION_NONE",
            )
        identity = _identity(request)
        fields = _fields(request.body, ("csr",))
        name, chain = self._credentials.issuer().renew(
            issuer_sha256=str(identity.get("issuer_sha256")),
            serial=str(identity.get("serial")),
            request=fields["csr"],
            days=settings.certificates.client_lifetime_days,
            now=self._clock(),
        )
        log.info("renewal=done name=%s peer=%s", name, request.peer)
        return self._issued(name, chain, settings, values, revision)

    def _settings(self, request: Request, settings: Settings, values: Effective, revision: int) -> Response:
        if settings.ip_https.authentication == "certificates":
            _identity(request)  # without authentication nobody has one, and everybody may be a client
        return _json(200, client_settings(settings, values, revision))

    def _user(self, request: Request, settings: Settings, _values: Effective, _revision: int) -> Response:
        return _json(200, self.users[request.method, request.path](request, settings))

    def _issued(self, name: str, chain: str, settings: Settings, values: Effective, revision: int) -> Response:
        return _json(
            200,
            {
                "name": name,
                "certificate_chain": chain,
                "trust": self._credentials.trust(settings),
                "settings": client_settings(settings, values, revision),
            },
        )


def _identity(request: Request) -> dict[str, Any]:
    if request.identity is None:
        raise NotPermitted(
            "This needs a client certificate",
            why="the connection presented none that this server accepts",
            resolution="Enrol the computer: portico client enrol TOKEN",
            code="CERTIFICATE_NEEDED",
        )
    return request.identity


def _fields(body: bytes, names: tuple[str, ...]) -> dict[str, str]:
    try:
        data = json.loads(body)
        found = {name: data[name] for name in names}
    except (ValueError, KeyError, TypeError, RecursionError):
        found = {}
    if not found or not all(isinstance(value, str) and value and _is_text(value) for value in found.values()):
        raise InvalidInput(
            "The request cannot be read",
            why=f"a JSON object with {', '.join(names)} was expected",
            resolution="Use the same version of Portico on both ends",
            code="REQUEST_MALFORMED",
        )
    return found


def _is_text(value: str) -> bool:
    """JSON can carry lone surrogates, which nothing behind here can store or compare."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(status: int, error: PorticoError) -> Response:
    return _json(status, {"error": error.as_dict()})


def _json(status: int, data: object) -> Response:
    return Response(status, _JSON, json.dumps(data).encode())
