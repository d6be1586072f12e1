"""A child for the supervisor's tests: speaks the channel with the standard library only."""

import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from portico.errors import PorticoError


def connected() -> tuple[socket.socket, list[int], socket.socket]:
    """As a child under a unit does it: with the product's own code."""
    from portico import connecting, native_process

    channel = connecting.connect(sys.argv[2], 10.0)
    try:
        taken = connecting.take_descriptors(channel)
    except PorticoError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(4)
    if taken is None:
        sys.exit(0)
    lifeline = socket.socket(fileno=taken[0])
    native_process.hold(lifeline)
    return channel, taken[1:], lifeline


def main() -> None:
    if sys.argv[1] == "--connect":
        channel, received, _lifeline = connected()
    else:
        channel, received = socket.socket(fileno=int(sys.argv[1])), []
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
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            say({"id": number, "ok": True, "result": {"descriptors": config.get("descriptors", limit)}})
            if received:
                files = [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in received]
                say({"event": "received", "names": {name: [files[n] for n in fds[name]] for name in fds}})
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
        elif op == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif op == "hang":
            time.sleep(60)


if __name__ == "__main__":
    main()
