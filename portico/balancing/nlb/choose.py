"""Which filter this server uses, and why not the other. Never silent."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from portico.balancing.nlb import nft, ruleset
from portico.balancing.nlb.bpf import OBJECT, FastFilter, detach_all
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.errors import PorticoError

log = logging.getLogger("portico.nlb")

Preference = Literal["automatic", "eBPF", "nftables"]


@dataclass(frozen=True)
class Choice:
    """The filter in use.

    Attributes:
        why: in words, for the status: why this one, and why not the fast one where it is not.
    """

    filter: Filter
    why: str

    @property
    def name(self) -> str:
        return self.filter.name


def choose(preference: Preference = "automatic", *, path: Path = OBJECT) -> Choice:
    """Loads the fast filter and takes it where the kernel does; otherwise, or when told to, the portable one.

    Raises:
        Unavailable: the one that was asked for, or both, cannot be used.
    """
    if preference == "nftables":
        choice = Choice(PortableFilter(), "the settings ask for nftables")
    elif preference == "eBPF":
        choice = Choice(FastFilter(path), "the settings ask for eBPF")
    else:
        try:
            choice = Choice(FastFilter(path), "the kernel takes the eBPF program")
        except PorticoError as error:
            choice = Choice(PortableFilter(), f"eBPF cannot be used: {error}")
    log.info("filter=%s why=%r", choice.name, choice.why)
    return choice


def clear_other(choice: Choice, interfaces: Iterable[str]) -> None:
    """Removes what a process before this one left in the kernel, should it have used the other filter: without
    anybody who renews its lease it drops every frame for the VIPs."""
    try:
        if choice.filter.answers:
            tables = nft.open_nftables()
            try:
                tables.run(ruleset.removal())
            finally:
                tables.close()
        else:
            detach_all(interfaces)
    except PorticoError as error:
        # Where the other one's library is missing, nobody can have used it either.
        log.info("filter=%s other=%r", choice.name, str(error))
