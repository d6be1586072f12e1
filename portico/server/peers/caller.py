"""The calling side of the peers' channel. Errors of the other server come out as the PorticoError they were."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

from portico.errors import (
    PorticoError,
    Unavailable,
)
from portico.http_status import kind_of
from portico.settings.problems import Problem, SettingsRefused, Severity

CONNECT_SECONDS = 2.0
MAXIMUM_ANSWER = 16 << 20


class PeerUnreachable(Unavailable):
    """A server of the cluster does not answer. Nothing is known about what it did."""

    code = "PEER_UNREACHABLE"


class Caller:
    """Speaks to one server: at an address, as the name its certificate must have.

    Args:
        name: None for the one question that a pin answers.
    """

    def __init__(self, host: str, port: int, name: str | None, context: ssl.SSLContext) -> None:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.name = name or authority
        self._extensions: dict[str, Any] = {"sni_hostname": name} if name is not None else {}
        self._http = httpx.AsyncClient(
            base_url=f"https://{authority}",
            verify=context,
            trust_env=False,
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=15.0),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, *, seconds: float = 5.0, **query: Any) -> Any:
        """The JSON answer to a GET. Raises PeerUnreachable, or the error the other server answered with."""
        return await self._call("GET", path, None, query, seconds)

    async def post(self, path: str, body: object, *, seconds: float = 10.0) -> Any:
        """The JSON answer to a POST. Raises as `get`."""
        return await self._call("POST", path, json.dumps(body).encode(), {}, seconds)

    async def _call(self, method: str, path: str, body: bytes | None, query: dict[str, Any], seconds: float) -> Any:
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        try:
            async with self._http.stream(
                method, path, content=body, params=query, timeout=timeout, extensions=self._extensions
            ) as answer:
                chunks: list[bytes] = []
                size = 0
                async for chunk in answer.aiter_raw():
                    size += len(chunk)
                    if size > MAXIMUM_ANSWER:
                        raise self._unreachable("its answer is too large")
                    chunks.append(chunk)
                status = answer.status_code
        except httpx.TimeoutException:
            raise self._unreachable("no answer in time") from None
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None
        try:
            data = json.loads(b"".join(chunks))
        except (ValueError, RecursionError):
            raise self._unreachable("its answer is not JSON") from None
        if 200 <= status < 300:
            return data
        raise self._error(status, data)

    def _unreachable(self, why: str) -> PeerUnreachable:
        return PeerUnreachable(
            f"The server {self.name} does not answer",
            why=why[:300],
            resolution="Look whether it runs and can be reached: portico server status, there",
        )

    def _error(self, status: int, data: Any) -> PorticoError:
        fields = data.get("error") if isinstance(data, dict) else None
        if not isinstance(fields, dict):
            return Unavailable(f"The server {self.name} failed", why=f"HTTP status {status}")
        texts = {key: str(fields.get(key, ""))[:2000] for key in ("what", "why", "resolution", "code")}
        problems = [_problem(item) for item in fields.get("problems") or () if isinstance(item, dict)]
        if status == 422 and problems:
            return SettingsRefused(texts["what"], problems)
        kind = kind_of(status)
        return kind(texts["what"], why=texts["why"], resolution=texts["resolution"], code=texts["code"] or None)


def _problem(item: dict[str, Any]) -> Problem:
    code, path, what, why, resolution = (
        str(item.get(key, ""))[:2000] for key in ("code", "path", "what", "why", "resolution")
    )
    severity: Severity = "warning" if item.get("severity") == "warning" else "error"
    return Problem(code, path, what, why, resolution, severity)
