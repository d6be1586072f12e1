"""What a member tells its shell and, through it, operators."""

from __future__ import annotations

from dataclasses import dataclass

from portico.cluster.holdings import Holding
from portico.cluster.ownership import Ownership
from portico.cluster.states import Condition, State
from portico.cluster.wire import Reason


@dataclass(frozen=True)
class OwnershipChanged:
    """The data plane has something to apply; pictures in between are left out."""

    ownership: Ownership


@dataclass(frozen=True)
class StateChanged:
    """This member's own state."""

    before: State
    after: State


@dataclass(frozen=True)
class ConditionsChanged:
    """What keeps this member from serving came or went.

    Attributes:
        why: of UNHEALTHY the shell's words, of REFUSED what differs; empty otherwise.
    """

    before: Condition
    after: Condition
    why: str


@dataclass(frozen=True)
class MemberJoined:
    """A host is heard, and hears us."""

    host: int


@dataclass(frozen=True)
class MemberLeft:
    """A host is gone.

    Attributes:
        said_so: whether it had announced that it would stop.
        silence: seconds since its last frame, on any path, as this member noticed.
    """

    host: int
    said_so: bool
    silence: float


@dataclass(frozen=True)
class MemberDraining:
    """A host gives its buckets away and keeps its flows."""

    host: int


@dataclass(frozen=True)
class ClientsOrphaned:
    """A host is dead, and held these clients; whoever owns their buckets resets their connections."""

    host: int
    clients: tuple[Holding, ...]


@dataclass(frozen=True)
class Deaf:
    """This member sees far fewer VIP frames than the others: a switch does not send them here.

    Attributes:
        nic: index in `MemberConfig.nics`.
        seen: frames on it within `window` seconds.
        median: of the other members, in the same time.
    """

    nic: int
    seen: int
    median: int
    window: float


@dataclass(frozen=True)
class MapChanged:
    """Another distribution of buckets is followed.

    Attributes:
        made_here: whether this member worked it out, rather than hearing of it.
        why: in a few words.
    """

    version: int
    members: frozenset[int]
    made_here: bool
    why: str


@dataclass(frozen=True)
class Converged:
    """All members follow one map, and serve what it gives them."""

    version: int
    members: frozenset[int]
    default_host: int


@dataclass(frozen=True)
class SplitHealed:
    """Two parts of the cluster that had lost each other met; one map is left.

    Attributes:
        ours_stays: whether it is the one this member followed.
        others: members of the other part.
    """

    ours_stays: bool
    others: frozenset[int]


@dataclass(frozen=True)
class Refused:
    """Frames changed nothing. At most one event a second for each reason; `count` says how many it stands for.

    Attributes:
        host: who the last of them claims to be from; 0: unknown.
    """

    reason: Reason
    count: int
    host: int
    what: str


Event = (
    OwnershipChanged
    | StateChanged
    | ConditionsChanged
    | MemberJoined
    | MemberLeft
    | MemberDraining
    | ClientsOrphaned
    | Deaf
    | MapChanged
    | Converged
    | SplitHealed
    | Refused
)
