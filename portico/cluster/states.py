"""The states of a member and the table of what leads from one to another. Pure.

Two rules: everything about transitions is in this table, and what is not in the table raises. A state says what the
member is willing to do. Whether it is able to is said by conditions beside it, which come and go by themselves (it is
not heard, it sees no VIP frames, a service failed): a condition takes the member's buckets away, its state stays.
"""

from __future__ import annotations

from enum import Enum, IntFlag, StrEnum

from portico.errors import Conflict


class State(Enum):
    """What a member is willing to do; the value is the one on the wire."""

    STOPPED = 0
    """Owns nothing, listens."""
    JOINING = 1
    """Owns nothing yet; listens, then asks by its heartbeats to be given buckets."""
    MEMBER = 2
    """Serves what the map gives it."""
    DRAINING = 3
    """Gives its buckets away and keeps flows until none is left or the time is over."""
    LEAVING = 4
    """Gives everything away now; stops when others have taken it, or after the detection time."""
    SUSPENDED = 5
    """Stopped, and commands other than resume are refused."""


class Condition(IntFlag):
    """Why a member cannot serve though it is willing; the value is the one on the wire."""

    MUTE = 1
    """A member it hears does not hear it: the others have replaced it, or are about to."""
    CUT = 2
    """Not heard on a path that carries clients, though heard on another."""
    DEAF = 4
    """Sees far fewer VIP frames than the others."""
    UNHEALTHY = 8
    """A service it needs failed, or its own check said so."""
    STALLED = 16
    """It did not run for longer than its lease; the others may have replaced it."""
    REFUSED = 32
    """Another server has its host id, or its settings differ from the cluster's."""
    UNPLUGGED = 64
    """A network card on which clients come has no carrier, and another member's has."""


UNREACHABLE = Condition.CUT | Condition.DEAF | Condition.REFUSED | Condition.UNPLUGGED
"""With one of these, clients' packets do not arrive: flows are lost, their new owners reset them. A mute or stalled
member is itself again soon, or dead."""

HALTING = Condition.MUTE | Condition.CUT | Condition.STALLED | Condition.REFUSED | Condition.UNPLUGGED
"""With one of these a member stops at once, without waiting for a map that says so."""


class Trigger(Enum):
    """What can change a state."""

    START = "start"
    STOP = "stop"
    DRAIN = "drain"
    SUSPEND = "suspend"
    RESUME = "resume"
    ADMITTED = "admitted"
    """A map gives this member buckets, or counts it in."""
    EXPELLED = "expelled"
    """A map that goes before ours does not count this member in."""
    EMPTY = "empty"
    """No flow is left, or the time for draining is over."""
    HANDED_OVER = "handed over"
    """Others serve what this member served, or had time to."""


COMMANDS = frozenset({Trigger.START, Trigger.STOP, Trigger.DRAIN, Trigger.SUSPEND, Trigger.RESUME})
"""What an administrator says; the others happen."""

TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.STOPPED, Trigger.START): State.JOINING,
    (State.STOPPED, Trigger.STOP): State.STOPPED,
    (State.STOPPED, Trigger.DRAIN): State.STOPPED,
    (State.STOPPED, Trigger.SUSPEND): State.SUSPENDED,
    (State.JOINING, Trigger.START): State.JOINING,
    (State.JOINING, Trigger.STOP): State.STOPPED,
    (State.JOINING, Trigger.DRAIN): State.STOPPED,
    (State.JOINING, Trigger.SUSPEND): State.SUSPENDED,
    (State.JOINING, Trigger.ADMITTED): State.MEMBER,
    (State.MEMBER, Trigger.START): State.MEMBER,
    (State.MEMBER, Trigger.STOP): State.LEAVING,
    (State.MEMBER, Trigger.DRAIN): State.DRAINING,
    (State.MEMBER, Trigger.SUSPEND): State.SUSPENDED,
    (State.MEMBER, Trigger.EXPELLED): State.JOINING,
    (State.DRAINING, Trigger.START): State.MEMBER,
    (State.DRAINING, Trigger.STOP): State.LEAVING,
    (State.DRAINING, Trigger.DRAIN): State.DRAINING,
    (State.DRAINING, Trigger.SUSPEND): State.SUSPENDED,
    (State.DRAINING, Trigger.EMPTY): State.LEAVING,
    (State.DRAINING, Trigger.EXPELLED): State.STOPPED,
    (State.LEAVING, Trigger.START): State.MEMBER,
    (State.LEAVING, Trigger.STOP): State.LEAVING,
    (State.LEAVING, Trigger.DRAIN): State.LEAVING,
    (State.LEAVING, Trigger.SUSPEND): State.SUSPENDED,
    (State.LEAVING, Trigger.HANDED_OVER): State.STOPPED,
    (State.LEAVING, Trigger.EXPELLED): State.STOPPED,
    (State.SUSPENDED, Trigger.SUSPEND): State.SUSPENDED,
    (State.SUSPENDED, Trigger.RESUME): State.STOPPED,
}


class IllegalTransition(Conflict):
    """A trigger that a state does not know: a command that makes no sense now, or a fault of ours."""

    code = "CLUSTER_STATE"

    def __init__(self, state: State, trigger: Trigger) -> None:
        super().__init__(
            f"The server cannot {trigger.value}" if trigger in COMMANDS else f"A member cannot be {trigger.value}",
            why=f"it is {state.name.lower()} in its cluster",
            resolution="Resume it first." if state is State.SUSPENDED else "Look at the cluster's status.",
        )
        self.state = state
        self.trigger = trigger


def after(state: State, trigger: Trigger) -> State:
    """The state that follows.

    Raises:
        IllegalTransition: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(state, trigger) from None


class WindowsState(StrEnum):
    """States as `nlb query` and Get-NlbClusterNode name them."""

    CONVERGING = "Converging"
    CONVERGED = "Converged"
    DEFAULT = "Default"
    """Converged, and the default host."""
    DRAINING = "Draining"
    STOPPED = "Stopped"
    SUSPENDED = "Suspended"


def windows_state(state: State, *, converged: bool, default_host: bool) -> WindowsState:
    """A member's state in Windows' words.

    Args:
        converged: whether all members follow one map and serve what it gives them.
        default_host: whether the map gives the default rule to this member.
    """
    match state:
        case State.STOPPED:
            return WindowsState.STOPPED
        case State.SUSPENDED:
            return WindowsState.SUSPENDED
        case State.DRAINING | State.LEAVING:
            return WindowsState.DRAINING
        case State.JOINING:
            return WindowsState.CONVERGING
        case State.MEMBER:
            if not converged:
                return WindowsState.CONVERGING
            return WindowsState.DEFAULT if default_host else WindowsState.CONVERGED
