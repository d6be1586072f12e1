"""What Microsoft measured with DirectAccess: "DirectAccess Capacity Planning", averages of the runs of each scenario.

https://learn.microsoft.com/en-us/windows-server/remote/remote-access/directaccess/directaccess-capacity-planning
"""

from __future__ import annotations

from dataclasses import dataclass

ADDRESS = (
    "https://learn.microsoft.com/en-us/windows-server/remote/remote-access/directaccess/directaccess-capacity-planning"
)


@dataclass(frozen=True)
class Published:
    """One scenario.

    Attributes:
        cores: of the server.
        clients: of which 70 % used Teredo and 30 % IP-HTTPS.
        cpu: share of all cores that was busy.
        internal, internet: Mbit/s on either side of the server.
    """

    name: str
    cores: int
    clients: int
    cpu: float
    internal: float
    internet: float

    @property
    def cores_used(self) -> float:
        return self.cores * self.cpu

    @property
    def clients_per_core(self) -> float:
        return self.clients / self.cores_used

    @property
    def mbit_per_core(self) -> float:
        return self.internal / self.cores_used


SCENARIOS = (
    Published("low-end hardware, 750 clients", 4, 750, 0.4642, 84.17, 118.76),
    Published("low-end hardware, 1,000 clients", 4, 1000, 0.507, 78.64, 113.2),
    Published("low-end hardware, 1,000 clients, more traffic", 4, 1000, 0.5906, 109.2, 154.6),
    Published("high-end hardware, 1,500 clients", 8, 1500, 0.5068, 153.2, 210.5),
)
