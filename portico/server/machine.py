"""What this machine is within its cluster, and what is true of it: the document as it reads it, the facts. Blocking.

Which of the cluster's servers this machine is stands in a file of its own, beside the settings, because the settings
are the same on every server. It is there while the machine is in a cluster.
"""

from __future__ import annotations

import json
from pathlib import Path

from portico.certificates.renewal import SERVER_NAME
from portico.errors import InvalidInput, NotFound, Unavailable
from portico.files import read_file, remove_file, write_file
from portico.server.credentials import Credentials
from portico.server.facts import Prober, read_facts
from portico.server.reconcile.kernel import Kernel
from portico.settings.facts import Facts
from portico.settings.kinds import host_name
from portico.settings.localise import localise
from portico.settings.model import Settings
from portico.settings.problems import Problem
from portico.settings.verify import verify

NAME_FILE = "cluster-name.json"


def read_own_name(state: Path) -> str | None:
    """The name of this machine within its cluster; None while it is in none.

    Raises:
        PorticoError: the file is there and cannot be used. A guess could make two machines the same server.
    """
    path = state / NAME_FILE
    try:
        return host_name(json.loads(read_file(path))["server"])
    except NotFound:
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"{path} cannot be used",
            why=f"it is damaged ({type(error).__name__})",
            resolution=f'Write it again: echo \'{{"server": "NAME"}}\' > {path}; NAME is this machine\'s in '
            "load_balancing.servers",
            code="FILE_DAMAGED",
        ) from None


def write_own_name(state: Path, name: str | None) -> None:
    """Keeps the name; None forgets it. Raises PorticoError when that cannot be written."""
    path = state / NAME_FILE
    if name is not None:
        write_file(path, json.dumps({"server": name}).encode())
        return
    try:
        remove_file(path)
    except OSError as error:
        raise Unavailable(f"Cannot delete {path}", why=str(error), resolution=f"Delete it: rm {path}") from None


class Machine:
    """This machine.

    Attributes:
        probe: asks the link who has an address; None until somebody is able to.
    """

    def __init__(self, state: Path, credentials: Credentials, kernel: Kernel, probe: Prober | None = None) -> None:
        self.state = state
        self.probe = probe
        self._credentials = credentials
        self._kernel = kernel

    def localise(self, settings: Settings) -> Settings:
        """The document as this machine reads it.

        Raises:
            PorticoError: code NOT_IN_CLUSTER when this machine is no server of it, CLUSTER_NAME_LOST when it is not
                known which one it is.
        """
        name = read_own_name(self.state)
        if settings.load_balancing is None:
            if name is not None and name != settings.server.name:
                raise NotFound(
                    f"{name} was taken out of its cluster",
                    why=f"load balancing was disabled, and {settings.server.name} serves alone",
                    resolution="Take the role off this machine: portico server uninstall",
                    code="NOT_IN_CLUSTER",
                )
            return settings
        if name is None:
            servers = [server.name for server in settings.load_balancing.servers]
            if servers != [settings.server.name]:
                raise InvalidInput(
                    "It is not known which server of the cluster this machine is",
                    why=f"{self.state / NAME_FILE} is missing, and there are {', '.join(servers)}",
                    resolution=f'Write it: echo \'{{"server": "NAME"}}\' > {self.state / NAME_FILE}',
                    code="CLUSTER_NAME_LOST",
                )
            name = servers[0]
        return localise(settings, name)

    def settle(self, local: Settings) -> None:
        """Keeps this machine's name while the document in force has a cluster. Raises PorticoError."""
        name = local.server.name if local.load_balancing is not None else None
        if read_own_name(self.state) != name:
            write_own_name(self.state, name)

    def facts(
        self,
        settings: Settings | None = None,
        *,
        resolve: bool = False,
        judge: bool = False,
        own: bool = False,
        basis: bool = False,
    ) -> Facts:
        """The machine as the administrator has it.

        Args:
            judge: for `verify`: also looks at certificates, and asks the link for dedicated addresses.
            own: asks the link for addresses that this machine has, too, and looks at the certificate clients are shown.
            basis: only what `effective` derives from, see `read_facts`.

        Raises:
            PorticoError: it is not known which server of the cluster this is, or netlink does not work.
        """
        built_in = settings is not None and settings.certificates.mode == "built-in"
        return read_facts(
            settings,
            authority=self._credentials.authority_file if judge and built_in else None,
            resolve=resolve,
            own_name=read_own_name(self.state),
            administrators=self._kernel.administrators(),
            probe=self.probe if judge else None,
            probe_own=own,
            server_certificate=self._credentials.directory / SERVER_NAME if own and built_in else None,
            basis=basis,
        )

    def check(self, settings: Settings, *, resolve: bool = False) -> list[Problem]:
        """Everything wrong with a document on this machine. Raises as `facts`."""
        return verify(settings, self.facts(settings, resolve=resolve, judge=True))
