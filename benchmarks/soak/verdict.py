"""What the samples of a soak say. Pure: numbers in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Sample = Mapping[str, Any]

WARM_UP_SHARE, WARM_UP_SECONDS = 0.25, 600.0
"""Samples before this share of the time, and at most so many seconds, show how caches and allocators fill."""

ALLOWED_SHARE, ALLOWED_KIB = 0.04, 6 * 1024
"""Memory is flat when its robust trend over the whole time after the warm-up is below either."""

ALLOWED_DESCRIPTORS = 64

AGENT_THREADS = 40
"""The interpreter's own pool for blocking calls grows to 32 by and by."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict."""

    good: bool
    text: str


def trend(points: Sequence[tuple[float, float]]) -> float:
    """The Theil-Sen slope, the median of the slopes of all pairs: no burst bends it. Zero for fewer than two points."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
        if later[0] > earlier[0]
    ]
    return median(slopes) if slopes else 0.0


def judge(samples: Sequence[Sample], diary: Mapping[str, Any]) -> list[Finding]:
    """The verdict over samples in the order of time, each with `at` and the figures of `sample.py`."""
    if len(samples) < 4:
        return [Finding(False, f"only {len(samples)} samples: the soak was too short for a verdict")]
    start, end = samples[0]["at"], samples[-1]["at"]
    settled_from = start + min((end - start) * WARM_UP_SHARE, WARM_UP_SECONDS)
    settled = [one for one in samples if one["at"] >= settled_from]
    findings = []
    for process in ("gateway", "agent"):
        findings += [
            _flat(settled, process, "anonymous_kib", "memory", "KiB", ALLOWED_SHARE, ALLOWED_KIB),
            _flat(settled, process, "descriptors", "descriptors", "", 0.0, ALLOWED_DESCRIPTORS),
            _constant(samples, process, "pid"),
        ]
    findings.append(_constant(samples, "gateway", "threads"))
    most = max(int(one["agent"]["threads"]) for one in samples)
    findings.append(Finding(most <= AGENT_THREADS, f"agent: at most {most} threads (allowed {AGENT_THREADS})"))
    findings.append(_impossible(samples[0], samples[-1]))
    findings.append(_emptied(diary.get("after")))
    for what, good in (("tunnels lost without a reason", not diary["unexplained"]),):
        detail = diary["unexplained"] or "none"
        findings.append(Finding(good, f"{what}: {detail}; {diary['explained']} were closed on purpose and came back"))
    findings += [Finding(False, text) for text in diary["problems"]]
    done = diary["done"]
    for what in ("bulk_rounds", "dns_answered", "garbage", "waves", "revocations", "settings_applied"):
        findings.append(Finding(done.get(what, 0) > 0, f"{what.replace('_', ' ')}: {done.get(what, 0)}"))
    asked = done.get("dns_answered", 0) + done.get("dns_unanswered", 0)
    lost = done.get("dns_unanswered", 0)
    findings.append(Finding(lost <= asked * 0.05, f"DNS64 left {lost} of {asked} questions without an answer"))
    failed, rounds = done.get("bulk_failed", 0), done.get("bulk_rounds", 0)
    findings.append(Finding(failed <= rounds * 0.2, f"{failed} rounds of bulk traffic failed, {rounds} did not"))
    return findings


def _flat(
    samples: Sequence[Sample], process: str, figure: str, name: str, unit: str, share: float, floor: float
) -> Finding:
    points = [(one["at"], float(one[process][figure])) for one in samples]
    middle = median(value for _, value in points)
    span = points[-1][0] - points[0][0]
    grown = trend(points) * span
    allowed = max(middle * share, floor)
    text = (
        f"{process}: {name} {middle:,.0f} {unit}".rstrip()
        + f" in the middle, trend {grown:+,.0f} in {span:,.0f} s (allowed {allowed:,.0f})"
    )
    return Finding(grown <= allowed, text)


def _constant(samples: Sequence[Sample], process: str, figure: str) -> Finding:
    values = sorted({int(one[process][figure]) for one in samples})
    return Finding(len(values) == 1, f"{process}: {figure} {', '.join(map(str, values))}")


def _impossible(first: Sample, last: Sample) -> Finding:
    counters = last["counters"]
    names = [name for name in counters if ".impossible_" in name or name.startswith("impossible_")]
    moved = {name: counters[name] for name in names if counters[name] != first["counters"].get(name, 0)}
    if not names:
        return Finding(False, "the gateway shows no counters of impossible events")
    return Finding(not moved, f"counters of impossible events that moved, of {len(names)}: {moved or 'none'}")


def _emptied(after: Mapping[str, int] | None) -> Finding:
    """Whether everything is gone when everybody has left; the product's own client stays."""
    if after is None:
        return Finding(False, "it is not known what was left when everybody had gone")
    left = {name: count for name, count in after.items() if count > ALLOWED_AFTER.get(name, 0)}
    return Finding(not left, f"left in tables when everybody had gone: {left or 'nothing'}")


ALLOWED_AFTER = {"registry": 1, "sessions": 1, "addresses": 8, "connections": 4, "events_waiting": 100}
