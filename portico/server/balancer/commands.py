"""What a server is told by name: start, stop, drain, suspend, resume. Pure."""

from __future__ import annotations

from collections.abc import Callable

from portico.cluster.core import Member
from portico.cluster.states import IllegalTransition, State
from portico.errors import Conflict

_COMMANDS: dict[str, Callable[[Member, float], None]] = {
    "start": Member.start,
    "stop": Member.stop,
    "drain": Member.drain,
    "suspend": Member.suspend,
    "resume": Member.resume,
}
WANTED = {"started": "start", "stopped": "stop", "suspended": "suspend"}
"""The command for a state in the settings."""


def carry_out(member: Member, name: str, now: float) -> None:
    """Has a member do it. Raises Conflict: it makes no sense now, or there is no such command."""
    if name not in _COMMANDS:
        raise Conflict(f"There is no command {name}", why=f"there are {', '.join(_COMMANDS)}")
    try:
        _COMMANDS[name](member, now)
    except IllegalTransition as error:
        resolution = "Resume it first" if member.state is State.SUSPENDED else ""
        raise Conflict("The server does not do that now", why=str(error), resolution=resolution) from None
