"""What a cmdlet is, what it works on, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from ipaddress import ip_address
from typing import Any, Final, Protocol

from portico.errors import NotFound, PorticoError
from portico.management.client import Portico
from portico.management.cmdlets.binding import CHANGING, CIM, COMMON, Bound, Parameter
from portico.management.cmdlets.errors import not_built
from portico.management.cmdlets.values import Value


class Host(Protocol):
    """Where a session speaks and asks: a terminal, a test, a page of the console."""

    def verbose(self, text: str) -> None:
        """The stream of -Verbose."""

    def warning(self, text: str) -> None: ...

    def information(self, text: str) -> None:
        """What -WhatIf and Write-Host say."""

    def error(self, error: PorticoError) -> None:
        """An error after which the script goes on (-ErrorAction Continue)."""

    def confirm(self, question: str) -> None:
        """Asks; raises when the answer is no or nobody can be asked."""


class Local(Protocol):
    """What is done on this machine without its server running: taking the role and giving it back."""

    def check(self, wish: dict[str, str]) -> list[dict[str, Any]]:
        """The problems of an installation (`portico.settings.problems.Problem` as data)."""

    def install(self, wish: dict[str, str], *, dry_run: bool) -> list[str]:
        """Installs; returns what was or would be done. Raises PorticoError."""

    def uninstall(self, *, dry_run: bool) -> list[str]: ...


@dataclass
class Context:
    """What the cmdlets of one session work on.

    Attributes:
        connect: opens the server's API; called when the first cmdlet needs it.
        author: in whose name changes are made.
        local: None where there is no machine to install on.
        width: columns of the terminal; None when the output is no terminal.
        always_dry: every changing cmdlet has -WhatIf, whatever the script says.
    """

    connect: Callable[[], Portico]
    host: Host
    author: str
    local: Local | None = None
    width: int | None = None
    always_dry: bool = False
    _api: Portico | None = field(default=None, repr=False)

    @property
    def api(self) -> Portico:
        if self._api is None:
            self._api = self.connect()
        return self._api

    def close(self) -> None:
        if self._api is not None:
            self._api.close()
            self._api = None

    def own_name(self) -> str:
        """The server that answers."""
        return self.api.cluster.own_name()

    def computer(self, bound: Bound) -> str | None:
        """The server of -ComputerName, None when it was not given or means the one that answers.

        Raises:
            NotFound: no server of the cluster is called so or has this address.
        """
        given: str | None = bound.get("ComputerName")
        if given is None:
            return None
        tidy = given.strip().lower()
        if tidy.strip(".") == "" or tidy in ("localhost", "127.0.0.1", "::1"):
            if tidy not in (".", "localhost", "127.0.0.1", "::1"):
                # Web pages leave the name out like this: '...'
                self.host.warning(f"-ComputerName '{given}' names no computer; the server that answers is taken")
            return None
        own = self.api.cluster.own_name()
        known = self.api.cluster.addresses()
        try:
            address: str | None = str(ip_address(tidy))
        except ValueError:
            address = None
        for name, addresses in known.items():
            if (address is not None and address in addresses) or (address is None and tidy.split(".")[0] == name):
                return None if name == own else name
        if address is None and tidy.split(".")[0] == own:
            return None
        raise NotFound(
            f"There is no server {given}",
            why=f"the servers are: {', '.join(known) or own}",
            resolution="Give the name of one of them with -ComputerName, or leave it out",
            code="CMDLET_COMPUTER_UNKNOWN",
        )

    def here(self, bound: Bound) -> None:
        """Refuses a -ComputerName that is not the server that answers, for what only that one can do."""
        name = self.computer(bound)
        if name is not None:
            raise NotFound(
                f"{bound.cmdlet} cannot act on {name} from here",
                why=f"{self.own_name()} answers, and this is done by each server for itself",
                resolution=f"Run it on {name}",
                code="CMDLET_OTHER_COMPUTER",
            )


Run = Callable[[Context, Bound, "list[Value] | None"], "list[Value]"]


@dataclass(frozen=True)
class Cmdlet:
    """A cmdlet.

    Attributes:
        own: its parameters without the common ones.
        changes: has -WhatIf and -Confirm.
        cim: has -ComputerName and the like, as all of the RemoteAccess module.
        missing: the feature that Portico lacks for it; it is then refused.
        notes: what is different from Windows.
        open_positions: takes any number of positional arguments, as Write-Output.
    """

    name: str
    synopsis: str
    run: Run
    own: tuple[Parameter, ...] = ()
    aliases: tuple[str, ...] = ()
    default_set: str = ""
    changes: bool = False
    cim: bool = True
    missing: str = ""
    notes: str = ""
    example: str = ""
    open_positions: bool = False

    @property
    def parameters(self) -> Sequence[Parameter]:
        return (
            *self.own,
            *(CIM if self.cim else ()),
            *(CHANGING if self.changes else ()),
            *COMMON,
        )


_MODULES: Final = ("load_balancing", "server", "clients", "monitoring", "accounting", "objects", "general")

_table: dict[str, Cmdlet] = {}
_aliases: dict[str, str] = {}


def register(cmdlet: Cmdlet) -> None:
    """Puts a cmdlet into the table; its name must be new."""
    for name in (cmdlet.name, *cmdlet.aliases):
        if name.lower() in _table or name.lower() in _aliases:
            raise ValueError(f"the cmdlet {name} is defined twice")
        if name is not cmdlet.name:
            _aliases[name.lower()] = cmdlet.name.lower()
    _table[cmdlet.name.lower()] = cmdlet


def cmdlet(name: str, synopsis: str, *own: Parameter, **facts: Any) -> Callable[[Run], Run]:
    """Registers the function below it as the cmdlet `name`."""

    def take(run: Run) -> Run:
        register(Cmdlet(name, synopsis, run, own, **facts))
        return run

    return take


def absent(name: str, synopsis: str, missing: str, *own: Parameter) -> None:
    """Registers a cmdlet that Windows has and whose feature Portico lacks."""

    def refuse(_context: Context, _bound: Bound, _flowing: list[Value] | None) -> list[Value]:
        raise not_built(name, missing)

    register(Cmdlet(name, synopsis, refuse, own, missing=missing, changes=not name.startswith("Get-")))


def cmdlets() -> list[Cmdlet]:
    """All of them, by name."""
    _load()
    return sorted(_table.values(), key=lambda found: found.name)


def resolve(name: str) -> Cmdlet | None:
    """By name or alias, without regard to case and without its module's name."""
    _load()
    folded = name.lower().rpartition("\\")[2]
    return _table.get(_aliases.get(folded, folded))


@cache
def _load() -> None:
    for module in _MODULES:
        import_module(f"portico.management.cmdlets.{module}")
