"""A client of etcd 3.4 and newer over its JSON gateway: what Portico needs of it, with errors that say what to do.

Sources: etcd's `rpc.proto` (API version 3) and "Why gRPC gateway" of its documentation: bytes travel as base64, 64-bit
numbers as text, and what is zero or empty is left out. Blocking; safe from several threads.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from portico.errors import Conflict, InvalidInput, LimitReached, NotFound, PorticoError, Unavailable

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""For which one endpoint may think; then the next is asked. etcd itself gives up after 7 s without a quorum."""
TOTAL_SECONDS = 8.0
MAXIMUM_ANSWER = 64 << 20

_FULL = "database space exceeded"
_LARGE = "request is too large"
_UNAVAILABLE, _PRECONDITION, _NOT_FOUND, _INVALID, _EXISTS = 14, 9, 5, 3, 6
_NOT_DONE = (_UNAVAILABLE, 4, 13, 2, 1, None)
"""Also what the gateway says of an etcd that ends meanwhile (internal, unknown, cancelled), and of lost time."""


class EtcdUnavailable(Unavailable):
    """No endpoint answers, or none that does has a quorum. It is not known whether a write was done."""

    code = "STORE_UNAVAILABLE"


@dataclass(frozen=True)
class Member:
    """A member of etcd's own cluster. `name` is empty until it has started for the first time."""

    number: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool


@dataclass(frozen=True)
class Value:
    """A value with the revision of etcd that wrote it."""

    key: str
    value: bytes
    revision: int


class EtcdClient:
    """Speaks to whichever endpoint answers.

    Args:
        endpoints: URLs, in the order of preference.
        context: trusts etcd's CA, and holds the certificate that shows who asks.
    """

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext, *, total: float = TOTAL_SECONDS) -> None:
        self.endpoints = tuple(endpoints)
        self.context = context
        self.total = total
        self._good = ""
        self._lock = threading.Lock()
        self._http = httpx.Client(
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=30.0),
        )

    def close(self) -> None:
        self._http.close()

    def follow(self, endpoints: Sequence[str]) -> None:
        """Asks these from now on."""
        with self._lock:
            if tuple(endpoints) != self.endpoints:
                self.endpoints, self._good = tuple(endpoints), ""

    # Keys

    def get(self, key: str, *, serializable: bool = False) -> Value | None:
        """The value of a key as a quorum has it; `serializable`: as one member has it, which may be old."""
        found = self.call("kv/range", {"key": encoded(key), "serializable": serializable})
        values = _values(found)
        return values[0] if values else None

    def scan(self, start: str, end: str, *, limit: int, descending: bool = False) -> list[Value]:
        """At most `limit` keys from `start` (included) to `end` (excluded)."""
        body = {
            "key": encoded(start),
            "range_end": encoded(end),
            "limit": str(limit),
            "sort_target": "KEY",
            "sort_order": "DESCEND" if descending else "ASCEND",
        }
        return _values(self.call("kv/range", body))

    def transaction(
        self, compare: Sequence[Mapping[str, Any]], success: Sequence[Mapping[str, Any]], failure: Sequence[Any] = ()
    ) -> bool:
        """Whether the comparisons held; then everything in `success` was done at once."""
        body = {"compare": list(compare), "success": list(success), "failure": list(failure)}
        return self.call("kv/txn", body).get("succeeded") is True

    def put(self, key: str, value: bytes) -> None:
        self.call("kv/put", {"key": encoded(key), "value": encoded(value)})

    def delete(self, start: str, end: str) -> int:
        """Deletes the keys from `start` to `end` (excluded); returns how many."""
        return int(self.call("kv/deleterange", {"key": encoded(start), "range_end": encoded(end)}).get("deleted", 0))

    def compact(self) -> None:
        """Forgets former values of all keys, and gives the space back on every endpoint."""
        revision = self.call("kv/range", {"key": encoded("/"), "count_only": True})["header"]["revision"]
        try:
            self.call("kv/compaction", {"revision": str(revision), "physical": True})
        except InvalidInput as error:
            if "has been compacted" not in error.why:
                raise
        for endpoint in self.endpoints:
            self.call("maintenance/defragment", {}, endpoint=endpoint, seconds=30.0)

    def disarm(self) -> None:
        """Ends the alarm of a full database, after space was made."""
        raised = self.call("maintenance/alarm", {"action": "GET", "memberID": "0", "alarm": "NONE"})
        for alarm in raised.get("alarms", []):
            self.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    # Leases

    def grant(self, seconds: int) -> str:
        """A lease; what is attached to it ends with it."""
        return str(self.call("lease/grant", {"TTL": str(seconds)})["ID"])

    def keep_alive(self, lease: str) -> bool:
        """Whether the lease is still there; its time starts anew then."""
        found = self.call("lease/keepalive", {"ID": lease}).get("result", {})
        return int(found.get("TTL", 0)) > 0

    def revoke(self, lease: str) -> None:
        """Ends a lease."""
        self.call("lease/revoke", {"ID": lease})

    # Members

    def members(self) -> list[Member]:
        """etcd's members, as a quorum of them has it (3.4: as the one that answers has it)."""
        return [_member(item) for item in self.call("cluster/member/list", {}).get("members", [])]

    def add_learner(self, peer_url: str) -> tuple[Member, list[Member]]:
        """A member that does not vote yet; itself and all members.

        Raises:
            Conflict: another learner is there, or the members that vote are not all well.
        """
        found = self.call("cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})
        return _member(found["member"]), [_member(item) for item in found.get("members", [])]

    def promote(self, number: int) -> None:
        """Lets a learner vote. Raises Conflict while it has not caught up."""
        self.call("cluster/member/promote", {"ID": str(number)})

    def move(self, number: int, peer_url: str) -> None:
        """Tells the others where a member is now. Raises NotFound, Conflict."""
        self.call("cluster/member/update", {"ID": str(number), "peerURLs": [peer_url]})

    def remove(self, number: int) -> None:
        """Takes a member out. Raises NotFound, Conflict (too few would be left that are well)."""
        self.call("cluster/member/remove", {"ID": str(number)})

    def status(self, endpoint: str) -> dict[str, Any]:
        """What one endpoint says about itself: version, dbSize, leader, isLearner."""
        return self.call("maintenance/status", {}, endpoint=endpoint)

    # The call

    def call(
        self, path: str, body: Mapping[str, Any], *, endpoint: str | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        """The answer to one call, of the first endpoint that has one.

        Raises:
            EtcdUnavailable: none has, within the client's time.
            LimitReached: codes STORE_FULL, STORE_TOO_LARGE.
            Conflict, NotFound, InvalidInput: etcd refuses it.
        """
        deadline = time.monotonic() + (seconds or self.total)
        order = (endpoint,) if endpoint is not None else self._order()
        troubles: list[str] = []
        for url in order:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            longest = min(seconds or ANSWER_SECONDS, left)
            try:
                answer = self._http.post(
                    f"{url}/v3/{path}",
                    content=json.dumps(body),
                    timeout=httpx.Timeout(longest, connect=min(CONNECT_SECONDS, longest)),
                )
            except (httpx.HTTPError, ssl.SSLError, OSError, RuntimeError) as error:  # RuntimeError: it was closed
                troubles.append(f"{url}: {_short(error)}")
                continue
            found = _object(answer)
            if answer.status_code == 200:
                if endpoint is None:
                    self._good = url
                return found
            problem = _problem(path, found)
            if not isinstance(problem, EtcdUnavailable):
                raise problem
            troubles.append(f"{url}: {problem.why}")
        raise EtcdUnavailable(
            "etcd does not answer",
            why="; ".join(troubles)[:600] or "there is no endpoint",
            resolution="Look at it: portico cluster store status",
        )

    def _order(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self.endpoints, key=lambda url: url != self._good))


def encoded(value: str | bytes) -> str:
    """Bytes as the JSON gateway takes them."""
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def equals(key: str, value: bytes | None) -> dict[str, Any]:
    """A comparison: the key has this value, or (None) is not there."""
    if value is None:
        return {"key": encoded(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
    return {"key": encoded(key), "target": "VALUE", "result": "EQUAL", "value": encoded(value)}


def putting(key: str, value: bytes, lease: str | None = None) -> dict[str, Any]:
    """An operation of a transaction."""
    put = {"key": encoded(key), "value": encoded(value)}
    return {"request_put": put if lease is None else {**put, "lease": lease}}


def _short(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "it cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return "it has no answer in time"
    return str(error)[:200] or type(error).__name__


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        # A stream's answer is one object a line; those that are read here have one.
        found = json.loads(answer.content[:MAXIMUM_ANSWER].split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return {"error": f"HTTP status {answer.status_code}, and no JSON", "code": _UNAVAILABLE}
    return found if isinstance(found, dict) else {"error": "no object", "code": _UNAVAILABLE}


def _problem(path: str, found: Mapping[str, Any]) -> PorticoError:
    why = str(found.get("error") or found.get("message") or "no reason given").removeprefix("etcdserver: ")[:300]
    code = found.get("code")
    if _FULL in why:
        return LimitReached(
            "The store of the cluster is full",
            why=f"etcd says: {why}",
            resolution="Make space: portico cluster store compact. Nothing was changed, and the service goes on",
            code="STORE_FULL",
        )
    if _LARGE in why:
        return LimitReached(
            "The settings are too large for the store of the cluster",
            why=f"etcd says: {why}",
            resolution="Shorten the longest lists: portico settings show",
            code="STORE_TOO_LARGE",
        )
    what = f"etcd refuses {path}"
    if code in (_PRECONDITION, _EXISTS) or "unhealthy cluster" in why or "too many learner" in why:
        return Conflict(what, why=why, resolution="It is tried again", code="STORE_BUSY")
    if code == _NOT_FOUND:
        return NotFound(what, why=why, code="STORE_NO_SUCH_MEMBER")
    if code in _NOT_DONE or (code == _INVALID and "learner" in why):
        return EtcdUnavailable(what, why=why)
    return InvalidInput(what, why=why, code="STORE_REFUSED")


def _values(found: Mapping[str, Any]) -> list[Value]:
    return [
        Value(
            base64.b64decode(item["key"]).decode(),
            base64.b64decode(item.get("value", "")),
            int(item.get("mod_revision", 0)),
        )
        for item in found.get("kvs", [])
    ]


def _member(item: Mapping[str, Any]) -> Member:
    return Member(
        number=int(item["ID"]),
        name=str(item.get("name", "")),
        peer_urls=tuple(item.get("peerURLs", ())),
        client_urls=tuple(item.get("clientURLs", ())),
        learner=item.get("isLearner") is True,
    )
