"""Builds forged inputs, and :class:`Forgery`: one forged input with the code of its refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from cleanroom.clients.azure import ManagedIdentities
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, TOKEN_EXCHANGE_AUDIENCE, federated_subject, identity_name
from cleanroom.messages.publish import CleanRoomIdentity, CleanRoomPolicy, FederationRequest, ManagedIdentity
from cleanroom.messages.query import GenerateQueryRequest, QueryDraft
from cleanroom.messages.run import ConfigureIdpRequest, ConsentReceiptRequest, ConsentWatchRequest, GrantRequest, RunTicket, StageRequest
from starters.operations.session import run_async
from tests.local_cloud import ticket_of
from tests.scenario.forged.attacker import Attacker, Run, call_activity


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
    """Return a change that sets the member at ``path``."""

    def change(value: dict[str, Any]) -> None:
        for member in path[:-1]:
            value = value[member]
        assert value[path[-1]] != to
        value[path[-1]] = to

    return change


def managed_identity(attacker: Attacker) -> ManagedIdentity:
    """The managed identity of Contosso's dataset."""
    own = attacker.cloud.contosso.settings
    made = ManagedIdentities(attacker.cloud.contosso.credential(), own.azure, ca_file=own.ca_file).get(
        identity_name(attacker.cloud.collaboration, attacker.world.flights.name)
    )
    return ManagedIdentity(
        name=made.name, resource_id=made.id, client_id=made.client_id, principal_id=made.principal_id, tenant_id=made.tenant_id
    )


def federation_request(attacker: Attacker, **members: str) -> FederationRequest:
    """The input of ``set_federation`` for Contosso's dataset, with some members changed."""
    document = json.loads(str(attacker.documents[attacker.world.flights.name].data))
    issuer = document["datasetAccessPoint"]["identity"]["tokenIssuer"]["issuer"]["url"]
    true = {
        "issuer_url": issuer,
        "subject": federated_subject(attacker.cloud.collaboration, attacker.cloud.contosso.user_id),
        "audience": TOKEN_EXCHANGE_AUDIENCE,
    }
    return FederationRequest(
        dataset=attacker.contosso_dataset, identity=managed_identity(attacker), clean_room=CleanRoomIdentity(**{**true, **members})
    )


def weaker_policy(policy: CleanRoomPolicy) -> CleanRoomPolicy:
    """The policy with the attacker's guest as a further clean room."""
    return policy.model_copy(update={"host_data": (*policy.host_data, "ab" * 32)})


def query_draft(attacker: Attacker, sql: str) -> QueryDraft:
    """A genuine draft of the frontend, for a query that the author did not sign."""
    spec = attacker.world.query(sql=sql).model_copy(update={"name": attacker.proposed_query.query})
    request = GenerateQueryRequest(collaboration=attacker.cloud.collaboration, spec=spec, proposer_id=attacker.cloud.fabrikam.user_id)
    draft: QueryDraft = run_async(call_activity(attacker.cloud, FRONTEND_QUEUE, "generate_query_document", request, QueryDraft))
    return draft


def edited_job(run: Run) -> Any:
    """The run's job with another query text."""
    segment = run.result.job.segments[0]
    sql = segment.model_copy(update={"sql": "SELECT * FROM flights"})
    return run.result.job.model_copy(update={"segments": (sql, *run.result.job.segments[1:])})


def job_for(attacker: Attacker, ticket: RunTicket) -> Any:
    """The prepared run's job under the run ID of ``ticket``."""
    return attacker.run.result.job.model_copy(update={"run_id": ticket.run_id})


def same_run_id(attacker: Attacker) -> RunTicket:
    """Another request that the caller signed with the open run's ID."""
    query = attacker.query
    return ticket_of(attacker.cloud, query.query, query.digest, run_id=attacker.run.ticket.run_id)[0]


def grant_request(run: Run, **members: Any) -> GrantRequest:
    """The input of ``set_secret``, with some members changed."""
    secret = members.pop("secret", run.result.secrets[0])
    return GrantRequest(**{"ticket": run.ticket, "proof": run.proof, "secrets": (secret,), **members})


def idp_request(run: Run) -> ConfigureIdpRequest:
    """The input of ``configure_idp``."""
    return ConfigureIdpRequest(ticket=run.ticket, proof=run.proof)


def stage_request(run: Run, kind: str = "key", **members: Any) -> StageRequest:
    """The input of ``get_secret``, with some members changed."""
    return StageRequest(**{"ticket": run.ticket, "proof": run.proof, "dataset": run.secret(kind).dataset, **members})


def replace_parts(run: Run, **members: Any) -> Run:
    """The run with another ticket or proof."""
    return Run(ticket=members.get("ticket", run.ticket), result=run.result.model_copy(update={"proof": members.get("proof", run.proof)}))


RELEASES: dict[str, Callable[[Run], BaseModel]] = {
    "get_key_with_skr": lambda run: stage_request(
        run, dataset=next(d.name for d in run.result.job.datasets if d.access.kind == "azure-blob")
    ),
    "get_secret": lambda run: stage_request(run, "connection"),
    "set_secret": grant_request,
    "configure_idp": idp_request,
    "issue_consent_receipt": lambda run: ConsentReceiptRequest(ticket=run.ticket, proof=run.proof),
    "watch_consent": lambda run: ConsentWatchRequest(ticket=run.ticket, proof=run.proof, interval_seconds=1),
}
"""Every activity of the clean room that releases something to pods."""


def at_each_release(name: str, code: str, change: Callable[[Attacker], Run]) -> list[Forgery]:
    """Return the same forgery for every activity that releases something."""

    def argument(build: Callable[[Run], BaseModel]) -> Callable[[Attacker], Any]:
        return lambda attacker: build(change(attacker))

    return [Forgery(f"{activity}: {name}", CLEAN_ROOM_QUEUE, activity, code, argument(build)) for activity, build in RELEASES.items()]
