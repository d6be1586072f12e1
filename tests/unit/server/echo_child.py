"""A child for the supervisor's tests: speaks the channel with the standard library only."""

import json
import os
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    lines = channel.makefile("rwb")

    def say(message: dict[str, object]) -> None:
        lines.write(json.dumps(message).encode() + b"\n")
        lines.flush()

    for line in lines:
        message = json.loads(line)
        op, number = message["op"], message["id"]
        if op == "start":
            config = message["config"]
            if "refuse" in config:
                say({"id": number, "ok": False, "error": config["refuse"]})
                return
            if config.get("die"):
                sys.exit(3)
            fds = message["fds"]
            say({"id": number, "ok": True, "result": None})
            say({"event": "started", "fds": fds, "open": sorted(int(n.name) for n in Path("/proc/self/fd").iterdir())})
        elif op == "close":
            say({"id": number, "ok": True, "result": None})
            return
        elif op == "echo":
            say({"id": number, "ok": True, "result": message["text"]})
        elif op == "status":
            with Path("/proc/self/status").open() as status:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
            say({"id": number, "ok": True, "result": {**fields, "environment": sorted(os.environ)}})
        elif op == "refuse":
            say({"id": number, "ok": False, "error": "not today"})
        elif op == "garbage":
            lines.write(b"\xff{nonsense\n")
            lines.flush()
        elif op == "hang":
            time.sleep(60)


if __name__ == "__main__":
    main()
