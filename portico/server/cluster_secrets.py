"""interim; replaced by the peers' module on merge"""

from __future__ import annotations

import json
import secrets as random
from pathlib import Path

from portico.errors import NotFound
from portico.files import read_file, write_file
from portico.server.balancer.plans import Secrets

NAME = "cluster-secrets.json"


def load(state: Path) -> Secrets | None:
    try:
        data = json.loads(read_file(state / NAME))
    except NotFound:
        return None
    return Secrets(data["cluster_id"], tuple((n, bytes.fromhex(k)) for n, k in data["keys"]), data["seed"])


def ensure(state: Path) -> Secrets:
    found = load(state)
    if found is None:
        data = {
            "cluster_id": random.token_hex(8),
            "keys": [[0, random.token_hex(32)]],
            "seed": random.randbits(32),
        }
        write_file(state / NAME, json.dumps(data).encode())
        found = load(state)
        assert found is not None
    return found
