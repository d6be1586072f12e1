"""The API's own specification, fuzzed: no 500, no answer that it does not describe, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from portico.administration.roles import Role
from portico.management.api import serve
from portico.management.api.app import create_app
from portico.management.api.listener import ApiListener
from portico.server.agent import Agent
from portico.settings.document import load_data
from tests.unit.server.test_last_good_state import DATA, Server, make_authority

SPECIFICATION = Path(__file__).parents[3] / "docs" / "openapi.json"
CHECKS = (status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = 3
"""Of each kind for each operation: all of them take some seconds, the same ones every time."""
LEAKS = re.compile(r"Traceback|File \"|site-packages|portico/\w+/\w+\.py|object at 0x|PRIVATE KEY|secret_sha256")

# Ends the credentials that the test itself uses.
LEFT_OUT = {("DELETE", "/v1/sessions/current")}


def specification() -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as state:
        agent = Agent(Path(state) / "state")
        found: dict[str, Any] = create_app(agent).openapi()
        agent.credentials.close()
    return found


SCHEMA = schemathesis.openapi.from_dict(specification())
OPERATIONS: dict[tuple[str, str], Any] = {}
for _found in SCHEMA.get_all_operations():
    _operation: Any = _found.ok()  # type: ignore[union-attr]  # it raises for a specification that is none
    OPERATIONS[_operation.method.upper(), _operation.path] = _operation


@dataclass
class Running:
    url: str
    session: requests.Session
    token: str
    loop: asyncio.AbstractEventLoop


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on the network, in a thread of its own."""
    root = tmp_path_factory.mktemp("fuzz")
    ready, stop = threading.Event(), asyncio.Event()
    found: list[Running] = []

    async def run(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(serve, "STRANGERS", (1e6, 1e6))
        patch.setattr(serve, "EACH", (1e6, 1e6))
        address = f"127.{1 + hash(str(root)) % 250}.{1 + hash(str(root)) // 250 % 250}.7"
        server = Server(root / "state", patch)
        make_authority(server.agent.state)
        server.agent.credentials.reload_authority()
        document = load_data({**DATA, "management": {"listen": [address]}})
        await server.agent.change(document, expected=0, author="test")
        listener = ApiListener(server.agent, serve.api_config(server.agent))
        listener.start()
        await listener.follow()
        _, token = await server.agent.access.create_token("fuzz", Role.ADMINISTRATOR, timedelta(hours=1), "root")
        session = requests.Session()
        session.verify, session.trust_env = str(server.agent.access.authority.directory / "ca.pem"), False
        found.append(Running(f"https://{address}:2506", session, token, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        await listener.close()
        await server.agent.stop()

    def thread() -> None:
        with pytest.MonkeyPatch.context() as patch:
            asyncio.run(run(patch))

    worker = threading.Thread(target=thread)
    worker.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        if found:
            found[0].session.close()
            found[0].loop.call_soon_threadsafe(stop.set)
        worker.join(60)


def test_the_committed_specification_is_the_one_that_is_served() -> None:
    hint = "python -m tests.unit.management.test_api_fuzz > docs/openapi.json"
    assert json.loads(SPECIFICATION.read_text()) == specification(), f"write it again with: {hint}"


def cases() -> Iterator[Any]:
    for key, operation in OPERATIONS.items():
        if key in LEFT_OUT:
            continue
        yield pytest.param(key, GenerationMode.POSITIVE, id=f"{' '.join(key)} valid")
        if len(operation.query) or len(operation.body):  # elsewhere nothing can be wrong: any text is a name
            yield pytest.param(key, GenerationMode.NEGATIVE, id=f"{' '.join(key)} invalid")


@pytest.mark.parametrize(("key", "mode"), list(cases()))
def test_no_request_makes_it_fail_or_leak(key: tuple[str, str], mode: GenerationMode, running: Running) -> None:
    operation = OPERATIONS[key]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attack(case: Any) -> None:
        answer = case.call(
            base_url=running.url,
            headers={"authorization": f"Bearer {running.token}"},
            session=running.session,
            verify=running.session.verify,
            timeout=60,
        )
        case.validate_response(answer, checks=CHECKS)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        assert answer.status_code not in (401, 403) or "NOT_PERMITTED" in answer.text, answer.text
        assert LEAKS.search(answer.text) is None, answer.text[:2000]

    attack()


if __name__ == "__main__":
    print(json.dumps(specification(), indent=1))
