"""The way to a cluster's API over TLS, under the client that commands use. What fails says what to do about it."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.management.cli.profiles import Profile

SERVER_HEADER = "Portico-Server"


class Asking(httpx.BaseTransport):
    """Asks for one server of the cluster behind whichever answers."""

    def __init__(self, inner: httpx.BaseTransport, server: str) -> None:
        self._inner = inner
        self._server = server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers[SERVER_HEADER] = self._server
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


class RemoteTransport(httpx.BaseTransport):
    """Sends each request to the cluster's server with the profile's credentials.

    Raises:
        PorticoError: the profile's certificate or CA cannot be used.
    """

    def __init__(self, profile: Profile, *, on: str | None = None, inner: httpx.BaseTransport | None = None) -> None:
        self._profile = profile
        self._on = on
        self._url = httpx.URL(profile.url)
        self._inner = inner or httpx.HTTPTransport(verify=tls(profile))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises NotPermitted, Unavailable, InvalidInput: said so that a person knows what to do."""
        headers = httpx.Headers([(k, v) for k, v in request.headers.multi_items() if k.lower() != "host"])
        headers["host"] = self._url.netloc.decode("ascii")
        if self._profile.token:
            headers["authorization"] = f"Bearer {self._profile.token}"
        if self._on:
            headers[SERVER_HEADER] = self._on
        url = self._url.copy_with(raw_path=request.url.raw_path)
        sent = httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
        try:
            answer = self._inner.handle_request(sent)
            if answer.status_code == 401:
                answer.read()
        except httpx.ConnectError as error:
            raise self._unreachable(error) from None
        except httpx.ReadError as error:
            # With TLS 1.3 a server refuses a certificate only after the client's side of the handshake is done.
            raise self._unreachable(error) from None
        if answer.status_code == 401:
            raise self._not_logged_in(answer)
        return answer

    def close(self) -> None:
        self._inner.close()

    def _unreachable(self, error: Exception) -> PorticoError:
        text, profile = str(error), self._profile
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return NotPermitted(
                f"The server at {profile.url} is not trusted",
                why=text.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (")[0] or text,
                resolution=f"If its CA was made anew, connect again: portico connect {profile.name} {profile.url}",
                code="TLS_UNTRUSTED",
            )
        if "alert" in text.lower() and "certif" in text.lower():
            return NotPermitted(
                f"The server at {profile.url} does not accept the certificate",
                why=text,
                resolution="Use one that the cluster issued: portico admin certificate issue, on a server",
                code="CERTIFICATE_REFUSED",
            )
        return Unavailable(
            f"The server at {profile.url} does not answer",
            why=text or type(error).__name__,
            resolution="Check the address; another server of the cluster answers as well",
        )

    def _not_logged_in(self, answer: httpx.Response) -> NotPermitted:
        fields: dict[str, Any] = {}
        try:
            fields = json.loads(answer.content)["error"]
        except (ValueError, LookupError, TypeError):
            fields = {}
        name = self._profile.name
        return NotPermitted(
            str(fields.get("what") or "The credentials are not accepted"),
            why=str(fields.get("why") or "HTTP status 401"),
            resolution=f"Log in: portico --server {name} login (--token to use an API token)",
            code=str(fields.get("code") or "NO_CREDENTIALS"),
        )


def tls(profile: Profile) -> ssl.SSLContext:
    """How the cluster's servers are recognised. Raises InvalidInput (CERTIFICATE_FILE, AUTHORITY_INVALID)."""
    try:
        if profile.authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=profile.authority)
            # This CA signs the servers of this one cluster and nothing else that may serve: whichever answers is it,
            # by whatever name or address it is reached.
            context.check_hostname = profile.names
        else:
            context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            f"The CA of cluster {profile.name} cannot be used",
            why=str(error),
            resolution=f"Connect again: portico connect {profile.name} {profile.url}",
            code="AUTHORITY_INVALID",
        ) from None
    if profile.certificate:
        try:
            context.load_cert_chain(profile.certificate)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"The certificate {profile.certificate} cannot be used",
                why=str(error),
                resolution="Name a PEM file with the certificate and its key",
                code="CERTIFICATE_FILE",
            ) from None
    return context


def ask_authority(url: str) -> str:
    """The CA that a server says it has, over a connection that proves nothing yet. Raises PorticoError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with httpx.Client(verify=context, timeout=10.0, trust_env=False) as http:
            answer = http.get(f"{url}/v1/login")
            answer.raise_for_status()
            authority = answer.json()["authority"]
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(
            f"The server at {url} does not answer",
            why=str(error) or type(error).__name__,
            resolution="Check the address, and on the server: portico server status",
        ) from None
    except (ValueError, LookupError, TypeError):
        authority = None
    if not isinstance(authority, str) or not authority:
        raise Unavailable(
            f"The server at {url} names no CA",
            why="it is no Portico server, or its certificate is of another CA",
            resolution="Check the address; name that CA: portico connect NAME URL --names --ca FILE, or --system-ca",
        )
    return authority
