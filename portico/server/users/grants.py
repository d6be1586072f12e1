"""Grants: a user who authenticated at a computer, until a time. A table with no clock and no file; `now` comes in.

A grant is bound to the computer's identity (issuer and subject of its certificate), so it holds wherever the computer
dials. A computer has at most one; ending one is final, and an ended grant is remembered until it would have run out, so
that a server that missed the end cannot bring it back.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from portico.certificates.listing import bad_cursor
from portico.errors import InvalidInput, LimitReached, NotFound

MAXIMUM: Final = 20_000
"""Grants that are kept, ended ones among them."""
MAXIMUM_TEXT: Final = 512

Method = Literal["certificate", "oidc"]
State = Literal["open", "revoked", "expired"]
Machine = tuple[str, str]
"""SHA-256 of the issuer's name, and the subject."""


@dataclass(frozen=True)
class Grant:
    """Times in seconds since the epoch.

    Attributes:
        serial: of the computer's certificate when the user authenticated; the grant ends with its revocation.
        address: where the request came from.
        ended: None while it holds; `ended_by` says what ended it.
    """

    id: str
    user: str
    method: Method
    machine: str
    issuer_sha256: str
    serial: str
    address: str
    began: float
    until: float
    ended: float | None = None
    ended_by: str = ""

    @property
    def key(self) -> Machine:
        return (self.issuer_sha256, self.machine)

    def state(self, now: float) -> State:
        if self.ended is not None:
            return "revoked"
        return "open" if now < self.until else "expired"

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: Any) -> Grant:
        """A grant that was stored or sent. Raises InvalidInput (GRANT_MALFORMED)."""
        if not isinstance(data, dict) or set(data) != {field.name for field in fields(cls)}:
            raise _malformed("its fields are others")
        texts = ("id", "user", "method", "machine", "issuer_sha256", "serial", "address", "ended_by")
        if not all(isinstance(data[key], str) and len(data[key]) <= MAXIMUM_TEXT for key in texts):
            raise _malformed("a text is none or too long")
        times = [data["began"], data["until"], *([data["ended"]] if data["ended"] is not None else [])]
        if not all(type(value) in (int, float) and 0 <= value < 1 << 40 for value in times):
            raise _malformed("a time is none")
        if not data["id"] or not data["machine"] or data["method"] not in ("certificate", "oidc"):
            raise _malformed("it names no computer or no way to authenticate")
        return cls(**data)


class Grants:
    """The grants of a cluster, as one server knows them."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants: dict[str, Grant] = {grant.id: grant for grant in grants}

    def __len__(self) -> int:
        return len(self._grants)

    def all(self) -> list[Grant]:
        """Newest first."""
        return sorted(self._grants.values(), key=lambda grant: (-grant.began, grant.id))

    def page(self, after: str | None, limit: int) -> tuple[list[Grant], str | None]:
        """Newest first behind a cursor, and the cursor of the next page. Raises InvalidInput (CURSOR_INVALID)."""
        found = self.all()
        begin = 0
        if after is not None:
            began, _, identifier = after.partition("/")
            try:
                begin = bisect.bisect_right(found, (-float(began), identifier), key=lambda g: (-g.began, g.id))
            except ValueError:
                raise bad_cursor() from None
        page = found[begin : begin + limit]
        more = begin + limit < len(found)
        return page, f"{page[-1].began!r}/{page[-1].id}" if more else None

    def active(self, now: float) -> dict[Machine, Grant]:
        """What holds now, by computer; of two that servers made at once the later one."""
        held = [grant for grant in self._grants.values() if grant.state(now) == "open"]
        return {grant.key: grant for grant in sorted(held, key=lambda grant: (grant.began, grant.id))}

    def next_end(self, now: float) -> float | None:
        """When the next grant runs out."""
        return min((grant.until for grant in self.active(now).values()), default=None)

    def add(self, grant: Grant, now: float) -> None:
        """A user has authenticated: whoever had before at this computer has not any more.

        Raises:
            LimitReached: code GRANTS_FULL.
        """
        self.prune(now)
        if len(self._grants) >= MAXIMUM:
            raise LimitReached(
                "No more users can authenticate",
                why=f"{MAXIMUM} grants are kept already",
                resolution="Shorten access.user_lifetime_hours",
                code="GRANTS_FULL",
            )
        self._end(lambda held: held.key == grant.key, now, "another login")
        self._grants[grant.id] = grant

    def end(self, identifier: str, now: float, by: str) -> Grant:
        """Ends a grant. Raises NotFound (NO_SUCH_GRANT)."""
        found = self._grants.get(identifier)
        if found is None:
            raise NotFound(
                f"There is no grant {identifier[:64]}",
                why="no user has it now",
                resolution="List them with: portico users list",
                code="NO_SUCH_GRANT",
            )
        self._end(lambda held: held.id == identifier, now, by)
        return self._grants[identifier]

    def end_all(self, which: Callable[[Grant], bool], now: float, by: str) -> list[Grant]:
        """Ends every open grant that `which` names; those."""
        return self._end(which, now, by)

    def merge(self, others: Iterable[Grant], now: float) -> bool:
        """Takes over what another server has; whether anything is new. The earlier end of one grant holds."""
        new = False
        for theirs in others:
            mine = self._grants.get(theirs.id)
            if mine is None:
                if _remembered(theirs, now) and len(self._grants) < MAXIMUM:
                    self._grants[theirs.id] = theirs
                    new = True
            elif theirs.ended is not None and (mine.ended is None or _end_order(theirs) < _end_order(mine)):
                self._grants[theirs.id] = replace(mine, ended=theirs.ended, ended_by=theirs.ended_by)
                new = True
        return new

    def prune(self, now: float) -> bool:
        """Forgets what has run out; whether there was anything."""
        kept = {key: grant for key, grant in self._grants.items() if _remembered(grant, now)}
        gone, self._grants = len(kept) != len(self._grants), kept
        return gone

    def digest(self, now: float) -> str:
        """The same on two servers that know the same."""
        held = sorted(
            (grant.id, grant.ended, grant.ended_by) for grant in self._grants.values() if _remembered(grant, now)
        )
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    def _end(self, which: Callable[[Grant], bool], now: float, by: str) -> list[Grant]:
        ended = [
            replace(grant, ended=now, ended_by=by)
            for grant in self._grants.values()
            if grant.state(now) == "open" and which(grant)
        ]
        self._grants.update({grant.id: grant for grant in ended})
        return ended


def _remembered(grant: Grant, now: float) -> bool:
    return now < grant.until


def _end_order(grant: Grant) -> tuple[float, str]:
    return (grant.ended if grant.ended is not None else float("inf"), grant.ended_by)


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(
        "A grant cannot be used",
        why=why,
        resolution="Use the same version of Portico on all servers",
        code="GRANT_MALFORMED",
    )
