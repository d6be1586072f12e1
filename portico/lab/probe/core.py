"""The bookkeeping: how long each client heard nothing, and which questions more than one server answered.

Sans-IO: who asks and who listens hands in what happened and when (seconds on any clock that does not jump).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW = 1024
"""Questions of one client whose answers are told apart; an answer to an older one is only counted as late."""

MAX_KEYS = 200_000
"""Questions and connections whose servers are remembered; the oldest are forgotten, and counted."""

MAX_EXAMPLES = 20


@dataclass
class Client:
    """One client since the last mark.

    Attributes:
        asked, answered: questions, and those that got an answer.
        duplicates: further answers to a question that had one.
        late: answers to questions too old to tell whether they had one.
        silence: the longest time without an answer, seconds.
        stall: the longest time without a question, seconds: how much of `silence` may be the prober's own doing.
    """

    asked: int = 0
    answered: int = 0
    duplicates: int = 0
    late: int = 0
    silence: float = 0.0
    stall: float = 0.0


@dataclass
class _Course:
    """Where a client stands: its next number, the answers to the latest ones, and when it last asked and heard."""

    next: int = 0
    answered: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    last_asked: float | None = None
    last_heard: float = 0.0


class Clients:
    """What happened to each of `count` clients.

    Args:
        count: clients, numbered from 0.
        now: when measuring starts.
    """

    def __init__(self, count: int, now: float) -> None:
        self._courses = [_Course() for _ in range(count)]
        self.mark(now)

    def mark(self, now: float) -> None:
        """Starts measuring anew; questions under way stay known."""
        self._clients = [Client() for _ in self._courses]
        self.doubles = 0
        for course in self._courses:
            course.last_heard = now
            course.last_asked = None

    def ask(self, client: int, now: float) -> int:
        """A question is sent; returns its number."""
        course, figures = self._courses[client], self._clients[client]
        if course.last_asked is not None:
            figures.stall = max(figures.stall, now - course.last_asked)
        course.last_asked = now
        figures.asked += 1
        number = course.next
        course.next += 1
        return number

    def answer(self, client: int, number: int, tag: bytes, now: float) -> None:
        """An echo came back; one that nobody asked for is not counted.

        Args:
            tag: what the server put behind the question; two answers with different tags are from two servers.
        """
        if not 0 <= client < len(self._courses):
            return
        course, figures = self._courses[client], self._clients[client]
        if not 0 <= number < course.next:
            return
        figures.silence = max(figures.silence, now - course.last_heard)
        course.last_heard = now
        if number < course.next - WINDOW:
            figures.late += 1
        elif number in course.answered:
            figures.duplicates += 1
            self.doubles += course.answered[number] != tag
        else:
            figures.answered += 1
            course.answered[number] = tag
            while len(course.answered) > WINDOW:
                course.answered.popitem(last=False)

    def report(self, now: float) -> dict[str, Any]:
        """Everything since the last mark; silence counts up to `now`.

        Returns:
            clients: one `Client` each, as a dictionary; doubles: questions answered with two tags.
        """
        return {
            "doubles": self.doubles,
            "clients": [
                {**asdict(figures), "silence": max(figures.silence, now - course.last_heard)}
                for figures, course in zip(self._clients, self._courses, strict=True)
            ],
        }


class Answers:
    """Which server answered what, as seen on the switch.

    Attributes:
        doubles: questions (datagrams, connection attempts) that a second server answered, and connections in which a
            server went on after another one had taken over.
        twice: of these the questions: datagrams and connection attempts.
        repeats: answers the same server gave again, as a retransmission does.
        moved: connections that another server took over, with a reset for example.
        by_server: answers of each server.
        forgotten: questions and connections no longer remembered.
        examples: the first doubles, as (question, servers).
    """

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        self._questions: OrderedDict[Hashable, set[str]] = OrderedDict()
        self._flows: OrderedDict[Hashable, list[str]] = OrderedDict()
        self.doubles = self.twice = self.repeats = self.moved = self.forgotten = 0
        self.by_server: dict[str, int] = {}
        self.examples: list[tuple[Hashable, list[str]]] = []

    def answered(self, question: Hashable, server: str) -> None:
        """A server answered a question that exactly one should answer."""
        self.by_server[server] = self.by_server.get(server, 0) + 1
        servers = self._questions.setdefault(question, set())
        if server in servers:
            self.repeats += 1
        else:
            servers.add(server)
            if len(servers) > 1:
                self.twice += 1
                self._double(question, sorted(servers))
        self._forget(self._questions)

    def began(self, flow: Hashable, server: str) -> None:
        """A server accepted a connection."""
        self._flows[flow] = [server]
        self._flows.move_to_end(flow)
        self._forget(self._flows)

    def spoke(self, flow: Hashable, server: str) -> None:
        """A server sent something in a connection. One after the other is a hand-over; back again is two owners."""
        servers = self._flows.setdefault(flow, [server])
        if servers[-1] == server:
            self._forget(self._flows)
            return
        if server in servers:
            self._double(flow, servers)
            servers.remove(server)
        else:
            self.moved += 1
        servers.append(server)

    def _double(self, what: Hashable, servers: list[str]) -> None:
        self.doubles += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append((what, list(servers)))

    def _forget(self, table: OrderedDict[Hashable, Any]) -> None:
        while len(table) > self._limit:
            table.popitem(last=False)
            self.forgotten += 1
