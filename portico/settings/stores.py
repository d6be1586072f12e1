"""What a store of settings offers, whichever it is: SQLite (`settings.store`) or etcd (`settings.etcd`).

With etcd each server has a SQLite store too. etcd decides which revision comes next; the database is what the server
reads and starts from. So whatever becomes of etcd, only changes of settings wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from portico.settings.model import Settings
from portico.settings.store import Revision


class Store(Protocol):
    """Revisions of one document, numbered from 1 without gaps."""

    def latest(self) -> Revision | None: ...
    def get(self, number: int) -> Revision: ...
    def history(self, *, limit: int = 50, before: int | None = None) -> list[Revision]: ...
    def after(self, number: int, *, limit: int = 100) -> list[Revision]: ...

    def commit(self, settings: Settings, *, expected: int, author: str, comment: str = "", now: datetime) -> Revision:
        """Compare and swap: the document becomes the next revision if `expected` is the newest.

        Raises:
            SettingsChanged: somebody else stored one first; the error has the difference.
            LimitReached: it does not fit.
            Unavailable: the store is read-only now.
        """

    def compact(self, keep: int = ...) -> int:
        """Deletes all but the newest revisions; returns how many."""


class Decider(Protocol):
    """Who says, for all servers, which revision comes next."""

    def decide(self, former: Revision | None, revision: Revision) -> Sequence[Revision]:
        """Makes `revision` the one after `former`, everywhere and for good.

        Returns:
            Nothing when it is. Otherwise what is newer than `former`: somebody else came first.

        Raises:
            Unavailable: it cannot be decided now; settings are read-only.
        """
