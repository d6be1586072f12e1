"""Where Portico keeps its files. The one place that knows."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """Files that outlive a restart; `PORTICO_STATE_DIR` or /var/lib/portico."""
    return Path(os.environ.get("PORTICO_STATE_DIR", "/var/lib/portico"))


def runtime_directory() -> Path:
    """Sockets and pid files; `PORTICO_RUNTIME_DIR` or /run/portico."""
    return Path(os.environ.get("PORTICO_RUNTIME_DIR", "/run/portico"))


def log_directory() -> Path:
    """Records that others may collect; `PORTICO_LOG_DIR` or /var/log/portico."""
    return Path(os.environ.get("PORTICO_LOG_DIR", "/var/log/portico"))


def server_state() -> Path:
    return state_directory() / "server"


def client_state() -> Path:
    return state_directory() / "client"


def witness_state() -> Path:
    """Of a machine that is no server and votes in the cluster's etcd. Its account enters nothing below the others'."""
    state = state_directory()
    return state.with_name(f"{state.name}-witness")


def server_socket() -> Path:
    """The API of this machine's server, for root."""
    return runtime_directory() / "server.sock"


def client_socket() -> Path:
    """The API of this machine's client agent."""
    return runtime_directory() / "client.sock"


def client_status_socket() -> Path:
    """Where every user of this machine may read the client's status. In a directory of its own, which others enter."""
    return runtime_directory() / "client-status" / "status.sock"
