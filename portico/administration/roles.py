"""Roles and principals. Pure, but for the variable that says who asks now."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from portico.errors import InvalidInput

RoleName = Literal["viewer", "operator", "administrator"]
Kind = Literal["local", "certificate", "token", "session", "oidc", "server"]


class Role(IntEnum):
    """What somebody may do; a higher role may do everything that a lower one may."""

    VIEWER = 1
    """Sees everything but secrets, changes nothing."""
    OPERATOR = 2
    """Also runs what is there: disconnects clients, drains, starts and stops servers."""
    ADMINISTRATOR = 3
    """Everything."""

    @property
    def text(self) -> RoleName:
        names: dict[Role, RoleName] = {
            Role.VIEWER: "viewer",
            Role.OPERATOR: "operator",
            Role.ADMINISTRATOR: "administrator",
        }
        return names[self]

    @classmethod
    def parse(cls, text: str) -> Role:
        """Raises InvalidInput (ROLE_UNKNOWN)."""
        for role in cls:
            if role.text == text:
                return role
        raise InvalidInput(
            f"'{text[:40]}' is no role",
            why="roles are viewer, operator and administrator",
            resolution="Use one of them",
            code="ROLE_UNKNOWN",
        )


@dataclass(frozen=True)
class Principal:
    """Somebody who was recognised.

    Attributes:
        id: of the credential: a token's or session's identifier, a certificate's serial number; empty for the others.
        address: where the request came from: an IP address, or `local` for the socket of this machine.
    """

    name: str
    kind: Kind
    role: Role
    address: str
    id: str = ""

    def as_dict(self) -> dict[str, str]:
        return {
            "name": self.name,
            "kind": self.kind,
            "role": self.role.text,
            "address": self.address,
            "id": self.id,
        }


current: ContextVar[Principal | None] = ContextVar("portico_principal", default=None)
"""Who the code that runs now works for; None outside of requests."""


def acting(author: str) -> str:
    """In whose name a change is made: the local administrator is believed, everybody else is who he is."""
    principal = current.get()
    if principal is None or principal.kind == "local":
        return author
    return principal.name
