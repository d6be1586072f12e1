"""A bound on the resets that leave for packets of connections nobody knows.

The kernel answers each TCP segment to a VIP that belongs to no socket with a reset, and so do we for connections of a
dead server. That is what makes clients of a dead server dial again at once, and it is an answer to anybody who sends:
a flood of such segments would become a flood of resets. What is over the limit is dropped and counted; a client that
waits for its reset sends again and gets it then.

One rule at the output hook looks at the flags of each TCP packet that this machine itself sends; what it forwards and
what it receives does not come by.
"""

from __future__ import annotations

from collections.abc import Iterable

from portico.balancing.nlb.nft import Nftables, exists, open_nftables
from portico.balancing.nlb.plan import Address

TABLE = "portico_resets"

RATE = 10_000
"""Resets a second. Of ten thousand clients that a dead server had all are reset within the second."""
BURST = 5_000
"""At once, above that."""


def render(vips: Iterable[Address]) -> str:
    """The table, in place of the one that is there. Pure."""
    lines = [
        f"table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        "counter sent { }",
        "counter limited { }",
        "chain out {",
        "type filter hook output priority 0; policy accept;",
        "tcp flags & rst == rst goto virtual",
        "}",
        "chain bounded {",
        f"limit rate over {RATE}/second burst {BURST} packets counter name limited drop",
        "counter name sent accept",
        "}",
        "chain virtual {",
    ]
    for version, family in ((4, "ip"), (6, "ip6")):
        own = [str(vip) for vip in vips if vip.version == version]
        if own:
            lines.append(f"{family} saddr {{ {', '.join(own)} }} goto bounded")
    return "\n".join([*lines, "}", "}", ""])


class ResetLimit:
    """The limit in the kernel of the network namespace it was made in. Each call blocks for a millisecond or so.

    Raises:
        Unavailable: the kernel refuses, in every call.
    """

    def __init__(self, nft: Nftables | None = None) -> None:
        self._nft = nft if nft is not None else open_nftables()
        self._vips: tuple[Address, ...] = ()
        self._before: dict[str, int] = {}
        """What was counted until it was last made."""

    def install(self, vips: Iterable[Address]) -> None:
        """Bounds the resets from these addresses; those that were counted stay counted."""
        wanted = tuple(vips)
        before = self.counters()
        self._nft.run(render(wanted))
        self._vips, self._before = wanted, before

    def keep(self) -> bool:
        """Makes it again where somebody removed it; returns whether it was there."""
        if not self._vips or exists(self._nft, "inet", TABLE):
            return True
        self._nft.run(render(self._vips))
        return False

    def counters(self) -> dict[str, int]:
        """Resets sent, and `limited`: those that were not."""
        found = {"sent": 0, "limited": 0, **self._before}
        if self._vips and exists(self._nft, "inet", TABLE):
            for item in self._nft.query(f"list counters table inet {TABLE}"):
                if "counter" in item:
                    found[item["counter"]["name"]] += int(item["counter"]["packets"])
        return found

    def remove(self) -> None:
        """Takes it out of the kernel; a no-op when it is not there."""
        self._nft.run(f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._vips = ()
