"""One server examined: its facts, what its rules say on them, and what is alive on it, as it travels to another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError

from portico.errors import PorticoError
from portico.server.peers import messages
from portico.settings.document import load
from portico.settings.facts import Facts
from portico.settings.localise import localise
from portico.settings.model import Settings
from portico.settings.problems import Problem
from portico.settings.verify import verify

if TYPE_CHECKING:
    from portico.server.gateway import Gateway
    from portico.server.machine import Machine

MAXIMUM_PROBLEMS = 5000
_FACTS: Final = TypeAdapter(Facts)
_PROBLEMS: Final = TypeAdapter(list[Problem])


class Examined(Protocol):
    """What is needed of an agent."""

    machine: Machine

    @property
    def gateway(self) -> Gateway: ...

    async def own_sessions(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Examination:
    """What a server found out about itself.

    Attributes:
        facts: those that are compared with other servers'.
        problems: what its rules say of the document on its machine.
    """

    facts: Facts
    problems: tuple[Problem, ...]

    def as_data(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "facts": _FACTS.dump_python(self.facts, mode="json"),
            "problems": [problem.as_dict() for problem in self.problems],
        }

    @classmethod
    def from_data(cls, data: Any) -> Examination:
        """What another server sent. Raises InvalidInput (MESSAGE_MALFORMED)."""
        if not isinstance(data, dict):
            raise messages.malformed("an examination is no object")
        facts = messages.section(data, "facts")
        problems = messages.items(data, "problems", limit=MAXIMUM_PROBLEMS)
        try:
            return cls(_FACTS.validate_python(facts), tuple(_PROBLEMS.validate_python(problems)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise messages.malformed(f"'{'.'.join(map(str, first['loc']))[:100]}': {first['msg'][:100]}") from None


@dataclass(frozen=True)
class Alive:
    """What is alive on a server: tunnels, and bindings of its NAT64."""

    clients: int
    bindings: int

    def as_data(self) -> dict[str, int]:
        return {"clients": self.clients, "bindings": self.bindings}

    @classmethod
    def from_data(cls, data: Any) -> Alive:
        """Raises InvalidInput (MESSAGE_MALFORMED)."""
        if not isinstance(data, dict):
            raise messages.malformed("what is alive is no object")
        return cls(messages.number(data, "clients"), messages.number(data, "bindings"))


async def examine(agent: Examined, settings: Settings) -> Examination:
    """Looks at this machine and judges a document on it; takes some seconds.

    Raises:
        PorticoError: it cannot be looked at.
    """

    def look() -> Examination:
        facts = agent.machine.facts(settings, resolve=True, judge=True, own=True)
        return Examination(_compared(facts, settings), tuple(verify(settings, facts)[:MAXIMUM_PROBLEMS]))

    return await asyncio.to_thread(look)


async def alive(agent: Examined) -> Alive:
    """Counts what is alive here; zero while the gateway does not run, which ends all of it."""
    try:
        clients = len(await agent.own_sessions())
        counters = (await agent.gateway.stats()).get("nat64") if agent.gateway.running else None
    except PorticoError:
        return Alive(0, 0)
    bindings = counters.get("bindings") if isinstance(counters, Mapping) else None
    return Alive(clients, bindings if isinstance(bindings, int) else 0)


async def answer_examination(agent: Examined, body: Mapping[str, Any], sender: str) -> dict[str, Any]:
    """The answer to another server that asks this one to examine itself. Raises SettingsRefused, PorticoError."""
    text = messages.text(body, "settings", limit=1 << 20)
    settings = await asyncio.to_thread(lambda: load(text, source=f"the settings from {sender}"))
    return (await examine(agent, settings)).as_data()


def _compared(facts: Facts, settings: Settings) -> Facts:
    """Without what is of no interest elsewhere: sockets, routes, other interfaces."""
    name, balancing = facts.own_name, settings.load_balancing
    local = settings
    if name is not None and balancing is not None and balancing.server(name) is not None:
        local = localise(settings, name)
    used = (local.server.internet_interface, local.server.internal_interface)
    present = facts.interfaces
    kept = {key: present[key] for key in used if key in present} if present is not None else None
    return replace(facts, interfaces=kept, listeners=(), connections=(), routes=(), certificate_files=())
