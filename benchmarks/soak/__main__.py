"""`python -m benchmarks.soak`: load, samples, verdict. Ctrl-C ends it early, with a verdict on what there is."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from benchmarks.deployment import Deployment, deployed, flat, process_figures
from benchmarks.soak.load import Diary, Load, Size
from benchmarks.soak.plot import plot
from benchmarks.soak.verdict import judge
from portico.errors import PorticoError

EMPTY_WITHIN = 60.0


def sample(place: Deployment, gateway: int, agent: int) -> dict[str, Any]:
    """One look. The process numbers are those of the beginning: a successor shows as an error.

    Raises:
        OSError: a process is gone.
        PorticoError: the agent does not answer.
    """
    with place.api() as api:
        status = api.get("/v1/status")
    return {
        "at": time.time(),
        "gateway": {"pid": gateway, "restarts": status["gateway"]["restarts"], **process_figures(gateway)},
        "agent": {"pid": agent, **process_figures(agent)},
        "counters": flat(status["counters"]),
        "warnings": len(status["warnings"]),
    }


def _watch(place: Deployment, load: Load, seconds: float, interval: float, out: TextIO) -> list[dict[str, Any]]:
    gateway, agent = place.gateway_pid(), place.agent_pid()
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        try:
            samples.append(sample(place, gateway, agent))
        except (OSError, PorticoError) as error:
            load.diary.problem(f"a sample could not be taken after {elapsed:.0f} s: {error}")
            if not Path(f"/proc/{gateway}").exists():
                break
        else:
            out.write(json.dumps(samples[-1]) + "\n")
            out.flush()
            _say(samples, elapsed, seconds)
        load.account()
        time.sleep(max(0.0, min(interval, seconds - (time.monotonic() - began))))
    return samples


def _say(samples: list[dict[str, Any]], elapsed: float, seconds: float) -> None:
    now = samples[-1]
    before = samples[-2] if len(samples) > 1 else now
    moved = sum(
        now["counters"][f"gateway.bytes_{way}"] - before["counters"][f"gateway.bytes_{way}"] for way in ("in", "out")
    )
    rate = moved * 8 / 1e6 / max(now["at"] - before["at"], 1e-9)
    gateway, agent = (now[process]["anonymous_kib"] / 1024 for process in ("gateway", "agent"))
    print(
        f"[{elapsed:5.0f}/{seconds:.0f} s] {now['counters'].get('tables.registry', 0):6d} tunnels  "
        f"gateway {gateway:6.1f} MiB, agent {agent:5.1f} MiB  "
        f"{now['gateway']['descriptors']:5.0f} descriptors  {rate:7.0f} Mbit/s",
        flush=True,
    )


def _tables_after(place: Deployment) -> dict[str, int]:
    """The tables once everybody has left, or after a minute."""
    deadline = time.monotonic() + EMPTY_WITHIN
    while True:
        with place.api() as api:
            counters = flat(api.get("/v1/status")["counters"])
        tables = {name.removeprefix("tables."): count for name, count in counters.items() if name.startswith("tables.")}
        tables["requests_pending"] = counters.get("requests_pending", 0)
        if tables.get("registry", 0) <= 1 or time.monotonic() > deadline:
            return tables
        time.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS", "3600")))
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--clients", type=int, default=Size.clients, help="tunnels that are mostly idle")
    parser.add_argument("--busy", type=int, default=Size.busy, help="tunnels that move packets all the time")
    parser.add_argument("--results", type=Path, default=Path("build/soak"), help="directory for samples and verdict")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the soak builds network namespaces: run it as root (sudo make soak)", file=sys.stderr)
        return 5
    results = options.results / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    results.mkdir(parents=True)
    size = Size(options.clients, options.busy)
    shorter = min(1.0, options.seconds / 600)
    size.wave_seconds, size.revocation_seconds, size.settings_seconds = (
        max(8.0, one * shorter) for one in (size.wave_seconds, size.revocation_seconds, size.settings_seconds)
    )
    diary = Diary()
    samples: list[dict[str, Any]] = []
    after = None
    print(f"Samples go to {results}", flush=True)
    with deployed(f"soak-{secrets.token_hex(3)}", results.resolve()) as place:
        load = Load(place, size, diary)
        with load.running(), (results / "samples.jsonl").open("w") as out:
            try:
                samples = _watch(place, load, options.seconds, options.interval, out)
            except KeyboardInterrupt:
                diary.note("interrupted")
                samples = [json.loads(line) for line in (results / "samples.jsonl").read_text().splitlines()]
            figures = {name: crowd.figures() for name, crowd in load.crowds.items()}
        try:
            after = _tables_after(place)
        except PorticoError as error:
            diary.problem(f"the server did not answer at the end: {error}")
        (results / "server.log").write_text(place.server.log_tail("portico-server", 400))
    told = {
        "done": dict(diary.done),
        "unexplained": dict(diary.unexplained),
        "explained": diary.explained,
        "problems": diary.problems,
        "events": diary.events,
        "crowds": figures,
        "after": after,
    }
    findings = judge(samples, told)
    good = all(finding.good for finding in findings)
    verdict = {"good": good, "findings": [vars(finding) for finding in findings], **told}
    (results / "verdict.json").write_text(json.dumps(verdict, indent=1))
    if len(samples) > 1:
        plot(samples, results / "soak.svg")
    print()
    for finding in findings:
        print(f"  {'ok  ' if finding.good else 'BAD '} {finding.text}")
    print(f"\n{'The soak passed' if good else 'The soak FAILED'}: {results}/verdict.json, {results}/soak.svg")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
