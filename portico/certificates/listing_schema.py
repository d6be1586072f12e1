"""What lists in pages need of the store's tables: an order that an index has, and a count that nobody has to make."""

from __future__ import annotations

import sqlite3

CLIENTS = "clients"
"""The counter of the names that client certificates were issued to."""


def make_listable(connection: sqlite3.Connection) -> None:
    """The third migration of the store of certificates."""
    connection.execute("CREATE INDEX issued_client ON issued (kind, name)")
    connection.execute("CREATE INDEX issued_time ON issued (issued)")
    connection.execute("CREATE INDEX issued_serial ON issued (serial)")
    connection.execute("CREATE INDEX token_time ON token (created)")
    connection.execute(
        "INSERT INTO counter SELECT ?, count(DISTINCT name) FROM issued WHERE kind = 'client'", (CLIENTS,)
    )
    # A row of `issued` never goes, so names only grow. Not an upsert: in a trigger the conflict clause of the statement
    # that fired it would hold instead.
    connection.execute(
        f"""CREATE TRIGGER issued_counted AFTER INSERT ON issued
            WHEN NEW.kind = 'client' AND NOT EXISTS (
                SELECT 1 FROM issued WHERE kind = 'client' AND name = NEW.name AND rowid <> NEW.rowid
            )
            BEGIN UPDATE counter SET value = value + 1 WHERE name = '{CLIENTS}'; END"""  # noqa: S608
    )
