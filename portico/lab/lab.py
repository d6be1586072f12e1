"""A lab as a whole: make it, find it again, break it, take it away."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted
from portico.lab import faults, links, state, switch, wait
from portico.lab.hosts import CODE, PYTHON, Host
from portico.lab.links import SWITCH
from portico.lab.services import START
from portico.lab.state import NETNS, LabState
from portico.lab.topology import MAX_CLIENTS, MAX_SERVERS, Switch, Topology, build
from portico.lab.topology import Host as Computer

Step = Callable[[str], AbstractContextManager[object]]
"""Announces a step of something longer."""

PROGRAMS = ("ip", "bridge", "nsenter", "nft", "named", "nginx", "dig", "curl", "ping", "openssl", "tcpdump")

_FORWARDING = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    # A router that is the only way on purpose must not tell hosts of a shorter one.
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}
_ANY_SOURCE = {"net.ipv6.ip_nonlocal_bind": 1}


class Lab:
    """A running lab.

    Attributes:
        state: what is on disk about it.
    """

    def __init__(self, lab_state: LabState) -> None:
        self.state = lab_state

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def topology(self) -> Topology:
        """What it was built from."""
        return self.state.topology

    @classmethod
    def open(cls, name: str) -> Lab:
        """A lab that runs already.

        Raises:
            NotFound: there is none of that name.
        """
        return cls(state.load(name))

    @classmethod
    def create(cls, name: str, topology: Topology | None = None, *, step: Step | None = None) -> Lab:
        """Starts every host and what it runs, without Portico.

        Args:
            topology: what to build; one server and one client when left away.

        Raises:
            Conflict: a lab of that name is there already.
            InvalidInput: the name cannot be.
            NotPermitted: not root.
            LabFailure, NeverHappened: something does not start; what was started is left for a look.
        """
        state.checked_name(name)
        check_prerequisites()
        if (state.RUNTIME / name).exists():
            raise Conflict(
                f"The lab {name} exists already",
                resolution=f"Look at it: portico lab status --name {name}; remove it: portico lab down --name {name}",
            )
        step = step or (lambda _text: nullcontext())
        lab = cls(LabState(name, topology or build()))
        lab.state.save()
        lab.state.mount_disks()
        lab._write_commands()
        with step("Hosts and cables"):
            Host(lab.state, SWITCH).boot({})
            links.build_switch(lab.state, lab.topology)
            switch.prune(lab.state, lab.topology)
            for computer in lab.topology.hosts:
                lab._boot(computer)
        for computer in lab.topology.hosts:
            for service in computer.services:
                with step(f"{service.replace('_', ' ')} on {computer.name}"):
                    START[service](lab.host(computer.name), lab.topology)
        lab.state.complete = True
        lab.state.save()
        return lab

    def host(self, name: str) -> Host:
        """A host by its name.

        Raises:
            NotFound: the lab has none of that name.
        """
        if name != SWITCH:
            try:
                self.topology.host(name)
            except LookupError as error:
                raise NotFound(f"The lab {self.name} has {error}") from None
        return Host(self.state, name)

    def hosts(self) -> list[Host]:
        return [Host(self.state, computer.name) for computer in self.topology.hosts]

    def kill(self, name: str) -> None:
        """A power cut: the cables go first, so that no process of the host can say goodbye."""
        host = self.host(name)
        if name == SWITCH:
            raise InvalidInput("The switch cannot be killed", resolution="Kill a host, or cut its cables")
        links.unplug(self.state, self.topology.host(name))
        host.power_off()

    def restart(self, name: str) -> None:
        """Starts a host anew (after a power cut, if it still runs): its disk survives, everything else is gone."""
        if self.host(name).alive:
            self.kill(name)
        host = self._boot(self.topology.host(name))
        host.start_remembered()

    def freeze(self, name: str) -> int:
        """Stops every process of a host while its kernel goes on; returns how many.

        Its kernel still answers ARP and pings and acknowledges what arrives, as that of a host whose processes hang.
        """
        return faults.freeze(self.host(name))

    def thaw(self, name: str) -> int:
        """Lets the processes of a frozen host go on; returns how many."""
        return faults.thaw(self.host(name))

    def cut(self, name: str, interface: str) -> None:
        """Pulls a cable."""
        self._cable(name, interface)
        links.cut(self.state, name, interface)
        self.state.cut = sorted({*self.state.cut, f"{name}/{interface}"})
        self.state.save()

    def heal(self, name: str, interface: str) -> None:
        """Plugs it in again."""
        self._cable(name, interface)
        links.heal(self.state, name, interface)
        self.state.cut = [cable for cable in self.state.cut if cable != f"{name}/{interface}"]
        self.state.save()

    def _cable(self, name: str, interface: str) -> None:
        self.host(name)
        cards = [card.name for card in self.topology.host(name).interfaces]
        if interface not in cards:
            raise NotFound(f"The host {name} has no interface {interface}", why=f"it has {', '.join(cards)}")

    def _boot(self, computer: Computer) -> Host:
        host = Host(self.state, computer.name)
        host.boot({**(_FORWARDING if computer.forwarding else {}), **(_ANY_SOURCE if computer.owns else {})})
        if not (host.disk / "etc/.lab").exists():
            host.write("/etc/resolv.conf", "".join(f"nameserver {address}\n" for address in computer.nameservers))
            names = f"127.0.0.1 localhost {computer.name}\n::1 localhost ip6-localhost\n"
            host.write("/etc/hosts", names)
            host.write("/etc/.lab", f"{self.name}\n")
        links.plug_in(self.state, computer)
        if computer.masquerade is not None:
            links.masquerade(host, computer.masquerade)
        if computer.strict:
            links.refuse_multicast_neighbours(host)
        return host

    def _write_commands(self) -> None:
        """`portico` inside the hosts is the code this lab was started from."""
        directory = self.state.runtime / "bin"
        directory.mkdir(mode=0o755, exist_ok=True)
        command = directory / "portico"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={CODE} exec {PYTHON} -m portico "$@"\n')
        command.chmod(0o755)


def check_prerequisites() -> None:
    """Refuses early what cannot work.

    Raises:
        NotPermitted: not root.
        NotFound: a program is missing.
    """
    if os.geteuid() != 0:
        raise NotPermitted(
            "The lab cannot be started",
            why="network namespaces need root",
            resolution=f"Run it with sudo: sudo {shlex.join([sys.executable, '-m', 'portico', *sys.argv[1:]])}",
        )
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        raise NotFound(
            "The lab cannot be started",
            why=f"not installed: {', '.join(missing)}",
            resolution="`make up` installs what is missing; the list is requirements/debian.txt",
        )


def destroy(name: str) -> bool:
    """Removes a lab with everything it made, whole or half made; returns whether there was anything.

    Processes are found by the command line of the hosts' first processes, which names this lab's files; nothing else is
    ended.
    """
    state.checked_name(name)
    found = False
    for pid in _first_processes(name):
        found = True
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        wait.until(f"process {pid} to end", lambda pid=pid: state.start_time(pid) is None, interval=0.01)  # type: ignore[misc]
    empty = LabState(name)
    for host in _names_of_hosts(name):
        found = found or (NETNS / empty.netns(host)).exists()
        Host(empty, host).unname_network()
    found = found or name in state.names()
    state.remove_files(name)
    return found


def _names_of_hosts(name: str) -> set[str]:
    """Every host the lab may have: what left files, and what the largest lab has, should the files be gone."""
    largest = build(MAX_SERVERS, MAX_CLIENTS, switch=Switch.PRUNING)
    found = {SWITCH, *(computer.name for computer in largest.hosts)}
    found.update(path.stem for path in (state.RUNTIME / name).glob("*.json") if path.stem != "lab")
    found.update(path.name for path in (state.DISKS / name).glob("*"))
    return found


def _first_processes(name: str) -> list[int]:
    """First processes of this lab's hosts, by the specification file they were started with."""
    specifications = str(state.RUNTIME / name) + "/"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        words = [argument.decode(errors="replace") for argument in arguments]
        if any(word.endswith("portico/lab/init.py") for word in words[:5]) and any(
            word.startswith(specifications) for word in words[:6]
        ):
            found.append(int(entry.name))
    return found


def interfaces_of(lab: Lab) -> str:
    """All interfaces of all hosts, for people who look for something."""
    parts = []
    for host in lab.hosts():
        if host.alive:
            listing = subprocess.run(
                ["ip", "-brief", "-n", lab.state.netns(host.name), "addr"], capture_output=True, text=True, check=False
            )
            parts.append(f"{host.name}:\n{listing.stdout}")
    return "\n".join(parts)
