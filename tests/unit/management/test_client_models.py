"""The client package's models beside the server's: what a client reads is what a server sends, field by field.

They are two on purpose (a client takes fields that it does not know, for it may talk to a newer server); this keeps
them from drifting apart within one version.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from portico.management.api import accounting, load_balancing, peers
from portico.management.api import models as served
from portico.management.client import models as read

PAIRS: dict[type[read.Answer], type[BaseModel]] = {
    read.Revision: served.RevisionModel,
    read.SettingsDocument: served.SettingsAnswer,
    read.Difference: served.DifferenceModel,
    read.ProblemFound: served.ProblemModel,
    read.Outcome: served.OutcomeAnswer,
    read.ServerStatus: served.Status,
    read.RemoteClient: served.ClientModel,
    read.Revoked: served.Revoked,
    read.Authority: served.CaAnswer,
    read.EnrolmentToken: served.TokenModel,
    read.IssuedCertificate: served.IssuedModel,
    read.AccountingStatus: accounting.AccountingAnswer,
    read.AccountedSession: accounting.AccountedSessionModel,
    read.AccountedSummary: accounting.AccountedSummaryAnswer,
    read.BalancedServer: load_balancing.ServerModel,
    read.LoadBalancing: load_balancing.LoadBalancingAnswer,
    read.JoinToken: peers.JoinAnswer,
}

LEFT_OUT = {
    read.ServerStatus: {
        "balancer", "cluster", "drifts", "gateway", "location", "revisions", "settings_damage",
    },
    read.ProblemFound: {"line", "source"},
}  # fmt: skip
"""What the client package gives nobody yet; `api.get` has it."""


def test_every_model_of_the_client_has_its_counterpart() -> None:
    found = {
        item
        for item in vars(read).values()
        if isinstance(item, type) and issubclass(item, read.Answer) and item is not read.Answer
    }
    assert found == set(PAIRS)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items(), ids=[ours.__name__ for ours in PAIRS])
def test_a_client_s_model_has_the_fields_of_the_server_s(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert set(theirs.model_fields) - set(ours.model_fields) == LEFT_OUT.get(ours, set())
    assert set(ours.model_fields) <= set(theirs.model_fields)
    client, server = ours.model_json_schema(), theirs.model_json_schema()
    for name in ours.model_fields:
        mine, sent = kind(client["properties"][name], client), kind(server["properties"][name], server)
        assert sent <= mine, f"{name}: the server sends {sent - mine}, which the client does not read"


def kind(schema: dict[str, Any], whole: dict[str, Any]) -> set[str]:
    """The JSON types that a field may have, with those of its entries; an object of fields and a free one are alike."""
    if "$ref" in schema:
        return kind(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        return set[str]().union(*(kind(one, whole) for one in schema["anyOf"]))
    name = schema.get("type", "any")
    if name == "array":
        return {f"array of {' or '.join(sorted(kind(schema.get('items', {}), whole)))}"}
    return {name}


def test_a_field_that_the_server_does_not_send_is_noticed() -> None:
    with pytest.raises(ValidationError):
        read.Revoked.model_validate({"serials": []})
    assert read.Revoked.model_validate({"serials": [], "closed": 1, "newer": True}).closed == 1
