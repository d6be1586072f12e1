"""Whose turn it is to do what one server does for all: a key in etcd with a lease. Blocking.

Where etcd decides, exactly one of two servers that have lost sight of each other may use up a token of a client, for
example, and not always the first: it is the one that holds the key.
"""

from __future__ import annotations

import time

from portico.errors import PorticoError
from portico.settings.etcd.client import EtcdClient, equals, putting

SECONDS = 6
"""After which a dead server's turn ends."""
MARGIN = 1.5
"""Seconds before that at which its holder stops believing in it: clocks run differently fast."""


class Turn:
    """One server's claim.

    Attributes:
        held: whether it is this server's turn now.
    """

    def __init__(self, client: EtcdClient, key: str, name: str) -> None:
        self.client = client
        self._key = key
        self._name = name
        self._lease: str | None = None
        self._until = float("-inf")

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    def hold(self) -> None:
        """Takes the turn when nobody has it, or keeps it. Raises PorticoError when etcd does not answer."""
        asked = time.monotonic()
        if self._lease is not None and self.client.keep_alive(self._lease):
            self._until = asked + SECONDS - MARGIN
            return
        self._lease, self._until = None, float("-inf")
        lease = self.client.grant(SECONDS)
        value = putting(self._key, self._name.encode(), lease)
        if self.client.transaction([equals(self._key, None)], [value]):
            self._lease, self._until = lease, asked + SECONDS - MARGIN
        else:
            self.client.revoke(lease)

    def give_up(self) -> None:
        """Lets another server have it at once."""
        lease, self._lease, self._until = self._lease, None, float("-inf")
        if lease is not None:
            try:
                self.client.revoke(lease)
            except PorticoError:
                return  # it ends by itself
