"""A soak as a picture: memory, tunnels and traffic over the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any


def plot(samples: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws an SVG. Samples as for the verdict."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "portico"
    from matplotlib import pyplot

    minutes = [(one["at"] - samples[0]["at"]) / 60 for one in samples]
    figure, (memory, tunnels, traffic) = pyplot.subplots(3, 1, figsize=(9, 7), sharex=True)
    for process, colour in (("gateway", "#2f6f9f"), ("agent", "#c0803a")):
        memory.plot(minutes, [one[process]["anonymous_kib"] / 1024 for one in samples], label=process, color=colour)
    memory.set_ylabel("memory, MiB")
    memory.set_ylim(bottom=0)
    memory.legend(frameon=False, loc="lower right")
    tunnels.plot(minutes, [one["counters"].get("tables.registry", 0) for one in samples], label="tunnels")
    tunnels.plot(minutes, [one["gateway"]["descriptors"] for one in samples], label="descriptors", linewidth=0.8)
    bindings = [one["counters"].get("nat64.bindings", 0) for one in samples]
    tunnels.plot(minutes, bindings, label="NAT64 bindings", linewidth=0.8)
    tunnels.legend(frameon=False, loc="lower right")
    rates = []
    for earlier, later in pairwise(samples):
        names = ("gateway.bytes_in", "gateway.bytes_out")
        moved = sum(later["counters"].get(name, 0) - earlier["counters"].get(name, 0) for name in names)
        rates.append(moved * 8 / 1e6 / (later["at"] - earlier["at"]))
    traffic.plot(minutes[1:], rates, color="#4c8c4a")
    traffic.set_ylabel("Mbit/s, both ways")
    traffic.set_xlabel("minutes")
    for axes in (memory, tunnels, traffic):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
