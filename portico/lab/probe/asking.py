"""The program that asks: one UDP socket a client, each question at its time. Runs inside a host, steered by `Prober`.

    python -m portico.lab.probe.asking '{"target": [ADDRESS, PORT], "sources": [ADDRESS, ...], "interval": SECONDS}'

Commands come as lines on stdin, answers go as lines of JSON to stdout: `report`, `mark` (report and start anew). It
ends when stdin does.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from typing import Any

from portico.lab.probe import wire
from portico.lab.probe.core import Clients


class Asking:
    """All clients of one target.

    Client k of n asks k/n of an interval after client 0, so that questions come evenly.
    """

    def __init__(self, target: tuple[str, int], sources: list[str], interval: float) -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self.target = socket.getaddrinfo(*target, family, socket.SOCK_DGRAM)[0][4]
        self.selector = selectors.DefaultSelector()
        self.sockets = []
        for source in sources:
            client = socket.socket(family, socket.SOCK_DGRAM)
            client.setblocking(False)
            client.bind((source, 0))
            self.selector.register(client, selectors.EVENT_READ, client)
            self.sockets.append(client)
        self.step = interval / len(sources)
        self.slack = interval
        self.clients = Clients(len(sources), time.monotonic())
        self.not_sent = 0

    def run(self) -> None:
        """Asks until stdin ends."""
        commands = sys.stdin.fileno()
        os.set_blocking(commands, False)
        self.selector.register(commands, selectors.EVENT_READ, None)
        index, due = 0, time.monotonic()
        while True:
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                if key.data is not None:
                    self._hear(key.data)
                elif not self._obey(commands):
                    return
            now = time.monotonic()
            if now - due > self.slack:
                due = now  # late by a whole round: questions that were not asked in time are not made up for in a burst
            while due <= now:
                self._ask(index)
                index = (index + 1) % len(self.sockets)
                due += self.step

    def _ask(self, index: int) -> None:
        number = self.clients.ask(index, time.monotonic())
        try:
            self.sockets[index].sendto(wire.question(index, number), self.target)
        except OSError:
            self.not_sent += 1  # no route, no buffer: the client hears nothing, which is what is measured

    def _hear(self, client: socket.socket) -> None:
        while True:
            try:
                data, sender = client.recvfrom(2048)
            except OSError:
                return
            found = wire.echo(data)
            if found is not None and sender[:2] == self.target[:2]:
                self.clients.answer(found.client, found.number, found.tag, time.monotonic())

    def _obey(self, commands: int) -> bool:
        """Answers the commands that are there; False when no more will come."""
        data = os.read(commands, 4096)
        for word in data.decode().split():
            now = time.monotonic()
            report: dict[str, Any] = {**self.clients.report(now), "not_sent": self.not_sent}
            if word == "mark":
                self.clients.mark(now)
                self.not_sent = 0
            print(json.dumps(report), flush=True)
        return bool(data)


def main() -> None:
    config = json.loads(sys.argv[1])
    asking = Asking(tuple(config["target"]), config["sources"], config["interval"])
    print(json.dumps({"clients": len(asking.sockets)}), flush=True)
    asking.run()


if __name__ == "__main__":
    main()
