"""What is seen of the network location server and of the deployment's records. Data only, see `Observations.extra`."""

from __future__ import annotations

from dataclasses import dataclass

from portico.health.observations import Trouble


@dataclass(frozen=True)
class LocationSeen:
    """The last looks at where clients are.

    Attributes:
        nls: whether the settings have a network location server; `nls_checked` whether it was looked at.
        nls_troubles: what is wrong with it.
        page_troubles: why a page of this server is not served as it should be.
        records: whether the records are looked at; `records_checked` whether they were.
        record_troubles: what is wrong with them, each on one DNS server; `about` of a finding is record and server.
    """

    nls: bool = False
    nls_checked: bool = False
    nls_troubles: tuple[Trouble, ...] = ()
    page_troubles: tuple[Trouble, ...] = ()
    records: bool = False
    records_checked: bool = False
    record_troubles: tuple[Trouble, ...] = ()
