"""Builds forged inputs, and :class:`Forgery`: one forged input with the code of its refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from activities.azure_ad import identity_name
from cleanroom.clients.azure import ManagedIdentities
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    FRONTEND_QUEUE,
    TOKEN_EXCHANGE_AUDIENCE,
    federated_subject,
)
from cleanroom.messages.publish import (
    CleanRoomIdentity,
    CleanRoomPolicy,
    FederationRequest,
    ManagedIdentity,
)
from cleanroom.messages.query import (
    GenerateQueryRequest,
    QueryDraft,
)
from cleanroom.messages.run import (
    ConfigureIdpRequest,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    GrantRequest,
    RunTicket,
    StageRequest,
)
from starters.operations.session import run_async
from tests.scenario.forged.attacker import (
    Attacker,
    Run,
    call_activity,
)


@dataclass(frozen=True)
class Forgery:
    """One forged, mixed or replayed input of an activity."""

    name: str
    queue: str
    activity: str
    code: str
    """Code of the refusal."""
    argument: Callable[[Attacker], Any]
    """Builds the input."""


def set_member(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for member in path[:-1]:
            value = value[member]
        assert value[path[-1]] != to
        value[path[-1]] = to

    return change


def managed_identity(attacker: Attacker) -> ManagedIdentity:
    own = attacker.cloud.contosso.settings
    made = ManagedIdentities(attacker.cloud.contosso.credential(), own.azure, ca_file=own.ca_file).get(
        identity_name(attacker.cloud.collaboration, attacker.world.flights.name)
    )
    return ManagedIdentity(
        name=made.name, resource_id=made.id, client_id=made.client_id, principal_id=made.principal_id, tenant_id=made.tenant_id
    )


def federation_request(attacker: Attacker, **members: str) -> FederationRequest:
    issuer = json.loads(str(attacker.documents[attacker.world.flights.name].data))["datasetAccessPoint"]["identity"]["tokenIssuer"][
        "issuer"
    ]["url"]
    true = {
        "issuer_url": issuer,
        "subject": federated_subject(attacker.cloud.collaboration, attacker.cloud.contosso.user_id),
        "audience": TOKEN_EXCHANGE_AUDIENCE,
    }
    return FederationRequest(
        dataset=attacker.contosso_dataset, identity=managed_identity(attacker), clean_room=CleanRoomIdentity(**{**true, **members})
    )


def weaker_policy(policy: CleanRoomPolicy) -> CleanRoomPolicy:
    """The attacker's guest among those that count as the clean room."""
    return policy.model_copy(update={"host_data": (*policy.host_data, "ab" * 32)})


def query_draft(attacker: Attacker, sql: str) -> QueryDraft:
    """The frontend's own text for a query that the author did not sign."""
    spec = attacker.world.query(sql=sql).model_copy(update={"name": attacker.voting.query})
    request = GenerateQueryRequest(collaboration=attacker.cloud.collaboration, spec=spec, proposer_id=attacker.cloud.fabrikam.user_id)
    draft: QueryDraft = run_async(call_activity(attacker.cloud, FRONTEND_QUEUE, "generate_query_document", request, QueryDraft))
    return draft


def edited_job(run: Run) -> Any:
    segment = run.prepared.job.segments[0]
    sql = segment.model_copy(update={"sql": "SELECT * FROM flights"})
    return run.prepared.job.model_copy(update={"segments": (sql, *run.prepared.job.segments[1:])})


def job_for(attacker: Attacker, ticket: RunTicket) -> Any:
    return attacker.open.prepared.job.model_copy(update={"run_id": ticket.run_id})


def grant_request(run: Run, **members: Any) -> GrantRequest:
    return GrantRequest(**{"ticket": run.ticket, "proof": run.proof, "secret": run.prepared.secrets[0], **members})


def idp_request(run: Run) -> ConfigureIdpRequest:
    return ConfigureIdpRequest(ticket=run.ticket, proof=run.proof)


def stage_request(run: Run, kind: str = "key", **members: Any) -> StageRequest:
    return StageRequest(**{"ticket": run.ticket, "proof": run.proof, "dataset": run.secret(kind).dataset, "kind": kind, **members})


def with_parts(run: Run, **members: Any) -> Run:
    return Run(
        ticket=members.get("ticket", run.ticket), prepared=run.prepared.model_copy(update={"proof": members.get("proof", run.proof)})
    )


RELEASES: dict[str, Callable[[Run], BaseModel]] = {
    "get_key_with_skr": lambda run: stage_request(
        run, dataset=next(d.name for d in run.prepared.job.datasets if d.access.kind == "azure-blob")
    ),
    "get_secret": lambda run: stage_request(run, "connection"),
    "set_secret": grant_request,
    "configure_idp": idp_request,
    "issue_consent_receipt": lambda run: ConsentReceiptRequest(ticket=run.ticket, proof=run.proof),
    "watch_consent": lambda run: ConsentWatchRequest(ticket=run.ticket, proof=run.proof, interval_seconds=1),
}
"""Every activity of the clean room that releases something to pods."""


def at_each_release(name: str, code: str, change: Callable[[Attacker], Run]) -> list[Forgery]:
    """The same forgery at every activity that releases something."""

    def argument(build: Callable[[Run], BaseModel]) -> Callable[[Attacker], Any]:
        return lambda attacker: build(change(attacker))

    return [Forgery(f"{activity}: {name}", CLEAN_ROOM_QUEUE, activity, code, argument(build)) for activity, build in RELEASES.items()]
