"""The parent's half of a native child process: have one without privileges, talk to it, keep it running.

A child holds the packet path. It gets its descriptors and its configuration (with secrets) from the parent over one
socket and nothing else: no capability, no supplementary group, no way to gain either, no environment beyond what the
interpreter needs (`portico.spawned` and `portico.connected` say how). The parent keeps every descriptor open, so that a
child that dies leaves listening sockets and TUN devices behind for its successor, and peers that redial wait in the
backlog instead of being refused.

The channel carries one JSON object a line, at most `MAX_LINE` bytes. Parent: `{"id": n, "op": name, ...}`; child:
`{"id": n, "ok": true, "result": ...}`, `{"id": n, "ok": false, "error": text}` and `{"event": name, ...}`. The first
line starts the child: `{"id": 0, "op": "start", "config": {...}, "fds": {name: [numbers]}}`. The answer to it may say
how many descriptors the child may open: `{"descriptors": n}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from portico.child import Begun, Child, Program, Source, Start
from portico.errors import LimitReached, PorticoError, Unavailable
from portico.spawned import Spawner

__all__ = ["TRANSITIONS", "ChildError", "ChildState", "Program", "Start", "Supervisor", "restart_delay"]

log = logging.getLogger("portico.supervisor")

MAX_LINE = 4 * 1024 * 1024
"""Bytes in one line of the channel, both ways."""

MAX_PENDING = 1024
"""Requests that may wait for a child's answer at one time."""

SETTLED = 10.0
"""Seconds after which a life counts as a success and the back-off starts over."""

_FREE_RESTARTS = 2
_LONGEST_WAIT = 30.0


class ChildState(StrEnum):
    """Where a supervised child is. The only transitions are those in `TRANSITIONS`."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """Dead; the next start waits for the back-off."""
    STOPPING = "stopping"


TRANSITIONS: Mapping[ChildState, frozenset[ChildState]] = {
    ChildState.STOPPED: frozenset({ChildState.STARTING, ChildState.STOPPED}),
    ChildState.STARTING: frozenset({ChildState.RUNNING, ChildState.WAITING, ChildState.STOPPING}),
    ChildState.RUNNING: frozenset({ChildState.WAITING, ChildState.STOPPING}),
    ChildState.WAITING: frozenset({ChildState.STARTING, ChildState.STOPPING}),
    ChildState.STOPPING: frozenset({ChildState.STOPPED}),
}


class ChildError(PorticoError):
    """The child refused a request; its own words are the cause."""

    code = "CHILD_REFUSED"


def restart_delay(short_lives: int) -> float:
    """Seconds to wait before the next start after so many lives in a row shorter than `SETTLED`.

    The first two restarts are immediate; then 0.5 s, doubling, up to 30 s.
    """
    if short_lives <= _FREE_RESTARTS:
        return 0.0
    exponent = min(short_lives - _FREE_RESTARTS - 1, 16)  # 16 doublings are far past the ceiling
    return min(0.5 * 2.0**exponent, _LONGEST_WAIT)


class Supervisor:
    """Keeps one child running.

    Args:
        program: what it is.
        prepare: called before every start for the current configuration and descriptors.
        on_event: called with every event of the child, in order. Must not block.
        on_change: called after every change of state with the new state and its reason.
        source: where children come from; None starts them.
    """

    def __init__(
        self,
        program: Program,
        prepare: Callable[[], Start],
        on_event: Callable[[dict[str, Any]], None],
        on_change: Callable[[ChildState, str], None] | None = None,
        source: Source | None = None,
    ) -> None:
        self.program = program
        self.state = ChildState.STOPPED
        self.reason = ""
        self.restarts = 0
        self.failures = 0
        """Lives in a row that were shorter than `SETTLED`."""
        self.last_failure = ""
        self.started_at: float | None = None
        """Seconds since the epoch at which the running child became ready."""
        self._source: Source = Spawner() if source is None else source
        self._prepare = prepare
        self._on_event = on_event
        self._on_change = on_change
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 1
        self._writer: asyncio.StreamWriter | None = None
        self._process: Child | None = None
        self._began = 0.0
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the living child."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    def status(self) -> dict[str, Any]:
        """State, its reason, unit, process id, restarts, and since when the child that runs does (None: none does)."""
        return {
            "state": self.state.value,
            "reason": self.reason,
            "unit": self._source.unit,
            "pid": self.pid,
            "restarts": self.restarts,
            "since": self.started_at if self.state is ChildState.RUNNING else None,
        }

    def start(self) -> None:
        """Begins supervising, or ends a back-off. Does not wait; see `wait_ready`."""
        if self._task is None or self._task.done():
            self._stop.clear()
            self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.program.name}")
        elif self.state is ChildState.WAITING:
            self.failures = 0
            self._hurry.set()

    async def wait_ready(self, timeout: float) -> None:  # noqa: ASYNC109 - the deadline belongs to the message
        """Waits until a child has answered its start.

        Raises:
            Unavailable: it has not within `timeout` seconds, or has failed so often in a row that the back-off has
                begun; the message carries the last failure.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not self._ready.is_set():
            if asyncio.get_running_loop().time() >= deadline or self.failures > _FREE_RESTARTS:
                raise Unavailable(
                    f"The {self.program.name} process does not start",
                    why=self.reason or self.last_failure or f"no answer within {timeout:g} s",
                    resolution="Its own messages are in the journal: journalctl -u 'portico-*'",
                )
            await asyncio.sleep(0.005)

    async def wait_ended(self, timeout: float) -> None:  # noqa: ASYNC109
        """Waits until the running child is gone, as after `kill`.

        Raises:
            Unavailable: it is still there after `timeout` seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while self.state is ChildState.RUNNING:
            if asyncio.get_running_loop().time() >= deadline:
                raise Unavailable(f"The {self.program.name} process does not end", why=f"not within {timeout:g} s")
            await asyncio.sleep(0.005)

    async def request(self, op: str, *, timeout: float = 10.0, **fields: Any) -> Any:  # noqa: ASYNC109
        """Sends one operation and returns its result.

        Raises:
            Unavailable: no child is running, or it died or did not answer in time.
            ChildError: the child refused.
            LimitReached: too many requests wait already, or the request is larger than the channel takes.
        """
        if self.state is not ChildState.RUNNING:
            raise self._not_running(op)
        return await self._exchange(op, timeout, fields)

    async def stop(self) -> None:
        """Ends the child (asks, then SIGTERM, then SIGKILL) and stops supervising."""
        self._stop.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def kill(self, reason: str) -> None:
        """Kills the child at once; its successor starts as after any death."""
        process = self._process
        if process is not None and process.alive:
            log.warning("killing child=%s pid=%d reason=%r", self.program.name, process.pid, reason)
            process.kill()

    def _not_running(self, op: str) -> Unavailable:
        return Unavailable(
            f"The {self.program.name} process cannot do {op}",
            why=f"it is {self.state.value}" + (f" ({self.reason})" if self.reason else ""),
            resolution="It is restarted by itself; try again in a moment",
        )

    def _change(self, state: ChildState, reason: str = "") -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.program.name}: {self.state} -> {state} is no transition")
        self.state, self.reason = state, reason
        if state is ChildState.RUNNING:
            self._ready.set()
        else:
            self._ready.clear()
        if self._on_change is not None:
            self._on_change(state, reason)

    async def _supervise(self) -> None:
        self.failures = 0
        while not self._stop.is_set():
            self._change(ChildState.STARTING, self._source.awaited)
            reason = await self._live()
            if self._stop.is_set():
                break
            self.failures = 0 if time.monotonic() - self._began >= SETTLED else self.failures + 1
            self.last_failure = reason
            delay = restart_delay(self.failures)
            log.error("child=%s died reason=%r restart_in=%g", self.program.name, reason, delay)
            self.restarts += 1
            self._change(ChildState.WAITING, reason)
            waits = [asyncio.create_task(event.wait()) for event in (self._stop, self._hurry)]
            await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._hurry.is_set():
                self._hurry.clear()
        if self.state is not ChildState.STOPPING:
            self._change(ChildState.STOPPING)
        self._change(ChildState.STOPPED)

    async def _live(self) -> str:
        """One life of the child; returns why it ended."""
        stopping = asyncio.create_task(self._stop.wait())
        available = asyncio.create_task(self._source.available(), name=f"await {self.program.name}")
        try:
            await asyncio.wait({available, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self._began = time.monotonic()
            if stopping.done():
                return "stopped"
            # Only now: what was prepared for a child that comes later would be old.
            available.result()
            self.reason = ""
            start = self._prepare()
            begun = await self._source.begin(self.program, start)
        except (PorticoError, OSError) as error:
            return str(error)
        except Exception as error:  # preparing failed in a way nobody foresaw: later attempts may still succeed
            log.exception("child=%s cannot be prepared", self.program.name)
            return f"{type(error).__name__}: {error}"
        finally:
            for task in (available, stopping):
                task.cancel()
            await asyncio.gather(available, stopping, return_exceptions=True)
        try:
            return await self._accompany(begun, start)
        except OSError as error:
            return str(error)

    async def _accompany(self, begun: Begun, start: Start) -> str:
        """The life of a child that is there; returns why it ended."""
        process = self._process = begun.child
        try:
            reader, self._writer = await asyncio.open_connection(sock=begun.channel, limit=MAX_LINE)
        except BaseException:  # no descriptor is left, for example: nobody else would end it
            process.kill()
            await process.reap()
            self._process = None
            raise
        read = asyncio.create_task(self._read(reader), name=f"read {self.program.name}")
        ended = asyncio.create_task(process.ended(), name=f"wait {self.program.name}")
        stopping = asyncio.create_task(self._stop.wait())
        alive = asyncio.create_task(self._keep_alive(begun, start), name=f"start {self.program.name}")
        try:
            done, _ = await asyncio.wait({ended, stopping, alive, read}, return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                self._change(ChildState.STOPPING)
                await self._end(process)
                return "stopped"
            # A child that closed its channel ends by itself a moment later; its own exit status says more.
            if ended not in done:
                await asyncio.wait({ended}, timeout=0.0 if alive in done else 1.0)
            if ended.done() and (status := process.status()):
                return status
            if alive in done:
                return alive.result()
            return "it ended" if ended.done() else (read.result() or "it closed its channel and did not end")
        finally:
            if process.alive:
                process.kill()
            await process.reap()
            for task in (read, ended, stopping, alive):
                task.cancel()
            await asyncio.gather(read, ended, stopping, alive, return_exceptions=True)
            self._close_channel()
            self._process = None

    async def _keep_alive(self, begun: Begun, start: Start) -> str:
        """Starts the child over the channel, then asks for a sign of life for ever; returns what went wrong."""
        fds = {name: list(numbers) for name, numbers in begun.fds.items()}
        try:
            answer = await self._exchange(
                "start", self.program.start_timeout, {"config": start.config, "fds": fds}, identifier=0
            )
        except PorticoError as error:
            return error.why or str(error)
        self._compare_descriptors(start.descriptors, answer)
        self.started_at = time.time()
        self._change(ChildState.RUNNING)
        while True:
            await asyncio.sleep(self.program.heartbeat_interval)
            if self.program.heartbeat is None:
                continue
            try:
                await self._exchange(self.program.heartbeat, self.program.heartbeat_timeout, {})
            except ChildError:
                continue  # a refusal is a sign of life
            except PorticoError as error:
                return f"no sign of life: {error.why}"

    def _compare_descriptors(self, wanted: int, answer: Any) -> None:
        allowed = answer.get("descriptors") if isinstance(answer, dict) else None
        if isinstance(allowed, int) and allowed < wanted:
            log.error(
                "child=%s may open %d descriptors and needs up to %d: connections beyond wait until others end; "
                "raise LimitNOFILE of its unit",
                self.program.name,
                allowed,
                wanted,
            )

    async def _exchange(
        self,
        op: str,
        timeout: float,  # noqa: ASYNC109
        fields: Mapping[str, Any],
        identifier: int | None = None,
    ) -> Any:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise self._not_running(op)
        if len(self._pending) >= MAX_PENDING:
            raise LimitReached(f"The {self.program.name} process is busy", why=f"{MAX_PENDING} requests are waiting")
        if identifier is None:
            identifier, self._next_id = self._next_id, self._next_id + 1
        line = json.dumps({"id": identifier, "op": op, **fields}, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise LimitReached(
                f"The {self.program.name} process cannot do {op}", why=f"the request has {len(line)} bytes"
            )
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[identifier] = answer
        try:
            async with asyncio.timeout(timeout):
                writer.write(line)
                await writer.drain()
                return await answer
        except TimeoutError:
            raise Unavailable(
                f"The {self.program.name} process does not answer",
                why=f"no answer to {op} within {timeout:g} s",
                resolution="It is killed and restarted when it stays silent",
            ) from None
        except OSError:
            raise self._not_running(op) from None
        finally:
            self._pending.pop(identifier, None)

    async def _read(self, reader: asyncio.StreamReader) -> str:
        """Takes lines until the channel ends; returns why it is of no more use."""
        while True:
            try:
                line = await reader.readuntil(b"\n")
                message = json.loads(line)
            except asyncio.IncompleteReadError:
                return "it closed its channel"
            except (asyncio.LimitOverrunError, ValueError, RecursionError, OSError) as error:
                return f"it broke the channel: {error}"
            if not isinstance(message, dict):
                return "it broke the channel: a line is not an object"
            if "event" in message:
                self._dispatch(message)
            else:
                self._answered(message)

    def _dispatch(self, message: dict[str, Any]) -> None:
        try:
            self._on_event(message)
        except Exception:  # one bad event must not end the channel
            log.exception("child=%s event=%r was not handled", self.program.name, message.get("event"))

    def _answered(self, message: dict[str, Any]) -> None:
        answer = self._pending.get(message.get("id", -1))
        if answer is None or answer.done():
            return
        if message.get("ok") is True:
            answer.set_result(message.get("result"))
        else:
            answer.set_exception(
                ChildError(f"The {self.program.name} process refused", why=str(message.get("error", "no reason given")))
            )

    async def _end(self, process: Child) -> None:
        try:
            await self._exchange("close", self.program.stop_timeout, {})
            await asyncio.wait_for(process.ended(), self.program.stop_timeout)
        except (PorticoError, TimeoutError):
            if process.alive:
                process.terminate()
            try:
                await asyncio.wait_for(process.ended(), self.program.stop_timeout)
            except TimeoutError:
                process.kill()

    def _close_channel(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"The {self.program.name} process died", why="before it answered"))
                answer.exception()  # nobody may be waiting any more
        self._pending.clear()
