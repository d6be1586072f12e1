"""Revisions of the settings in etcd: one key for each, and one that says which is the newest.

    <prefix>newest                     {"number": n, "sha256": ...}; every change is a transaction that compares it
    <prefix>revision/<16 digits>       the revision, compressed, with the seal of the server that stored it

etcd decides the order of revisions and nothing else. What a revision says is believed for its seal: whoever else can
write to this etcd (an administrator of an existing one, a server that was taken out) can keep settings from being
changed, but not change them.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from portico.errors import InvalidInput, LimitReached, NotFound
from portico.settings.document import MAXIMUM_SIZE, dump
from portico.settings.etcd.client import EtcdClient, Value, equals, putting
from portico.settings.model import Settings
from portico.settings.store import (
    Revision,
    SettingsChanged,
    changed_since,
    digest,
    next_revision,
)

log = logging.getLogger("portico.settings")

KEPT = 500
"""Revisions in etcd; each server has all of them in its own database."""
MAXIMUM_VALUE = 1_200_000
"""Bytes of a compressed revision: etcd takes requests of 1.5 MiB."""
_PAGE = 50
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, zlib.error)

Seal = Callable[[bytes], Mapping[str, str]]
"""What a server adds to bytes that it stores, so that the others know them for its own."""
Check = Callable[[bytes, Mapping[str, str]], bool]
"""Whether a seal is that of a server of the cluster, on these bytes."""


class EtcdStore:
    """The revisions of one cluster below one prefix. Blocking; safe from several threads. See `settings.stores`.

    Every method raises EtcdUnavailable when no quorum answers.
    """

    def __init__(self, client: EtcdClient, prefix: str, seal: Seal, check: Check) -> None:
        self.client = client
        self.prefix = prefix
        self._seal = seal
        self._check = check

    # Reading

    def newest(self) -> tuple[int, str] | None:
        """Number and checksum of the newest revision, as a quorum has it; None while there is none."""
        found = self.client.get(f"{self.prefix}newest")
        return _head(found.value) if found is not None else None

    def latest(self) -> Revision | None:
        """The newest revision. Raises InvalidInput (REVISION_DAMAGED) when it is not one that a server stored."""
        newest = self.newest()
        return self.get(newest[0]) if newest is not None else None

    def get(self, number: int) -> Revision:
        """Raises NotFound, InvalidInput (REVISION_DAMAGED)."""
        found = self.client.get(self._key(number))
        if found is None:
            raise NotFound(
                f"there is no settings revision {number} in etcd",
                why=f"it keeps the last {KEPT}",
                resolution="List them with: portico settings history",
                code="REVISION_NOT_FOUND",
            )
        return self._revision(found)

    def history(self, *, limit: int = 50, before: int | None = None) -> list[Revision]:
        """At most `limit` revisions, newest first, older than `before` when given."""
        end = self._key(before) if before is not None else f"{self.prefix}revision0"  # '0' follows '/'
        start = f"{self.prefix}revision/"
        found = self.client.scan(start, end, limit=max(1, min(limit, 1000)), descending=True)
        return [self._revision(value) for value in found][: max(0, limit)]

    def after(self, number: int, *, limit: int = 100) -> list[Revision]:
        """At most `limit` revisions newer than a number, oldest first."""
        found = self.client.scan(self._key(number + 1), f"{self.prefix}revision0", limit=max(1, min(limit, _PAGE)))
        return [self._revision(value) for value in found]

    # Writing

    def commit(self, settings: Settings, *, expected: int, author: str, comment: str = "", now: datetime) -> Revision:
        """Stores a document as the next revision if `expected` (0: none) is still the newest.

        Raises:
            SettingsChanged: it is not; the error has the difference.
            LimitReached: codes STORE_FULL, STORE_TOO_LARGE.
        """
        newest = self.latest()
        if (newest.number if newest is not None else 0) != expected:
            raise changed_since(self, expected, newest)
        if newest is not None and newest.text == dump(settings):
            return newest
        revision = next_revision(newest, dump(settings), author=author, comment=comment, now=now)
        if not self.append(revision, (newest.number, newest.sha256) if newest is not None else None):
            raise changed_since(self, expected, self.latest())
        return revision

    def append(self, revision: Revision, former: tuple[int, str] | None) -> bool:
        """Stores a revision if `former` is the newest one; whether it is stored.

        Repeating it is safe, also when nothing is known about the first attempt.
        """
        head = _head_bytes(revision)
        before = None if former is None else _head_data(*former)
        full: LimitReached | None = None
        try:
            stored = self.client.transaction(
                [equals(f"{self.prefix}newest", before)],
                [putting(self._key(revision.number), self._value(revision)), putting(f"{self.prefix}newest", head)],
            )
        except LimitReached as error:
            if error.code != "STORE_FULL":
                raise
            # The write that fills the database is done all the same (etcd's quotaApplierV3).
            stored, full = False, error
        if not stored:
            # An attempt whose answer was lost has stored it: another revision would not be the same, nor sealed so.
            newest = self.newest()
            stored = newest == (revision.number, revision.sha256) and self._same(revision)
        if full is not None and not stored:
            raise full
        if stored and revision.number % 20 == 0:
            self.prune(KEPT)
        return stored

    def seed(self, revisions: Sequence[Revision]) -> None:
        """Fills an etcd that has nothing of this cluster. The newest is there when all are.

        Raises:
            InvalidInput: code STORE_NOT_EMPTY.
        """
        if self.newest() is not None:
            raise InvalidInput(
                "The settings cannot be moved to this etcd",
                why=f"there are settings below {self.prefix} already",
                resolution="Begin again; each attempt has a prefix of its own",
                code="STORE_NOT_EMPTY",
            )
        for revision in revisions[-KEPT:]:
            self.client.put(self._key(revision.number), self._value(revision))
        if revisions:
            self.client.put(f"{self.prefix}newest", _head_bytes(revisions[-1]))

    def prune(self, keep: int) -> int:
        """Deletes all but the newest revisions; returns how many."""
        newest = self.newest()
        if newest is None or newest[0] <= keep:
            return 0
        return self.client.delete(self._key(0), self._key(newest[0] - max(1, keep) + 1))

    def compact(self, keep: int = KEPT) -> int:
        """Deletes all but the newest revisions and gives the space back; returns how many were deleted."""
        deleted = self.prune(keep)
        self.client.compact()
        self.client.disarm()
        return deleted

    def clear(self) -> None:
        """Deletes everything of this prefix."""
        self.client.delete(self.prefix, f"{self.prefix[:-1]}0")

    def _same(self, revision: Revision) -> bool:
        there = self.get(revision.number)
        return (there.created, there.author, there.comment) == (revision.created, revision.author, revision.comment)

    def _key(self, number: int) -> str:
        return f"{self.prefix}revision/{max(0, number):016d}"

    def _value(self, revision: Revision) -> bytes:
        content = _content(revision)
        sealed = {"content": content.decode(), "seal": dict(self._seal(content))}
        value = zlib.compress(json.dumps(sealed).encode(), 6)
        if len(value) > MAXIMUM_VALUE:
            raise LimitReached(
                "The settings are too large for the store of the cluster",
                why=f"they have {len(value)} bytes compressed, {MAXIMUM_VALUE} are possible",
                resolution="Shorten the longest lists: portico settings show",
                code="STORE_TOO_LARGE",
            )
        return value

    def _revision(self, found: Value) -> Revision:
        try:
            unpacked = zlib.decompressobj().decompress(found.value, 4 * MAXIMUM_SIZE)
            sealed = json.loads(unpacked)
            content, seal = str(sealed["content"]).encode(), {str(k): str(v) for k, v in sealed["seal"].items()}
            fields = json.loads(content)
            created = datetime.fromisoformat(fields["created"])
            revision = Revision(
                number=int(fields["number"]),
                author=str(fields["author"]),
                comment=str(fields["comment"]),
                created=created.astimezone(UTC),
                sha256=str(fields["sha256"]),
                text=str(fields["text"]),
            )
            if self._key(revision.number) != found.key or digest(revision.text) != revision.sha256:
                raise ValueError("its text is not what its key and checksum say")
            if not self._check(content, seal):
                raise ValueError("no server of the cluster has sealed it")
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            zlib.error,
        ) as error:
            raise InvalidInput(
                f"What etcd has at {found.key} cannot be used",
                why=str(error)[:200] or type(error).__name__,
                resolution="Look who else writes to this etcd, then make the store anew from this server's copy: "
                "portico cluster store recover",
                code="REVISION_DAMAGED",
            ) from None
        return revision


def _content(revision: Revision) -> bytes:
    return json.dumps({**revision.as_dict(), "text": revision.text}, sort_keys=True).encode()


def _head_data(number: int, sha256: str) -> bytes:
    return json.dumps({"number": number, "sha256": sha256}, sort_keys=True).encode()


def _head_bytes(revision: Revision) -> bytes:
    return _head_data(revision.number, revision.sha256)


def _head(value: bytes) -> tuple[int, str]:
    try:
        data: Any = json.loads(value)
        return int(data["number"]), str(data["sha256"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InvalidInput(
            "What etcd says about the newest settings cannot be used",
            why="it is malformed",
            resolution="Look who else writes to this etcd, then: portico cluster store recover",
            code="REVISION_DAMAGED",
        ) from None


__all__ = ["KEPT", "Check", "EtcdStore", "Seal", "SettingsChanged"]
