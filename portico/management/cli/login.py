"""Logging in at an OpenID Connect provider from a command line.

The device flow (RFC 8628) needs no browser on this machine; the code flow with PKCE (RFC 7636) uses one, and a port of
this machine alone (RFC 8252 section 7.3).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from portico.administration.provider import secure_url
from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable

LONGEST: Final = 600.0
"""Seconds that a person has."""
LONGEST_WAIT: Final = 60.0
"""Seconds between two questions whether somebody has confirmed."""
MAXIMUM_REQUEST: Final = 16 << 10
_PAGE: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n"
    b"Done. You can close this page and go back to the command line.\n"
)
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

_REASONS: Final = {
    "access_denied": "it was refused there",
    "expired_token": "nobody confirmed in time",
}
"""Errors that a person can make (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5), in words."""

Show = Callable[[str], None]


def provider_client(authority: str | None) -> httpx.Client:
    """To a provider whose certificate is this authority's (PEM), or by default one of those that this machine trusts.

    Raises:
        InvalidInput: the authority is none.
    """
    try:
        context = ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise InvalidInput(
            "The provider's certificate cannot be checked",
            why=f"what the server says its CA is cannot be read: {error.reason or error}",
            resolution="On the server: look at the ca_file of access.user_oidc or management.oidc",
            code="OIDC_CA_FILE",
        ) from None
    return httpx.Client(verify=context, timeout=15.0, follow_redirects=False)


class _Silent(Unavailable):
    """The provider could not be reached, or did not answer in time."""


class Login:
    """One login.

    Args:
        issuer, client_id, scopes: as the cluster says them.
        show: tells the person what to do.
        http: to the provider.
        look_at: what is to be looked at when the provider does not do its part.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        scopes: list[str],
        http: httpx.Client,
        show: Show,
        *,
        look_at: str = "management.oidc and at the provider; or use a token: portico admin token create",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._issuer, self._client_id, self._scopes = issuer, client_id, scopes
        self._http, self._show, self._look_at, self._sleep = http, show, look_at, sleep
        self._metadata = self._discover()

    @property
    def has_device_flow(self) -> bool:
        return "device_authorization_endpoint" in self._metadata

    def device(self) -> str:
        """The ID token of whoever confirms the login on another device. Raises PorticoError."""
        verifier, challenge = _pkce()
        data = self._post(
            self._endpoint("device_authorization_endpoint"),
            {
                "client_id": self._client_id,
                "scope": " ".join(self._scopes),
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            },
        )
        code, user_code = str(data.get("device_code", "")), str(data.get("user_code", ""))
        place = str(data.get("verification_uri_complete") or data.get("verification_uri") or "")
        if not code or not user_code or not secure_url(place):
            raise self._broken("its answer about a device lacks something")
        self._show(f"Open {place} and confirm the code {user_code}")
        wait = min(LONGEST_WAIT, max(1.0, _number(data.get("interval"), 5.0)))
        end = time.monotonic() + min(LONGEST, _number(data.get("expires_in"), LONGEST))
        silence: _Silent | None = None
        while time.monotonic() < end:
            self._sleep(wait)
            try:
                answer = self._token(
                    {
                        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                        "device_code": code,
                        "code_verifier": verifier,
                    }
                )
                silence = None
            except _Silent as nobody:  # RFC 8628 section 3.5: ask less often, and go on
                wait, silence = min(LONGEST_WAIT, wait * 2), nobody
                continue
            error = answer.get("error")
            if error is None:
                return self._id_token(answer, nonce=None)
            if error == "slow_down":
                wait += 5.0
            elif error != "authorization_pending":
                raise self._denied(_reason(answer))
        raise silence or self._denied(_REASONS["expired_token"])

    def code(self, opened: Callable[[str], None]) -> str:
        """The ID token of whoever logs in with a browser on this machine.

        Args:
            opened: opens a URL in the browser.

        Raises:
            PorticoError.
        """
        verifier, challenge = _pkce()
        state, nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            redirect = f"http://127.0.0.1:{listener.getsockname()[1]}/portico"
            query = {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect,
                "scope": " ".join(self._scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
            url = self._endpoint("authorization_endpoint")
            url += ("&" if "?" in url else "?") + urlencode(query)
            self._show(f"Log in with the browser: {url}")
            opened(url)
            answered = self._redirected(listener, state)
        answer = self._token(
            {
                "grant_type": "authorization_code",
                "code": answered,
                "redirect_uri": redirect,
                "code_verifier": verifier,
            }
        )
        if "error" in answer:
            raise self._denied(_reason(answer))
        return self._id_token(answer, nonce=nonce)

    def _redirected(self, listener: socket.socket, state: str) -> str:
        end = time.monotonic() + LONGEST
        while (left := end - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                break
            with connection:
                connection.settimeout(5.0)
                query = _query(connection)
                said = query.get("state", "")
                if not hmac.compare_digest(said.encode(), state.encode()) or not ({"code", "error"} & query.keys()):
                    _send(connection, _NOT_FOUND)  # somebody else on this machine, or the browser's own questions
                    continue
                _send(connection, _PAGE)
            if "code" not in query:
                raise self._denied(_reason(query))
            if query.get("iss", self._issuer) != self._issuer:  # RFC 9207
                raise self._denied("another provider answered")
            return query["code"]
        raise self._denied("nobody logged in in time")

    def _id_token(self, answer: dict[str, Any], *, nonce: str | None) -> str:
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise self._broken("it gave no ID token; the scope openid is needed")
        if nonce is not None:
            try:  # its signature is checked by the cluster; here only whether it belongs to this login
                part = token.split(".")[1]
                said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["nonce"]
            except (ValueError, LookupError, TypeError):
                said = None
            if said != nonce:
                raise self._denied("the ID token is of another login")
        return token

    def _discover(self) -> dict[str, str]:
        data = self._json("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", None)
        if data.get("issuer") != self._issuer:
            raise self._broken("it calls itself otherwise")
        names = ("authorization_endpoint", "token_endpoint", "device_authorization_endpoint")
        found = {name: str(data[name]) for name in names if name in data}
        if not all(secure_url(url) for url in found.values()):
            raise self._broken("one of its addresses is no https URL")
        return found

    def _endpoint(self, name: str) -> str:
        if name not in self._metadata:
            raise self._broken(f"it has no {name.replace('_', ' ')}")
        return self._metadata[name]

    def _token(self, fields: dict[str, str]) -> dict[str, Any]:
        return self._json(
            "POST", self._endpoint("token_endpoint"), {"client_id": self._client_id, **fields}, (400, 401)
        )

    def _post(self, url: str, fields: dict[str, str]) -> dict[str, Any]:
        return self._json("POST", url, fields)

    def _json(self, method: str, url: str, fields: dict[str, str] | None, also: tuple[int, ...] = ()) -> dict[str, Any]:
        try:
            answer = self._http.request(method, url, data=fields, headers={"accept": "application/json"})
            if answer.status_code != 200 and answer.status_code not in also:
                raise self._broken(f"{urlsplit(url).path} answers with status {answer.status_code}")
            data = answer.json()
        except httpx.TransportError as error:
            raise self._broken(str(error) or type(error).__name__, _Silent) from None
        except (httpx.HTTPError, ValueError) as error:
            raise self._broken(str(error) or type(error).__name__) from None
        if not isinstance(data, dict):
            raise self._broken("its answer is no object")
        return data

    def _broken(self, why: str, kind: type[Unavailable] = Unavailable) -> Unavailable:
        return kind(
            f"The login at {self._issuer} does not work",
            why=why,
            resolution=f"Look at {self._look_at}",
            code="LOGIN_UNAVAILABLE",
        )

    def _denied(self, why: str) -> PorticoError:
        return NotPermitted(
            f"Nobody was logged in at {self._issuer}", why=why[:200], resolution="Try again", code="LOGIN_DENIED"
        )


def _reason(answer: Mapping[str, Any]) -> str:
    """What an error response says (RFC 6749 section 5.2)."""
    error, described = str(answer["error"]), answer.get("error_description")
    if error in _REASONS:
        return _REASONS[error]
    return f"{error} ({described})" if isinstance(described, str) and described.isprintable() else error


def _pkce() -> tuple[str, str]:
    """(verifier, challenge), RFC 7636 section 4."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, challenge


def _query(connection: socket.socket) -> dict[str, str]:
    data = b""
    try:
        while b"\r\n\r\n" not in data and len(data) < MAXIMUM_REQUEST:
            chunk = connection.recv(4096)
            if not chunk:
                break
            data += chunk
    except OSError:
        return {}
    line = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(line) != 3 or line[0] != "GET":
        return {}
    parts = urlsplit(line[1])
    return {key: values[0] for key, values in parse_qs(parts.query).items()} if parts.path == "/portico" else {}


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, (int, float)) and value > 0 else otherwise
