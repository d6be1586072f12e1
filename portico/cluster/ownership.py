"""What one member gives to its data plane: an immutable picture of the buckets it serves, and how. Pure.

The default rule, for traffic that no port rule names, comes first; then the configured rules in their order. A data
plane applies a picture as a whole and confirms its serial (`Member.kernel_confirms`); until then the member neither
tells others that it has let go of something nor takes anything new.
"""

from __future__ import annotations

from dataclasses import dataclass

from portico.cluster.config import PortRule

Buckets = frozenset[int]
"""Bucket numbers, 0 to 59."""


@dataclass(frozen=True)
class RuleOwnership:
    """One rule's buckets on this member.

    Attributes:
        rule: None for the default rule.
        owned: accept everything in these.
        dirty: not owned any more, or not yet again: established TCP flows stay, new ones and all else is dropped.
        quiet: owned, but a living server may hold older flows: TCP segments of unknown flows are dropped silently.
        orphaned: owned, taken from a server that is dead or cannot be reached: unknown flows are reset at once.
        origin: for each bucket the host that last served it before the present assignment; 0: nobody.
        owners: for each bucket the host that serves it according to the map; 0: nobody.
    """

    rule: PortRule | None
    owned: Buckets
    dirty: Buckets
    quiet: Buckets
    orphaned: Buckets
    origin: tuple[int, ...]
    owners: tuple[int, ...]


@dataclass(frozen=True)
class Ownership:
    """All rules of one member at one moment.

    Attributes:
        serial: counts this member's pictures, from 1.
        version: of the map they follow; 0: none yet.
        rules: the default rule, then one entry for each configured port rule.
        foreign_slots: 480 bytes, bit `bucket * 64 + slot` (least significant bit first) set for slots in which another
            living server still holds UDP or ESP flows: not to be accepted although the bucket is owned. None: no slot.
    """

    serial: int
    version: int
    rules: tuple[RuleOwnership, ...]
    foreign_slots: bytes | None = None

    @property
    def idle(self) -> bool:
        """Whether this member serves nothing, not even old flows."""
        return not any(rule.owned or rule.dirty for rule in self.rules)
