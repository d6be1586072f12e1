"""Two administrators change settings at once, on two servers: one wins, the other is told what the first changed."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from portico.errors import Conflict, PorticoError
from portico.settings.model import Settings
from portico.settings.store import SettingsStore, changed_since

EXPLAIN_SECONDS = 10.0
"""So long the loser waits for what the winner changes; then it is told only that there is another change."""
_CAME_SECOND = ("CHANGE_IN_FLIGHT", "SETTINGS_NEWER")


class _Changes(Protocol):
    def store(self) -> SettingsStore: ...


Self = TypeVar("Self", bound=_Changes)
Result = TypeVar("Result")


def told_what_others_changed(
    change: Callable[..., Coroutine[Any, Any, Result]],
) -> Callable[..., Coroutine[Any, Any, Result]]:
    """For a method `change(settings, expected=..., ...)`: the error of who came second has the difference.

    It waits outside of the method: what the winner changes is applied on this server meanwhile.
    """

    @functools.wraps(change)
    async def changed(self: Self, settings: Settings, *, expected: int | None, **options: Any) -> Result:
        base = expected if expected is not None else await _newest(self)
        try:
            return await change(self, settings, expected=expected, **options)
        except Conflict as error:
            if error.code not in _CAME_SECOND:
                raise
            raise await _explained(self, base, error) from error

    return changed


async def _newest(owner: _Changes) -> int:
    try:
        newest = await asyncio.to_thread(lambda: owner.store().latest())
    except PorticoError:
        return 0  # the change itself says what is wrong
    return newest.number if newest is not None else 0


async def _explained(owner: _Changes, base: int, error: Conflict) -> Conflict:
    deadline = time.monotonic() + EXPLAIN_SECONDS
    while time.monotonic() < deadline:
        store = await asyncio.to_thread(owner.store)
        newest = await asyncio.to_thread(store.latest)
        if newest is not None and newest.number > base:
            return await asyncio.to_thread(changed_since, store, base, newest)
        await asyncio.sleep(0.1)
    return error
