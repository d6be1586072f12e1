"""Stands where the gateway stands, for tests of the agent: speaks the channel, carries nothing."""

import json
import os
import socket
import sys


def main() -> None:
    lines = socket.socket(fileno=int(sys.argv[1])).makefile("rwb")
    sessions: list[dict[str, object]] = []

    def say(message: dict[str, object]) -> None:
        lines.write(json.dumps(message).encode() + b"\n")
        lines.flush()

    for line in lines:
        message = json.loads(line)
        op, number = message["op"], message["id"]
        result: object = None
        if op in ("start", "configure"):
            config = message["config"]
            if config["nat64"] and config["nat64"]["tcp_established"] == 7201:
                say({"id": number, "ok": False, "error": "nat64.tcp_established: 7201 is unlucky"})
                continue
            revoked = {entry["serial"] for entry in config["revoked"]}
            sessions = [s for s in sessions if s["identity"]["serial"] not in revoked]  # type: ignore[index]
            if op == "start":
                (handover_fd,) = message["fds"]["handover"]
                for fds in message["fds"].values():
                    for fd in fds:
                        os.fstat(fd)
        elif op == "sessions":
            result = sessions
        elif op == "connect":
            sessions.append(message["session"])
        elif op == "disconnect":
            before = len(sessions)
            sessions = [s for s in sessions if s["session"] not in message["sessions"]]
            result = before - len(sessions)
        elif op == "stats":
            result = {"uid": os.getuid()}
        elif op == "dns_sockets":
            handover = socket.socket(fileno=os.dup(handover_fd))
            token, given, _, _ = socket.recv_fds(handover, 64, 16)
            result = {"token": token.decode() == message["token"], "fds": len(given), "udp": message["udp"]}
            for fd in given:
                os.close(fd)
            handover.close()
        elif op == "hand_up":
            say({"event": "request", "at": 0, **message["request"]})
        elif op == "answer":
            say({"event": "warning", "code": "answered", "text": json.dumps(message)})
        say({"id": number, "ok": True, "result": result})
        if op == "close":
            return


if __name__ == "__main__":
    main()
