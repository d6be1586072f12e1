"""Which filter this server uses, and why not the other. Never silent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from portico.balancing.nlb.bpf import OBJECT, FastFilter
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


def choose(
    preference: Preference = "automatic", *, path: Path = OBJECT, made_clsact: Callable[[str], None] | None = None
) -> Choice:
    """Loads the fast filter and takes it where the kernel does; otherwise, or when told to, the portable one.

    Raises:
        Unavailable: the one that was asked for, or both, cannot be used.
    """
    if preference == "nftables":
        choice = Choice(PortableFilter(), "the settings ask for nftables")
    elif preference == "eBPF":
        choice = Choice(FastFilter(path, made_clsact), "the settings ask for eBPF")
    else:
        try:
            choice = Choice(FastFilter(path, made_clsact), "the kernel takes the eBPF program")
        except PorticoError as error:
            choice = Choice(PortableFilter(), f"eBPF cannot be used: {error}")
    log.info("filter=%s why=%r", choice.name, choice.why)
    return choice
