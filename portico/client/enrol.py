"""Enrolment, renewal and the server's settings, over HTTPS to the server's own listener.

The token pins the server's trust: it is fetched over TLS that is not verified and believed only when its hash is the
pin. Everything after that is verified TLS. The private key is made here and never leaves.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from portico.certificates.issue import Identity, make_request
from portico.certificates.tokens import Token
from portico.certificates.trust import common_name, parse_certificates, pin, to_pem
from portico.client.identity import ClientFiles, ClientSettings, LocalSettings, Proxy, parse_proxy, server_of
from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.http_status import kind_of

TIMEOUT = 15.0
_LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True)
class Enrolled:
    """What enrolment brought: the identity and the server's settings, not yet written to disk."""

    name: str
    key_pem: str
    chain_pem: str
    trust: str
    settings: ClientSettings

    def save(self, files: ClientFiles) -> None:
        """Writes trust, settings and identity, all of them or none. Raises Unavailable (FILE_NOT_WRITTEN)."""
        files.adopt(key_pem=self.key_pem, chain_pem=self.chain_pem, trust=self.trust, settings=self.settings)


def effective_proxy(local: LocalSettings, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy of the settings, or of the environment when the settings say so. Raises InvalidInput."""
    text = local.proxy
    if text == "environment":
        known = os.environ if environment is None else environment
        text = known.get("https_proxy") or known.get("HTTPS_PROXY")
    if not text:
        return None
    try:
        return parse_proxy(text)
    except ValueError as error:
        raise InvalidInput(
            "The proxy cannot be used",
            why=str(error),
            resolution="Write it as http://host:port or http://user:password@host:port",
            code="PROXY_INVALID",
        ) from None


def fetch_trust(token: Token, proxy: Proxy | None) -> str:
    """The server's trust, if it is the one the token pins.

    Raises:
        NotPermitted: code PIN_MISMATCH, somebody else answers at that address.
        Unavailable: nobody answers.
    """
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # the answer is believed by its hash alone
    answer = _ask("GET", f"{token.url}/portico/v1/trust", context=unverified, proxy=proxy)
    try:
        found = pin(answer)
    except PorticoError as error:
        raise _foreign(token, f"what answers there sends no certificates ({error.why})") from None
    if found != token.pin:
        raise _foreign(token, "its CA is not the one that the token names")
    return to_pem(*parse_certificates(answer))


def enrol(token: Token, trust: str, proxy: Proxy | None) -> Enrolled:
    """Redeems a token over verified TLS.

    Raises:
        NotPermitted: the server refuses the token, or its certificate is not for this name.
        InvalidInput: code ANSWER_INVALID, the server's answer is not one.
        Unavailable: nobody answers.
    """
    key_pem, request = make_request(token.name)
    body = {"id": token.id, "secret": token.secret, "csr": request}
    answer = _ask_json("POST", f"{token.url}/portico/v1/enrol", trust, None, proxy, body)
    chain = _chain(answer, key_pem)
    try:
        new_trust = to_pem(*parse_certificates(str(answer.get("trust") or trust), source="the server's trust"))
    except PorticoError as error:
        raise _bad_answer(str(error)) from None
    settings = _settings(answer.get("settings"))
    name = common_name(parse_certificates(chain)[0].subject) or token.name
    return Enrolled(name, key_pem, chain, new_trust, settings)


def renew(identity: Identity, trust: str, url: str, proxy: Proxy | None) -> tuple[str, str]:
    """A new key and certificate for an identity that is still good: (key PEM, chain PEM). Raises as `enrol`."""
    name = common_name(identity.certificate.subject) or "client"
    key_pem, request = make_request(name)
    answer = _ask_json("POST", f"{_origin(url)}/portico/v1/renew", trust, identity, proxy, {"csr": request})
    return key_pem, _chain(answer, key_pem)


def fetch_settings(identity: Identity, trust: str, url: str, proxy: Proxy | None) -> ClientSettings:
    """The server's settings for its clients, as they are now. Raises as `enrol`."""
    return _settings(_ask_json("GET", f"{_origin(url)}/portico/v1/client-settings", trust, identity, proxy, None))


def fetch_revoked(identity: Identity, trust: str, url: str, proxy: Proxy | None) -> str | None:
    """The server's revocation list, PEM; None from a server that has none. Raises as `enrol`."""
    try:
        return _ask("GET", f"{_origin(url)}/portico/v1/crl", context=_verified(trust, identity), proxy=proxy)
    except PorticoError as error:
        if error.code in ("NO_SUCH_RESOURCE", "SERVER_REFUSED"):  # an older one answers in its own way
            return None
        raise


def ask_about_user(
    identity: Identity,
    trust: str,
    url: str,
    proxy: Proxy | None,
    method: str,
    what: str,
    body: Mapping[str, str] | None,
) -> dict[str, Any]:
    """One request about the user of this computer, to `/portico/v1/user` and what is behind it. Raises as `enrol`."""
    return _ask_json(method, f"{_origin(url)}/portico/v1/user{what}", trust, identity, proxy, body)


def _origin(url: str) -> str:
    host, port = server_of(url)
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _chain(answer: Mapping[str, Any], key_pem: str) -> str:
    """The certificate chain of an answer, when it belongs to the key."""
    try:
        certificates = parse_certificates(str(answer.get("certificate_chain", "")), source="the new certificate")
    except PorticoError as error:
        raise _bad_answer(str(error)) from None
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if certificates[0].public_key() != key.public_key():
        raise _bad_answer("its certificate is for another key")
    return to_pem(*certificates)


def _settings(data: object) -> ClientSettings:
    try:
        return ClientSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "settings"
        raise _bad_answer(f"{place}: {first['msg']}") from None


def _ask_json(
    method: str, url: str, trust: str, identity: Identity | None, proxy: Proxy | None, body: Mapping[str, str] | None
) -> dict[str, Any]:
    text = _ask(method, url, context=_verified(trust, identity), proxy=proxy, body=body)
    try:
        answer = httpx.Response(200, text=text).json()
    except (ValueError, RecursionError):
        raise _bad_answer("it is not JSON") from None
    if not isinstance(answer, dict):
        raise _bad_answer("it is not a JSON object")
    return answer


def _verified(trust: str, identity: Identity | None) -> ssl.SSLContext:
    """Believes the server by its trust alone, and shows it the identity. Raises InvalidInput (PEM_DAMAGED)."""
    try:
        context = ssl.create_default_context(cadata=trust)
    except ssl.SSLError as error:
        raise InvalidInput("the trust in the server cannot be used", why=str(error), code="PEM_DAMAGED") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if identity is not None:
        with _as_file(identity) as path:
            context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _as_file(identity: Identity) -> Iterator[Path]:
    """The identity as a file of mode 0600 in memory: the ssl module reads keys from files only."""
    directory = Path("/dev/shm")  # noqa: S108 - mkstemp makes it unguessable and private
    descriptor, name = tempfile.mkstemp(dir=directory if os.access(directory, os.W_OK) else None)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(identity.key_pem + identity.chain_pem)
        yield Path(name)
    finally:
        Path(name).unlink()


def _ask(
    method: str, url: str, *, context: ssl.SSLContext, proxy: Proxy | None, body: Mapping[str, str] | None = None
) -> str:
    """One request; the text of a 2xx answer."""
    through = None
    if proxy is not None:
        auth = (proxy.user, proxy.password or "") if proxy.user is not None else None
        through = httpx.Proxy(proxy.url, auth=auth)
    way = f" through the proxy {proxy.url}" if proxy else ""
    try:
        with (
            httpx.Client(verify=context, proxy=through, trust_env=False, timeout=TIMEOUT) as client,
            client.stream(method, url, json=body) as response,
        ):
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    raise _bad_answer(f"it is longer than {_LARGEST_ANSWER} bytes")
    except httpx.InvalidURL as error:
        raise _bad_answer(f"its address {url} is none: {error}") from None
    except httpx.HTTPError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise NotPermitted(
                f"The server at {url.rsplit('/portico', 1)[0]} is not trusted",
                why=str(error),
                resolution="If its CA was renewed, enrol this computer again; otherwise somebody stands in between",
                code="SERVER_NOT_TRUSTED",
            ) from None
        raise Unavailable(
            f"The server at {url.rsplit('/portico', 1)[0]} does not answer{way}",
            why=str(error) or type(error).__name__,
            resolution="Check the network, and the name and port with the server's administrator",
            code="SERVER_NO_ANSWER",
        ) from None
    text = data.decode("utf-8", "replace")
    if not response.is_success:
        raise _refusal(response.status_code, text, url)
    return text


def _refusal(status: int, text: str, url: str) -> PorticoError:
    """The server's own words where they are an error of ours, the status otherwise."""
    detail: object = None
    with contextlib.suppress(ValueError, RecursionError):
        parsed = httpx.Response(status, text=text).json()
        detail = parsed.get("error") if isinstance(parsed, dict) else None
    kind = kind_of(status, Unavailable if status >= 500 else InvalidInput)
    if isinstance(detail, dict) and isinstance(detail.get("what"), str):
        code = detail.get("code")
        return kind(
            f"The server refused: {detail['what'][:500]}",
            why=str(detail.get("why", ""))[:500],
            resolution=str(detail.get("resolution", ""))[:500],
            code=code if isinstance(code, str) else None,
        )
    return kind(
        f"The server answered {url.rsplit('/', 1)[-1]} with HTTP {status}",
        why=" ".join(text.split())[:200],
        resolution="Check that the address is that of a Portico server",
        code="SERVER_REFUSED",
    )


def _foreign(token: Token, why: str) -> NotPermitted:
    return NotPermitted(
        f"The server at {token.url} is not the one that made this token",
        why=why,
        resolution="Check the network for a proxy that opens TLS; otherwise ask for a new token",
        code="PIN_MISMATCH",
    )


def _bad_answer(why: str) -> InvalidInput:
    return InvalidInput(
        "The server's answer cannot be used",
        why=why,
        resolution="Check that both ends run versions that fit: portico --version",
        code="ANSWER_INVALID",
    )
