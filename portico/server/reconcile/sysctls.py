"""Kernel settings below /proc/sys, each with its former value in the ledger, put back on undo.

A value that somebody else changed after us is left alone on undo: it is no longer ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from portico.errors import Unavailable
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import TRANSLATOR, TUNNEL, Change

log = logging.getLogger("portico.reconcile")

ROOT = Path("/proc/sys")
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"
PORT_RANGE = "net/ipv4/ip_local_port_range"

Ports = tuple[tuple[int, int], ...]

MINIMUM_FREE_PORTS = 4096
"""The machine's own connections keep at least so many ephemeral ports."""


def observe(names: Sequence[str], root: Path = ROOT) -> dict[str, str]:
    """The values of the named settings; those that the kernel does not have are left out."""
    found = {}
    for name in names:
        try:
            found[name] = " ".join((root / name).read_text().split())
        except OSError:
            continue
    return found


def complete(wanted: Mapping[str, str], reserved: Ports, state: Mapping[str, str], ledger: Ledger) -> dict[str, str]:
    """The values wanted, with the port settings merged into what the machine has. Pure.

    NAT64's pool is taken out of the machine's ephemeral ports. When that leaves the machine too few, its range moves to
    the largest gap above 10,240: with the default pool the whole default range would be gone otherwise.
    """
    values = dict(wanted)
    if not reserved:
        return values
    before = ledger.before(RESERVED_PORTS)
    theirs = parse_ports(before if before is not None else state.get(RESERVED_PORTS, ""))
    if before is not None:
        # Ports others reserved after us stay theirs.
        theirs = merge(theirs, subtract(parse_ports(state.get(RESERVED_PORTS, "")), _ours(ledger)))
    everything = merge(theirs, reserved)
    values[RESERVED_PORTS] = format_ports(everything)
    own_range = ledger.before(PORT_RANGE) or state.get(PORT_RANGE, "32768 60999")
    try:
        low, high = (int(part) for part in own_range.split())
    except ValueError:
        low, high = 32768, 60999
    if _count(subtract(((low, high),), everything)) < MINIMUM_FREE_PORTS:
        gaps = subtract(((10_240, 65_535),), everything)
        if gaps:
            low, high = max(gaps, key=lambda gap: gap[1] - gap[0])
            values[PORT_RANGE] = f"{low} {high}"
    return values


def plan(wanted: Mapping[str, str], state: Mapping[str, str]) -> list[Change]:
    """Settings that differ. One the kernel lacks is listed too, and fails when it is applied."""
    return [
        Change("sysctls", "set", name, state.get(name), value, key=(name, value))
        for name, value in wanted.items()
        if state.get(name) != value
    ]


def apply(changes: Sequence[Change], ledger: Ledger, root: Path = ROOT) -> None:
    """Writes values, the former ones into the ledger first.

    Raises:
        Unavailable: the kernel refuses or lacks a setting; it names it.
    """
    for change in changes:
        assert isinstance(change.key, tuple)
        name, value = change.key
        # Per-device settings of our own devices go with the devices.
        if change.before is not None and not {TUNNEL, TRANSLATOR} & set(name.split("/")):
            ledger.remember_sysctl(name, change.before, value)
        _write(root, name, value)


def undo(ledger: Ledger, root: Path = ROOT, keep: Sequence[str] = ()) -> list[str]:
    """Puts former values back, newest first; returns what could not be, in words."""
    failures = []
    for name, (before, ours) in reversed(list(ledger.sysctls.items())):
        if name in keep:
            continue
        now = observe([name], root).get(name)
        value = before
        if name == RESERVED_PORTS and now is not None and now != ours:
            value = format_ports(subtract(parse_ports(now), _ours(ledger)))
        elif now is not None and now != ours:
            log.warning("sysctl=%s value=%r was changed by somebody else and stays", name, now)
            ledger.forget_sysctl(name)
            continue
        try:
            if now is not None:
                _write(root, name, value)
        except Unavailable as error:
            failures.append(str(error))
            continue
        ledger.forget_sysctl(name)
    return failures


def parse_ports(text: str) -> Ports:
    """The form of ip_local_reserved_ports (`80,1000-2000`); what cannot be read is left out."""
    ranges = []
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            low, high = int(first), int(last or first)
            if 0 <= low <= high <= 65_535:
                ranges.append((low, high))
    return merge(tuple(ranges), ())


def format_ports(ports: Ports) -> str:
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ports)


def merge(one: Ports, other: Ports) -> Ports:
    """The union, sorted, adjacent ranges joined (as the kernel prints them)."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted((*one, *other)):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def subtract(one: Ports, other: Ports) -> Ports:
    """The ports of `one` that are not in `other`."""
    left = list(merge(one, ()))
    for low, high in other:
        left = [
            piece
            for first, last in left
            for piece in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if piece[0] <= piece[1]
        ]
    return tuple(sorted(set(left)))


def _ours(ledger: Ledger) -> Ports:
    before, ours = ledger.sysctls.get(RESERVED_PORTS, ("", ""))
    return subtract(parse_ports(ours), parse_ports(before))


def _count(ports: Ports) -> int:
    return sum(high - low + 1 for low, high in ports)


def _write(root: Path, name: str, value: str) -> None:
    try:
        (root / name).write_text(f"{value}\n")
    except OSError as error:
        raise Unavailable(
            f"Cannot set {name} to {value}",
            why=error.strerror or str(error),
            resolution="It needs root, and a kernel (or container) that offers and does not forbid this setting",
        ) from None
