"""Everything that goes on at the same time during a soak. Each actor is a thread; what it meets goes into the diary."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmarks.deployment import APP4_THROUGH_NAT64, APP6, IN_TUNNEL, SERVER, SOURCES, TARGET, Deployment, flat
from portico.errors import PorticoError
from portico.lab.deployment import settings
from portico.lab.hosts import LabFailure
from tests.peers.crowd import Crowd, CrowdFailed, Responder

PORT = 9000
GARBAGE_PER_SECOND = 20
DNS64_ADDRESS = "fd7c:1a2b:3c4d:3333::1"
CACHED_NAMES = 70_000
"""More than DNS64 keeps: its cache is full before memory is looked at."""
ASKERS = 4


@dataclass
class Diary:
    """What happened, and which losses of tunnels it explains."""

    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    unexplained: Counter[str] = field(default_factory=Counter)
    explained: int = 0
    """Tunnels lost by waves: the server was told to close them."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, count: int = 1, **details: Any) -> None:
        with self._lock:
            self.done[what] += count
            if details:
                self.events.append({"at": time.time(), "what": what, **details})

    def problem(self, text: str) -> None:
        print(f"  ! {text}", flush=True)
        with self._lock:
            self.problems.append(text)


@dataclass
class Size:
    """How much of everything."""

    clients: int = 1000
    busy: int = 40
    churn_per_second: float = 5.0
    wave_seconds: float = 120.0
    revocation_seconds: float = 60.0
    settings_seconds: float = 30.0


class Load:
    """Starts everything in `with`, ends it in order."""

    def __init__(self, place: Deployment, size: Size, diary: Diary) -> None:
        self.place, self.size, self.diary = place, size, diary
        self.stop = threading.Event()
        self.wave = threading.Lock()
        """Held while tunnels are closed on purpose: a look at losses has to wait."""
        self.crowds: dict[str, Crowd] = {}
        self._known: dict[str, Counter[str]] = {}
        """Losses of each crowd that are booked already."""
        self._threads: list[threading.Thread] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._fill_cache()
            self._start_crowds(stack)
            actors = (
                self._bulk, self._dns, self._garbage, self._waves, self._churn, self._revocations, self._settings,
            )  # fmt: skip
            for actor in actors:
                thread = threading.Thread(target=self._act, args=(actor,), name=actor.__name__, daemon=True)
                thread.start()
                self._threads.append(thread)
            try:
                yield
            finally:
                self.stop.set()
                for thread in self._threads:
                    thread.join(60.0)
                self.account()

    def _fill_cache(self) -> None:
        """Asks for so many names that DNS64's cache is as large as it ever becomes.

        Raises:
            RuntimeError: it is not.
        """
        client = self.place.lab.host("client1")
        share = CACHED_NAMES // ASKERS
        self._apply({**settings("da1"), "dns64": {**settings("da1")["dns64"], "queries_per_second_per_client": 0}})

        def ask(number: int) -> None:
            file = f"/var/cache/names-{number}"
            client.write(file, "".join(f"full-{number}-{name}.corp.example.net AAAA\n" for name in range(share)), 0o600)
            client.run("dig", "+noall", "+tries=2", "+time=3", f"@{DNS64_ADDRESS}", "-f", file, timeout=600.0)

        with ThreadPoolExecutor(ASKERS) as pool:
            list(pool.map(ask, range(ASKERS)))
        with self.place.api() as api:
            counters = flat(api.get("/v1/status")["counters"])
        entries, evicted = (counters[f"dns64.cache_{what}"] for what in ("entries", "evicted"))
        print(f"  DNS64's cache holds {entries} answers, {evicted} had to go", flush=True)
        if not evicted:
            raise RuntimeError(f"DNS64's cache did not fill up: {entries} answers after {CACHED_NAMES} names")

    def _apply(self, document: dict[str, Any]) -> None:
        """Gives the server other settings. Raises LabFailure."""
        file = "/etc/portico/soak.yaml"
        self.place.server.write(file, yaml.safe_dump(document, sort_keys=False), 0o600)
        self.place.server.run("portico", "settings", "apply", file, "--yes", timeout=60.0)

    def _act(self, actor: Callable[[], None]) -> None:
        try:
            actor()
        except Exception as error:  # an actor that fails is a finding, and the others go on
            self.diary.problem(f"{actor.__name__} ended: {type(error).__name__}: {error}")

    def _start_crowds(self, stack: ExitStack) -> None:
        place, size = self.place, self.size
        for host, address in (("app6", APP6), ("app4", "10.0.0.4")):
            stack.enter_context(Responder(place.namespace(host), address, PORT))
        common: dict[str, Any] = {"sources": SOURCES, "reconnect": "at_once", "resume": True}
        for name, first, count in (("idle", 0, size.clients), ("busy", 5_000_000, size.busy)):
            crowd = stack.enter_context(
                Crowd(
                    place.internet,
                    place.directory,
                    [TARGET],
                    place.identity(f"crowd-{name}"),
                    IN_TUNNEL,
                    first=first,
                    connections_per_second=500.0,
                    **common,
                )
            )
            self.crowds[name] = crowd
            crowd.connect(count)
            crowd.wait(count, timeout=120.0)
        self.crowds["idle"].profile({"kind": "ping", "interval_ms": 30_000})
        quarter = max(size.busy // 4, 1)
        through_nat64 = f"[{APP4_THROUGH_NAT64}]:{PORT}"
        native = f"[{APP6}]:{PORT}"
        exchange = {"kind": "exchange", "interval_ms": 20.0}
        for index, profile in enumerate(
            (
                {**exchange, "target": native, "up": 8, "up_bytes": 1200, "down_bytes": 20, "window": 2},
                {**exchange, "target": native, "up_bytes": 20, "down": 8, "down_bytes": 1200, "window": 2},
                {**exchange, "target": native, "up_bytes": 100, "down_bytes": 100, "window": 4, "interval_ms": 5.0},
                # New ports all the time: bindings come and go.
                {**exchange, "target": through_nat64, "up_bytes": 600, "down_bytes": 600, "window": 2, "ports": 500},
            )
        ):
            self.crowds["busy"].profile(profile, index * quarter, (index + 1) * quarter)

    def account(self) -> None:
        """Books tunnels that were lost since the last look; nobody closed them on purpose."""
        with self.wave:
            for name, crowd in self.crowds.items():
                with suppress(CrowdFailed):
                    for reason, count in (_losses(crowd) - self._known.get(name, Counter())).items():
                        self.diary.unexplained[f"{name}: {reason}"] += count
                        self.diary.problem(f"{count} {name} tunnels: {reason}")
                    self._known[name] = _losses(crowd)

    def _bulk(self) -> None:
        """The product's own client moves TCP both ways, natively and through NAT64."""
        lab = self.place.lab
        client = lab.host("client1")
        for host in ("app6", "app4"):
            lab.host(host).start_service("iperf3", ["iperf3", "--server"])
        turn = 0
        while not self.stop.is_set():
            target = (APP6, APP4_THROUGH_NAT64)[turn % 2]
            turn += 1
            done = client.run("iperf3", "-J", "-c", target, "-t", "10", "--bidir", check=False, timeout=60.0)
            try:
                end = json.loads(done.stdout)["end"]
                up, down = end["sum_received"]["bytes"], end["sum_received_bidir_reverse"]["bytes"]
            except (ValueError, KeyError):
                self.diary.note("bulk_failed", output=done.stdout[-300:])
                self.stop.wait(1.0)
                continue
            self.diary.note("bulk_rounds")
            self.diary.note("bulk_bytes_up", up)
            self.diary.note("bulk_bytes_down", down)

    def _dns(self) -> None:
        """Names by DNS64, some of them new each time, some that do not exist."""
        client = self.place.lab.host("client1")
        while not self.stop.wait(0.2):
            names = ["app4.corp.example.net", "app6.corp.example.net", "dns.corp.example.net"]
            names += [f"no-{secrets.token_hex(4)}.corp.example.net" for _ in range(5)]
            queries = [word for name in names for word in (name, "AAAA")]
            command = ["dig", "+noall", "+comments", "+tries=1", "+time=3", f"@{DNS64_ADDRESS}", *queries]
            done = client.run(*command, check=False, timeout=30.0)
            answered = done.stdout.count("status: NOERROR") + done.stdout.count("status: NXDOMAIN")
            self.diary.note("dns_answered", answered)
            self.diary.note("dns_unanswered", len(names) - answered)

    def _garbage(self) -> None:
        kinds = [
            b"",
            b"GET / HTTP/1.0\r\n\r\n",
            secrets.token_bytes(3000),
            b"\x16\x03\x01\x40\x00" + secrets.token_bytes(500),
            b"\x16\x03\x01\x00\x05\x01\x00\xff\xff\xff",
        ]
        with self.place.lab.host("internet").network():
            number = 0
            while not self.stop.wait(1.0 / GARBAGE_PER_SECOND):
                number += 1
                with suppress(OSError), socket.create_connection((SERVER, 443), timeout=2.0) as stranger:
                    stranger.sendall(kinds[number % len(kinds)])
                    self.diary.note("garbage")

    def _churn(self) -> None:
        self.crowds["idle"].ask("churn", per_second=self.size.churn_per_second)
        self.stop.wait()
        self.crowds["idle"].ask("churn", per_second=0)

    def _waves(self) -> None:
        """The server closes all tunnels of a crowd, and everybody dials again at once."""
        names = ["crowd-idle", "crowd-busy"]
        while not self.stop.wait(self.size.wave_seconds):
            self.account()
            with self.wave:
                began = time.monotonic()
                before = {name: _losses(crowd) for name, crowd in self.crowds.items()}
                closed = 0
                with self.place.api() as api:
                    for name in names:
                        closed += int(api.post(f"/v1/clients/{name}/disconnect")["closed"])
                for name, count in (("idle", self.size.clients), ("busy", self.size.busy)):
                    # Some are always on their way while others leave.
                    self.crowds[name].wait(int(count * 0.97), timeout=60.0)
                seconds = time.monotonic() - began
                self.stop.wait(2.0)
                lost = 0
                for name, crowd in self.crowds.items():
                    now = _losses(crowd)
                    lost += sum((now - before[name]).values())
                    self._known[name] = now
                self.diary.explained += lost
                if lost > closed:
                    self.diary.unexplained["more than the wave closed"] += lost - closed
                self.diary.note("waves", closed=closed, lost=lost, seconds=seconds)

    def _revocations(self) -> None:
        """A few clients of a new identity connect; the identity is revoked; they must be gone at once."""
        number = 0
        while not self.stop.wait(self.size.revocation_seconds):
            number += 1
            name = f"doomed-{number}"
            crowd = Crowd(
                self.place.internet,
                self.place.directory,
                [TARGET],
                self.place.identity(name),
                IN_TUNNEL,
                first=10_000_000 + number * 100,
            )
            with crowd:
                crowd.connect(5)
                crowd.wait(5, timeout=30.0)
                began = time.monotonic()
                with self.place.api() as api:
                    api.post("/v1/revocations", {"name": name, "reason": "key-compromise"})
                while crowd.state()["clients"] and time.monotonic() - began < 10.0:
                    time.sleep(0.02)
                if left := crowd.state()["clients"]:
                    self.diary.problem(f"{left} tunnels of a revoked certificate live on after 10 s")
                self.diary.note("revocations", seconds=time.monotonic() - began)

    def _settings(self) -> None:
        """A new document every now and then: every client hears another advertisement."""
        document = settings("da1")
        turn = 0
        while not self.stop.wait(self.size.settings_seconds):
            turn += 1
            document["ip_https"] = {"route_lifetime": 1800 + turn % 60}
            try:
                self._apply(document)
                self.diary.note("settings_applied")
            except (LabFailure, PorticoError, subprocess.SubprocessError) as error:
                self.diary.problem(f"settings were not applied: {error}")


def _losses(crowd: Crowd) -> Counter[str]:
    figures = crowd.figures()
    return Counter({f"lost, {reason}": count for reason, count in figures["lost"].items()}) + Counter(
        {f"not admitted, {reason}": count for reason, count in figures["failed"].items()}
    )
