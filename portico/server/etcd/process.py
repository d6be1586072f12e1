"""A member of etcd as a child of the agent: `python -m portico.server.etcd.process CONTROL_FD | --connect PATH`.

This process holds the directory of etcd's data and starts etcd with what the agent says. Both end together, and with
their agent. It is the whole of a unit with an account of its own, `portico-store`; started by the agent itself (the
lab, machines without systemd) it has the agent's account without its capabilities.

The start's configuration: {"directory": path or null (the unit's), "data": name, "must_exist": bool, "keep": [names],
"files": {name: text}, "arguments": [texts]}; `{files}` and `{data}` in an argument are the directories.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from portico.connecting import connect, take_descriptors
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import private_directory, write_file
from portico.native_process import Channel, harden, hold, open_all_descriptors

STOP_SECONDS = 5.0
_NAME = re.compile(r"[0-9a-z][0-9a-z.-]{0,79}", flags=re.ASCII)
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"


def find_etcd() -> str:
    """The program. Raises NotFound (ETCD_MISSING)."""
    found = shutil.which("etcd", path=os.environ.get("PATH", "") + os.pathsep + _PATH)
    if found is None:
        raise NotFound(
            "etcd is not installed",
            why="there is no program etcd",
            resolution="Install it: apt-get install etcd-server; its own service is not needed: "
            "systemctl disable --now etcd",
            code="ETCD_MISSING",
        )
    return found


class Etcd:
    """One run of etcd.

    Args:
        ended: called from another thread with the reason when etcd ends by itself.
    """

    def __init__(self, config: Mapping[str, Any], ended: Any) -> None:
        directory = private_directory(Path(config["directory"] or _unit_directory()))
        data = directory / _checked(config["data"])
        if config["must_exist"] and not (data / "member" / "wal").is_dir():
            raise InvalidInput(
                "This server's copy of etcd's data is gone",
                why=f"{data} has no data, and it had some",
                resolution="It is made anew from the other members: portico cluster store rejoin",
                code="STORE_DATA_LOST",
            )
        keep = {_checked(name) for name in config["keep"]} | {data.name, "files"}
        for path in directory.iterdir():  # what is left of members that are none any more
            if path.name not in keep and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
        files = private_directory(directory / "files")
        for name, text in config["files"].items():
            write_file(files / _checked(name), text.encode())
        places = {"{files}": str(files), "{data}": str(data)}
        arguments = [_filled(str(text), places) for text in config["arguments"]]
        self._process = subprocess.Popen(
            [find_etcd(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=directory,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "ETCD_UNSUPPORTED_ARCH": ""},
            # Not through setpriv: that sets capabilities, which the units forbid. This process has no other thread yet.
            preexec_fn=harden,  # noqa: PLW1509
        )
        self._last = ""
        self._closing = False
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._watch, args=(self._process.stderr, ended), name="etcd")
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Ends etcd, which needs a moment to write what it has."""
        self._closing = True
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _watch(self, stream: IO[bytes], ended: Any) -> None:
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip()[:2000]
            said = _said(text)
            if said:
                self._last = said
                sys.stderr.write(f"etcd: {said}\n")
        code = self._process.wait()
        if not self._closing:
            ended(f"etcd ended with status {code}" + (f": {self._last}" if self._last else ""))


def _said(line: str) -> str:
    """What a line of etcd's log says; empty for what is no trouble."""
    try:
        fields = json.loads(line)
        if fields.get("level") not in ("error", "fatal", "panic"):
            return ""
        return f"{fields.get('msg', '')}: {fields.get('error', '')}".rstrip(": ")[:500]
    except (ValueError, AttributeError):
        return "" if " W | " in line or line.startswith(("WARNING:", "INFO:")) else line[:500]


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(name, value)
    return text


def _checked(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput("The control channel is broken", why=f"{name!r} is no name of a file")
    return name


def _unit_directory() -> str:
    found = os.environ.get("STATE_DIRECTORY", "")
    if not found:
        raise InvalidInput("etcd has no directory", why="STATE_DIRECTORY is not set; only its unit does")
    return found.split(":")[0]


def serve(channel: Channel, connection: socket.socket) -> None:
    """Starts etcd as the first line says, and ends it when the agent says so or is gone."""
    first = channel.receive()
    if first is None:
        return

    def ended(reason: str) -> None:
        channel.send(json.dumps({"event": "etcd_ended", "reason": reason}))
        connection.shutdown(socket.SHUT_RDWR)  # ends `receive` below

    try:
        if first.get("op") != "start":
            raise InvalidInput("The control channel is broken", why="the first line must be a start")
        etcd = Etcd(first["config"], ended)
    except (PorticoError, OSError, LookupError, TypeError, AttributeError) as error:
        channel.fail(first.get("id"), f"{error.code}: {error}" if isinstance(error, PorticoError) else str(error))
        return
    del first  # it holds a key
    try:
        channel.reply(0, {"pid": etcd.pid})
        while (message := channel.receive()) is not None:
            if message.get("op") == "status":
                channel.reply(message.get("id"), {"pid": etcd.pid})
                continue
            if message.get("op") == "close":
                etcd.close()
                channel.reply(message.get("id"), None)
                return
            channel.fail(message.get("id"), f"there is no operation {message.get('op')!r}")
    except (InvalidInput, OSError) as error:
        sys.stderr.write(f"{error}\n")
    finally:
        etcd.close()


def main(arguments: Sequence[str]) -> int:
    """Entry point, see `portico.native_process.main`."""
    inherited = len(arguments) == 1 and arguments[0].isdigit()
    if not inherited and (len(arguments) != 2 or arguments[0] != "--connect"):
        sys.stderr.write("This is started by Portico's agent, or by its unit: --connect PATH\n")
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lifeline: socket.socket | None = None  # it lives as long as this frame does
    try:
        harden(dies_with_parent=inherited)
        if inherited:
            connection = socket.socket(fileno=int(arguments[0]))
        else:
            open_all_descriptors()
            connection = connect(arguments[1])
            taken = take_descriptors(connection)
            if taken is None:
                return 0
            lifeline = socket.socket(fileno=taken[0])
            hold(lifeline)
        channel = Channel(connection)
    except (OSError, PorticoError) as error:
        sys.stderr.write(f"Cannot start: {error}\n")
        return 1
    try:
        serve(channel, connection)
    finally:
        channel.close()
        if lifeline is not None:
            lifeline.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
