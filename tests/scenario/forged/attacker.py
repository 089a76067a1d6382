"""What a hostile operator of the Temporal server has and can do.

The operator holds the keyring and every history, and may start any activity or workflow on any queue with any input.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pytest
from temporalio.client import ActivityFailureError
from temporalio.common import RetryPolicy

from cleanroom.clients.azure import ARM_SCOPE
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import Document
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    SPARK_SERVICE_QUEUE,
    collaborator_queue,
    document_digest,
    identity_name,
    prepare_workflow_id,
)
from cleanroom.messages.publish import AuthorisedDataset, CleanRoomPolicy, Descriptor, ProposedDocument
from cleanroom.messages.query import AuthorisedCommand, QueryState, VoteRequest
from cleanroom.messages.run import (
    PolicyRequest,
    PolicyStatement,
    Prepared,
    ReportRequest,
    Revoked,
    RevokeRequest,
    RunQueryInput,
    RunTicket,
    ServiceProof,
    StagedSecret,
)
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.reader import UserReader
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner
from cleanroom.statements import Authorisation, Decision, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.session import Session, now, run_async
from tests.local_cloud import Cloud, Guest, World, unique
from workflows.prepare import Prepare

CONTOSSO, LITWARE, FABRIKAM = (collaborator_queue(name) for name in ("contosso", "litware", "fabrikam"))


async def call_activity(cloud: Cloud, queue: str, activity: str, argument: Any, result_type: Any = None) -> Any:
    """Run one activity alone, which any holder of the keyring can do.

    Raises:
        CleanRoomError: The activity refused.
    """
    client = await cloud.fabrikam.temporal()
    try:
        return await client.execute_activity(
            activity,
            argument,
            id=f"forged-{uuid.uuid4()}",
            task_queue=queue,
            result_type=result_type,
            start_to_close_timeout=dt.timedelta(seconds=60),
            heartbeat_timeout=dt.timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
    except ActivityFailureError as error:
        raise error_from_failure(error.cause) from error


@dataclass
class Run:
    """A prepared run: its signed request and the result of its preparation, both read from histories."""

    ticket: RunTicket
    result: Prepared

    @property
    def proof(self) -> ServiceProof:
        return self.result.proof

    def secret(self, kind: str) -> StagedSecret:
        return next(item for item in self.result.secrets if item.kind == kind)


@dataclass
class Attacker:
    """What the attacker has: genuine inputs of genuine runs and authorisations, all read from histories."""

    cloud: Cloud
    world: World
    query: QueryState
    run: Run
    """Prepared; it has its grants."""
    closed_run: Run
    """Prepared and closed; its grants are revoked."""
    fresh_ticket: RunTicket
    """Signed by its caller; not prepared."""
    proposed_query: QueryState
    """A proposed query without votes."""
    pending_descriptor: Descriptor
    """Of a dataset of Litware that is proposed and not accepted; the next two members too."""
    pending_proposal: ProposedDocument
    pending_spec: DatasetSpec
    policy: CleanRoomPolicy
    documents: dict[str, Document] = field(default_factory=dict)

    # ------------------------------------------------------------------ genuine and forged authorisations

    def authorised_dataset(self, session: Session, spec: DatasetSpec, signed: DatasetSpec | None = None) -> AuthorisedDataset:
        """The owner's authorisation for ``signed``, sent with ``spec``."""
        token = session.authorise("publish-dataset", (signed or spec).name, (signed or spec).digest())
        return AuthorisedDataset(collaboration=self.cloud.collaboration, spec=spec, authorisation=token)

    @property
    def litware_dataset(self) -> AuthorisedDataset:
        return self.authorised_dataset(self.cloud.litware, self.world.planes)

    @property
    def contosso_dataset(self) -> AuthorisedDataset:
        return self.authorised_dataset(self.cloud.contosso, self.world.flights)

    def dataset_in_the_name_of(self, session: Session, spec: DatasetSpec) -> AuthorisedDataset:
        """An authorisation in the name of ``session``'s user, signed by Fabrikam."""
        claims = Authorisation(
            collaboration=self.cloud.collaboration,
            signer=session.user_id,
            expires=now() + dt.timedelta(days=1),
            action="publish-dataset",
            subject=spec.name,
            digest=spec.digest(),
        )
        token = sign(claims, self.cloud.fabrikam.key())
        return AuthorisedDataset(collaboration=self.cloud.collaboration, spec=spec, authorisation=token)

    def changed_descriptor(self, name: str, change: Callable[[dict[str, Any]], None]) -> Descriptor:
        """The document of a published dataset, changed."""
        value = json.loads(str(self.documents[name].data))
        change(value)
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return Descriptor(document_id=name, data=data, digest=document_digest(data), labels=self.documents[name].labels or {})

    def decision(self, session: Session, **claims: Any) -> str:
        """A decision on the proposed query, with some claims changed."""
        true = {
            "collaboration": self.cloud.collaboration,
            "signer": session.user_id,
            "expires": now() + dt.timedelta(days=1),
            "query": self.proposed_query.query,
            "version": self.proposed_query.version,
            "proposal_id": self.proposed_query.proposal_id,
            "digest": self.proposed_query.digest,
            "decision": "approve",
        }
        return sign(Decision(**{**true, **claims}), session.key())

    def vote(self, token: str, **members: Any) -> VoteRequest:
        """A vote on the proposed query, with some members changed."""
        true = {
            "collaboration": self.cloud.collaboration,
            "query": self.proposed_query.query,
            "proposal_id": self.proposed_query.proposal_id,
            "version": self.proposed_query.version,
            "digest": self.proposed_query.digest,
            "token": token,
        }
        return VoteRequest(**{**true, **members})

    def authorised_command(self, action: str, **members: Any) -> AuthorisedCommand:
        """Fabrikam's authorisation for its own worker, on the proposed query, with some claims or members changed."""
        name = members.get("query", self.proposed_query.query)
        spec = members.get("spec")
        digest = spec.digest() if spec else members.pop("digest", self.proposed_query.digest)
        claims = {"version": members.pop("version", self.proposed_query.version)} if action != "create-query" else {}
        if action == "withdraw-query":
            claims["proposal_id"] = members.pop("proposal_id", self.proposed_query.proposal_id)
        token = self.cloud.fabrikam.authorise(action, name, digest, **claims)
        true = {"party": "fabrikam", "collaboration": self.cloud.collaboration, "query": name, "authorisation": token}
        return AuthorisedCommand(**{**true, **members})

    # ------------------------------------------------------------------ proofs that are almost right

    def genuine_service(self, ticket: RunTicket, job: Any) -> ServiceProof:
        """The proof that the genuine Spark service makes for ``ticket`` and ``job``. It makes one for any caller."""

        async def ask() -> ServiceProof:
            nonce = service_nonce(ticket)
            report = await call_activity(
                self.cloud, SPARK_SERVICE_QUEUE, "get_attestation_report", ReportRequest(nonce=nonce), ServiceReport
            )
            policies = await call_activity(
                self.cloud, SPARK_SERVICE_QUEUE, "get_security_policy", PolicyRequest(job=job, nonce=nonce), PolicyStatement
            )
            return ServiceProof(report=report, policies=policies)

        return run_async(ask())

    def own_service(self, ticket: RunTicket) -> ServiceProof:
        """The proof of the attacker's Spark service on the same hardware: right policies and nonce, other code."""
        profile, job, signer = (
            self.cloud.pod_profile(),
            self.run.result.job,
            PolicySigner(),
        )
        nonce = service_nonce(ticket)
        payload, policies = signer.payload(nonce), pod_policies(job, profile)
        evidence = run_async(Guest(self.cloud.hardware, "ab" * 32).attest(payload.encode()))
        statement = PolicyStatement(
            statement=signer.sign(job, profile, policies, nonce).statement,
            driver_host_data=policies.driver.host_data,
            executor_host_data=policies.executor.host_data,
        )
        return ServiceProof(report=ServiceReport(evidence=evidence, payload=payload), policies=statement)

    @cached_property
    def edited_ticket(self) -> RunTicket:
        """The open run's request with another run ID, under the old signature."""
        head, body, signature = self.run.ticket.request.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims["run_id"] = "r-edited"
        text = base64.urlsafe_b64encode(json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()).rstrip(b"=").decode()
        return self.run.ticket.model_copy(update={"run_id": "r-edited", "request": f"{head}.{text}.{signature}"})


def prepare_run(cloud: Cloud, ticket: RunTicket) -> Run:
    """Run ``Prepare`` alone."""

    async def work() -> Run:
        client = await cloud.fabrikam.temporal()
        attributes = start_attributes(collaboration=ticket.collaboration, kind="run", query=ticket.query, proposer="fabrikam")
        found = await client.execute_workflow(
            Prepare.run,
            RunQueryInput(ticket=ticket, caller="fabrikam"),
            id=prepare_workflow_id(ticket.collaboration, ticket.run_id),
            task_queue=CLEAN_ROOM_QUEUE,
            search_attributes=attributes,
        )
        return Run(ticket, found)

    return run_async(work())


def revoke_run(cloud: Cloud, ticket: RunTicket) -> Revoked:
    """Call ``revoke_grants`` alone."""
    found: Revoked = run_async(call_activity(cloud, CLEAN_ROOM_QUEUE, "revoke_grants", RevokeRequest(ticket=ticket), Revoked))
    return found


def releasable_state(attacker: Attacker) -> dict[str, Any]:
    """Everything that an accepted forgery could have changed."""
    cloud = attacker.cloud

    async def governance() -> dict[str, Any]:
        async with cloud.fabrikam.governance() as client:
            documents = {}
            for row in await client.list_documents():
                document = await client.get_document(row.id)
                ballots: Any = ()
                if document.state == "Proposed":
                    ballots = (await client.proposal_status(document.proposal_id)).ballots
                documents[row.id] = (document.state, document.version, document_digest(str(document.data)), document.proposal_id, ballots)
            delegates = {
                place: {name: sorted(map(str, values)) for name, values in policy.items()}
                for place, policy in cloud.leftovers.delegates().items()
            }
            return {
                "documents": documents,
                "delegates": delegates,
                "secrets": sorted(await client.list_secrets(cloud.collaboration)),
                "started": await UserReader(client, cloud.collaboration).runs_started(attacker.query.query),
                "policy": await client.clean_room_policy(cloud.collaboration),
            }

    found = run_async(governance())
    found["applications"] = sorted(item["metadata"]["name"] for item in cloud.leftovers.applications())
    own = cloud.contosso.settings.azure
    name = identity_name(cloud.collaboration, attacker.world.flights.name)
    group = f"/subscriptions/{own.subscription_id}/resourceGroups/{own.resource_group}/providers"
    identity = f"{group}/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    found["federations"] = list_arm(cloud, f"{identity}/federatedIdentityCredentials", "2024-11-30")
    for scope in (own.storage_account_id, own.key_vault_id):
        found[f"roles on {scope}"] = list_arm(cloud, f"{scope}/providers/Microsoft.Authorization/roleAssignments", "2022-04-01")
    return found


def list_arm(cloud: Cloud, path: str, api_version: str) -> list[Any]:
    """List resources below ``path`` in Contosso's subscription."""
    own = cloud.contosso.settings
    token = cloud.contosso.credential().get_token(ARM_SCOPE).token
    verify = ssl.create_default_context(cafile=str(own.ca_file))
    with httpx.Client(verify=verify, headers={"authorization": f"Bearer {token}"}) as client:
        answer = client.get(f"{own.azure.arm_url}{path}", params={"api-version": api_version})
    assert answer.status_code == 200, answer.text
    return sorted(answer.json()["value"], key=lambda item: str(item["id"]))


def refusal_of_workflow(cloud: Cloud, run: Any, argument: Any, queue: str, **attributes: Any) -> str:
    """Start a workflow as the attacker does; return the code of its refusal."""

    async def work() -> None:
        client = await cloud.fabrikam.temporal()
        await client.execute_workflow(
            run,
            argument,
            id=unique("forged"),
            task_queue=queue,
            search_attributes=start_attributes(collaboration=cloud.collaboration, kind="run", **attributes),
        )

    with pytest.raises(CleanRoomError) as caught:
        run_async(work())
    return caught.value.code
