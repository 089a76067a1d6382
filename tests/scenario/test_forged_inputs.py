"""Whoever has every right on the Temporal server, the keyring included, starts activities and workflows with what they like.

Each row of :data:`FORGERIES` is one forged, mixed or replayed input, sent as an activity of its own onto the queue of a trust boundary,
with the code of its refusal. After each, everything that could have been released is as it was: secrets, delegate policies, documents,
ballots, SparkApplications, role assignments, federated credentials.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
from pydantic import BaseModel
from temporalio.client import ActivityFailureError
from temporalio.common import RetryPolicy

from activities.azure_ad import identity_name
from cleanroom.clients.azure import FederatedCredentials, ManagedIdentities, RoleAssignments
from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError
from cleanroom.governance import Document
from cleanroom.identifiers import (
    CLEAN_ROOM_QUEUE,
    FRONTEND_QUEUE,
    SPARK_SERVICE_QUEUE,
    TOKEN_EXCHANGE_AUDIENCE,
    collaborator_queue,
    document_digest,
    federated_subject,
    job_name,
    prepare_workflow_id,
)
from cleanroom.messages.publish import (
    AcceptOrder,
    AccessOrder,
    CleanRoomDetailsRequest,
    CleanRoomIdentity,
    CleanRoomPolicy,
    Descriptor,
    DescriptorRequest,
    FederationOrder,
    KeyOrder,
    ManagedIdentity,
    OwnerOrder,
    ProposedDocument,
    ProposeOrder,
    PublishDatasetInput,
    SecretOrder,
    StoredSecret,
)
from cleanroom.messages.query import (
    AuthorOrder,
    DraftOrder,
    GenerateQueryRequest,
    ProposeQueryOrder,
    QueryDraft,
    QueryState,
    VoteOrder,
    WithdrawOrder,
)
from cleanroom.messages.run import (
    AuditEvent,
    CollectRequest,
    ConsentReceiptRequest,
    ConsentWatchRequest,
    GrantRequest,
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
    StageRequest,
    SubmitRequest,
    TrackingId,
    VerifyPolicyRequest,
    VerifySparkRequest,
    WatchRequest,
)
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.reader import UserReader
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.signed import PolicySigner, ServiceReport
from cleanroom.statements import Authorisation, Decision, sign
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.consent import set_consent
from starters.operations.session import Session, now, run_async
from tests.local_cloud import Cloud, Guest, World, flights_spec, planes_spec, unique
from tests.scenario.test_refusals import ticket_of
from workflows.prepare import Prepare
from workflows.publish_s3_dataset import PublishS3Dataset

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

CONTOSSO, LITWARE, FABRIKAM = (collaborator_queue(name) for name in ("contosso", "litware", "fabrikam"))


async def forged(cloud: Cloud, queue: str, activity: str, argument: Any, result_type: Any = None) -> Any:
    """Run one activity alone, as anybody may who holds the keyring; raises what it was refused with."""
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
    """A run of the attacker's collection: its signed request, and what its preparation brought, as history shows both."""

    ticket: RunTicket
    prepared: Prepared

    @property
    def proof(self) -> ServiceProof:
        return self.prepared.proof

    def secret(self, kind: str) -> StagedSecret:
        return next(item for item in self.prepared.secrets if item.kind == kind)


@dataclass
class Loot:
    """What the attacker has: true inputs of true runs and orders, all taken from histories."""

    cloud: Cloud
    world: World
    query: QueryState
    open: Run
    """Prepared, its grants stand."""
    closed: Run
    """Prepared, and its grants taken back."""
    fresh: RunTicket
    """Signed by its caller, never prepared."""
    voting: QueryState
    """A query that is proposed and waits for its owners."""
    descriptor: Descriptor
    """Of a dataset of Litware's that was proposed and is not accepted yet."""
    proposed: ProposedDocument
    pending: DatasetSpec
    policy: CleanRoomPolicy
    documents: dict[str, Document] = field(default_factory=dict)

    # orders, signed by whom they should be

    def order(self, session: Session, spec: DatasetSpec, signed: DatasetSpec | None = None) -> OwnerOrder:
        """The owner's order for ``signed``, presented for ``spec``."""
        word = session.authorise("publish-dataset", (signed or spec).name, (signed or spec).digest())
        return OwnerOrder(collaboration=self.cloud.collaboration, spec=spec, authorisation=word)

    @property
    def litware(self) -> OwnerOrder:
        return self.order(self.cloud.litware, self.world.planes)

    @property
    def contosso(self) -> OwnerOrder:
        return self.order(self.cloud.contosso, self.world.flights)

    def in_the_name_of(self, session: Session, spec: DatasetSpec) -> OwnerOrder:
        """Fabrikam signs in somebody else's name."""
        claims = Authorisation(
            collaboration=self.cloud.collaboration,
            signer=session.user_id,
            expires=now() + dt.timedelta(days=1),
            action="publish-dataset",
            subject=spec.name,
            digest=spec.digest(),
        )
        word = sign(claims, self.cloud.fabrikam.key())
        return OwnerOrder(collaboration=self.cloud.collaboration, spec=spec, authorisation=word)

    def descriptor_of(self, name: str, change: Callable[[dict[str, Any]], None]) -> Descriptor:
        """A published dataset's document, changed."""
        value = json.loads(str(self.documents[name].data))
        change(value)
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return Descriptor(document_id=name, data=data, digest=document_digest(data), labels=self.documents[name].labels or {})

    def decision(self, session: Session, **claims: Any) -> str:
        """A decision on the query that waits for its owners, some claims changed."""
        true = {
            "collaboration": self.cloud.collaboration,
            "signer": session.user_id,
            "expires": now() + dt.timedelta(days=1),
            "query": self.voting.query,
            "version": self.voting.version,
            "proposal_id": self.voting.proposal_id,
            "digest": self.voting.digest,
            "decision": "approve",
        }
        return sign(Decision(**{**true, **claims}), session.key())

    def vote(self, token: str, **members: Any) -> VoteOrder:
        true = {
            "collaboration": self.cloud.collaboration,
            "query": self.voting.query,
            "proposal_id": self.voting.proposal_id,
            "version": self.voting.version,
            "digest": self.voting.digest,
            "token": token,
        }
        return VoteOrder(**{**true, **members})

    def author(self, action: str, **members: Any) -> AuthorOrder:
        """Fabrikam's order to her own worker."""
        name = members.get("query", self.voting.query)
        spec = members.get("spec")
        word = self.cloud.fabrikam.authorise(action, name, spec.digest() if spec else "0" * 64)
        return AuthorOrder(**{"collaboration": self.cloud.collaboration, "query": name, "authorisation": word, **members})

    # proofs that are nearly right

    def policies_for(self, ticket: RunTicket, job: Any) -> ServiceProof:
        """The true Spark service attests itself for ``ticket`` and signs policies for ``job``: it is asked to, like by anybody."""

        async def ask() -> ServiceProof:
            nonce = service_nonce(ticket)
            report = await forged(self.cloud, SPARK_SERVICE_QUEUE, "get_attestation_report", ReportRequest(nonce=nonce), ServiceReport)
            policies = await forged(
                self.cloud, SPARK_SERVICE_QUEUE, "get_security_policy", PolicyRequest(job=job, nonce=nonce), PolicyStatement
            )
            return ServiceProof(report=report, policies=policies)

        return run_async(ask())

    def own_service(self, ticket: RunTicket) -> ServiceProof:
        """A Spark service of the attacker's on the same hardware: right policies, right nonce, other code."""
        profile, job, signer = PodProfile.from_settings(self.cloud.settings("spark-service")), self.open.prepared.job, PolicySigner()
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
    def tampered(self) -> RunTicket:
        """The open run's request with another run id inside, under the old signature."""
        head, body, signature = self.open.ticket.request.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims["run_id"] = "r-tampered"
        text = base64.urlsafe_b64encode(json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()).rstrip(b"=").decode()
        return self.open.ticket.model_copy(update={"run_id": "r-tampered", "request": f"{head}.{text}.{signature}"})


# ---------------------------------------------------------------------- loot


def _prepare(cloud: Cloud, ticket: RunTicket) -> Run:
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


def _revoke(cloud: Cloud, ticket: RunTicket) -> Revoked:
    found: Revoked = run_async(forged(cloud, CLEAN_ROOM_QUEUE, "revoke_grants", RevokeRequest(ticket=ticket), Revoked))
    return found


@pytest.fixture(scope="module")
def loot(cloud: Cloud, world: World) -> Iterator[Loot]:
    query = cloud.approved(world.query())
    tickets = [ticket_of(cloud, query.query, query.digest)[0] for _ in range(3)]
    closed = _prepare(cloud, tickets[0])
    assert _revoke(cloud, tickets[0]).grants > 0
    opened = _prepare(cloud, tickets[1])
    voting = cloud.propose(world.query("voting"))
    pending = planes_spec()

    async def begin() -> tuple[CleanRoomPolicy, Descriptor, ProposedDocument, dict[str, Document]]:
        """Litware's own publishing of another dataset, as far as its proposal."""
        word = cloud.litware.authorise("publish-dataset", pending.name, pending.digest())
        order = OwnerOrder(collaboration=cloud.collaboration, spec=pending, authorisation=word)
        details = CleanRoomDetailsRequest(collaboration=cloud.collaboration, owner_id=cloud.litware.user_id)
        policy = await forged(cloud, FRONTEND_QUEUE, "get_clean_room_policy", details, CleanRoomPolicy)
        stored = [
            await forged(cloud, LITWARE, "set_secret", SecretOrder(order=order, kind=kind, policy=policy), StoredSecret)
            for kind in ("connection", "key")
        ]
        own = cloud.litware.settings.s3
        request = DescriptorRequest(
            collaboration=cloud.collaboration,
            owner_id=cloud.litware.user_id,
            spec=pending,
            store_url=own.endpoint_url or "",
            region=own.region,
            secrets=tuple(stored),
        )
        descriptor = await forged(cloud, FRONTEND_QUEUE, "generate_dataset_descriptor", request, Descriptor)
        proposed = await forged(cloud, LITWARE, "propose_document", ProposeOrder(order=order, descriptor=descriptor), ProposedDocument)
        async with cloud.fabrikam.governance() as client:
            documents = {name: await client.get_document(name) for name in (world.flights.name, world.planes.name, world.output.name)}
        return policy, descriptor, proposed, documents

    policy, descriptor, proposed, documents = run_async(begin())
    yield Loot(cloud, world, query, opened, closed, tickets[2], voting, descriptor, proposed, pending, policy, documents)
    _revoke(cloud, opened.ticket)
    assert cloud.grants_left() == {}
    assert cloud.secrets_left(opened.ticket.run_id) == []


def everything(loot: Loot) -> dict[str, Any]:
    """All that a forged input could have changed."""
    cloud = loot.cloud

    async def governance() -> dict[str, Any]:
        async with cloud.fabrikam.governance() as client:
            documents = {}
            for row in await client.list_documents():
                document = await client.get_document(row.id)
                ballots: Any = ()
                if document.state == "Proposed":
                    ballots = (await client.proposal_status(document.proposal_id)).ballots
                documents[row.id] = (document.state, document.version, document_digest(str(document.data)), document.proposal_id, ballots)
            delegates = {}
            for item in await client.list_delegates(cloud.collaboration):
                policy = await client.delegate_policy(cloud.collaboration, item.delegate_type, item.delegate_id)
                delegates[item.delegate_type, item.delegate_id] = {name: sorted(map(str, values)) for name, values in policy.items()}
            return {
                "documents": documents,
                "delegates": delegates,
                "secrets": sorted(await client.list_secrets(cloud.collaboration)),
                "started": await UserReader(client, cloud.collaboration).runs_started(loot.query.query),
                "policy": await client.clean_room_policy(cloud.collaboration),
            }

    found = run_async(governance())
    found["applications"] = sorted(item["metadata"]["name"] for item in cloud.applications())
    own, credential = cloud.contosso.settings, cloud.contosso.credential()
    federations = FederatedCredentials(credential, own.azure, ca_file=own.ca_file)
    name = identity_name(cloud.collaboration, loot.world.flights.name)
    found["federations"] = sorted(
        (item.name, item.issuer, item.subject) for item in federations._operations.list(own.azure.resource_group, name)
    )
    roles = RoleAssignments(credential, own.azure, ca_file=own.ca_file)
    found["roles"] = sorted(
        (scope, item.principal_id, item.role_definition_id)
        for scope in (own.azure.storage_account_id, own.azure.key_vault_id)
        for item in roles._operations.list_for_scope(scope.lstrip("/"))
    )
    return found


# ---------------------------------------------------------------------- the table


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for member in path[:-1]:
            value = value[member]
        assert value[path[-1]] != to
        value[path[-1]] = to

    return change


def _identity(loot: Loot) -> ManagedIdentity:
    own = loot.cloud.contosso.settings
    made = ManagedIdentities(loot.cloud.contosso.credential(), own.azure, ca_file=own.ca_file).get(
        identity_name(loot.cloud.collaboration, loot.world.flights.name)
    )
    return ManagedIdentity(
        name=made.name, resource_id=made.id, client_id=made.client_id, principal_id=made.principal_id, tenant_id=made.tenant_id
    )


def _federation(loot: Loot, **members: str) -> FederationOrder:
    issuer = json.loads(str(loot.documents[loot.world.flights.name].data))["datasetAccessPoint"]["identity"]["tokenIssuer"]["issuer"]["url"]
    true = {
        "issuer_url": issuer,
        "subject": federated_subject(loot.cloud.collaboration, loot.cloud.contosso.user_id),
        "audience": TOKEN_EXCHANGE_AUDIENCE,
    }
    return FederationOrder(order=loot.contosso, identity=_identity(loot), clean_room=CleanRoomIdentity(**{**true, **members}))


def _weaker(policy: CleanRoomPolicy) -> CleanRoomPolicy:
    """The attacker's guest among those that count as the clean room."""
    return policy.model_copy(update={"host_data": (*policy.host_data, "ab" * 32)})


def _draft(loot: Loot, sql: str) -> QueryDraft:
    """The frontend's own text for a query that the author did not sign."""
    spec = loot.world.query(sql=sql).model_copy(update={"name": loot.voting.query})
    request = GenerateQueryRequest(collaboration=loot.cloud.collaboration, spec=spec, proposer_id=loot.cloud.fabrikam.user_id)
    draft: QueryDraft = run_async(forged(loot.cloud, FRONTEND_QUEUE, "generate_query_document", request, QueryDraft))
    return draft


def _edited_job(run: Run) -> Any:
    segment = run.prepared.job.segments[0]
    sql = segment.model_copy(update={"sql": "SELECT * FROM flights"})
    return run.prepared.job.model_copy(update={"segments": (sql, *run.prepared.job.segments[1:])})


def _job_for(loot: Loot, ticket: RunTicket) -> Any:
    return loot.open.prepared.job.model_copy(update={"run_id": ticket.run_id})


def _grant(run: Run, role: str = "driver", **members: Any) -> GrantRequest:
    return GrantRequest(**{"ticket": run.ticket, "proof": run.proof, "role": role, "secret": run.prepared.secrets[0], **members})


def _stage(run: Run, kind: str = "key", **members: Any) -> StageRequest:
    return StageRequest(**{"ticket": run.ticket, "proof": run.proof, "dataset": run.secret(kind).dataset, "kind": kind, **members})


Make = Callable[[Loot], Any]
RELEASING: dict[str, Callable[[Run], BaseModel]] = {
    "get_key_with_skr": lambda run: _stage(run, dataset=next(d.name for d in run.prepared.job.datasets if d.access.kind == "azure-blob")),
    "get_secret": lambda run: _stage(run, "connection"),
    "set_secret": _grant,
    "configure_idp": _grant,
    "issue_consent_receipt": lambda run: ConsentReceiptRequest(ticket=run.ticket, proof=run.proof),
    "watch_consent": lambda run: ConsentWatchRequest(ticket=run.ticket, proof=run.proof, interval_seconds=1),
}
"""Every activity of the clean room that gives something to pods."""


def _each(code: str, what: str, change: Callable[[Loot], Run]) -> list[tuple[str, str, str, Make, str]]:
    """The same forgery at every activity that releases something."""

    def make(build: Callable[[Run], BaseModel]) -> Make:
        return lambda loot: build(change(loot))

    return [(f"{name}: {what}", CLEAN_ROOM_QUEUE, name, make(build), code) for name, build in RELEASING.items()]


def _mixed(run: Run, **members: Any) -> Run:
    return Run(
        ticket=members.get("ticket", run.ticket), prepared=run.prepared.model_copy(update={"proof": members.get("proof", run.proof)})
    )


FORGERIES: list[tuple[str, str, str, Make, str]] = [
    # ------------------------------------------------ runs: mixed and replayed
    *_each("NonceMismatch", "another run's proof", lambda loot: _mixed(loot.open, ticket=loot.fresh)),
    *_each("RunClosed", "a run that is over, replayed", lambda loot: loot.closed),
    *_each("HostDataMismatch", "a Spark service of one's own", lambda loot: _mixed(loot.open, proof=loot.own_service(loot.open.ticket))),
    *_each(
        "TicketMismatch",
        "a request under another run's id",
        lambda loot: _mixed(loot.open, ticket=loot.open.ticket.model_copy(update={"run_id": "r-other"})),
    ),
    *_each("SignatureInvalid", "a request that was edited", lambda loot: _mixed(loot.open, ticket=loot.tampered)),
    *_each(
        "PolicyJobMismatch",
        "policies that the true service signed for an edited job",
        lambda loot: _mixed(loot.open, proof=loot.policies_for(loot.open.ticket, _edited_job(loot.open))),
    ),
    (
        "report of this run, policies of another",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(
            loot.open,
            proof=ServiceProof(report=loot.open.proof.report, policies=loot.policies_for(loot.fresh, loot.open.prepared.job).policies),
        ),
        "NonceMismatch",
    ),
    (
        "request of another collaboration",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(loot.open, ticket=loot.open.ticket.model_copy(update={"collaboration": "other"})),
        "CollaborationMismatch",
    ),
    (
        "a request for another query of the same caller",
        CLEAN_ROOM_QUEUE,
        "get_secret",
        lambda loot: _stage(loot.open, ticket=loot.open.ticket.model_copy(update={"query": loot.voting.query})),
        "TicketMismatch",
    ),
    (
        "an owner's decision in place of a run request",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(loot.open, ticket=loot.open.ticket.model_copy(update={"request": loot.decision(loot.cloud.contosso)})),
        "StatementMalformed",
    ),
    (
        "the owner's own secret instead of the run's copy",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(
            loot.open,
            secret=StagedSecret(
                dataset=loot.world.planes.name, kind="key", secret_id=f"{loot.cloud.litware.user_id}_{loot.world.planes.name}.key"
            ),
        ),
        "SecretNotInJob",
    ),
    (
        "another run's secret",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(loot.open, secret=loot.closed.prepared.secrets[0]),
        "SecretNotInJob",
    ),
    ("no secret", CLEAN_ROOM_QUEUE, "set_secret", lambda loot: _grant(loot.open, secret=None), "SecretNotInJob"),
    (
        "the consent receipt by way of a dataset's secret",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: _grant(
            loot.open,
            secret=StagedSecret(dataset=loot.world.planes.name, kind="consent", secret_id=loot.open.prepared.job.consent_secret_id),
        ),
        "SecretNotInJob",
    ),
    (
        "a role that pods do not have",
        CLEAN_ROOM_QUEUE,
        "set_secret",
        lambda loot: {**_grant(loot.open).model_dump(mode="json"), "role": "attacker"},
        "PayloadMalformed",
    ),
    (
        "a dataset that the query does not name",
        CLEAN_ROOM_QUEUE,
        "get_secret",
        lambda loot: _stage(loot.open, dataset=loot.pending.name),
        "DatasetNotInQuery",
    ),
    (
        "key of a dataset whose key is in Key Vault",
        CLEAN_ROOM_QUEUE,
        "get_secret",
        lambda loot: _stage(loot.open, dataset=loot.world.flights.name),
        "UnexpectedSecretBackingResourceType",
    ),
    (
        "Key Vault for a dataset that has none",
        CLEAN_ROOM_QUEUE,
        "get_key_with_skr",
        lambda loot: _stage(loot.open, dataset=loot.world.planes.name),
        "AccessIdentityMissing",
    ),
    (
        "report that answers another run",
        CLEAN_ROOM_QUEUE,
        "verify_spark",
        lambda loot: VerifySparkRequest(ticket=loot.fresh, report=loot.open.proof.report),
        "NonceMismatch",
    ),
    (
        "statement of a service of one's own",
        CLEAN_ROOM_QUEUE,
        "verify_security_policy",
        lambda loot: VerifyPolicyRequest(ticket=loot.open.ticket, proof=loot.own_service(loot.open.ticket)),
        "HostDataMismatch",
    ),
    # ------------------------------------------------ ledger
    (
        "a step that there is not",
        CLEAN_ROOM_QUEUE,
        "record_event",
        lambda loot: AuditEvent(ticket=loot.open.ticket, step="ALL_OWNERS_AGREED", message="they did"),
        "AuditStepUnknown",
    ),
    (
        "another run's proof in the ledger",
        CLEAN_ROOM_QUEUE,
        "record_event",
        lambda loot: AuditEvent(ticket=loot.fresh, step="PREPARED", message="pods may run", proof=loot.open.proof),
        "NonceMismatch",
    ),
    (
        "an entry about a run that nobody asked for",
        CLEAN_ROOM_QUEUE,
        "record_event",
        lambda loot: AuditEvent(ticket=loot.tampered, step="RUN_STARTED", message="it runs"),
        "SignatureInvalid",
    ),
    (
        "result of a run that never ran",
        CLEAN_ROOM_QUEUE,
        "collect_result",
        lambda loot: CollectRequest(ticket=loot.open.ticket, job_digest=loot.open.prepared.job_digest),
        "CompletionEvidenceMissing",
    ),
    # ------------------------------------------------ Spark service
    (
        "edited job",
        SPARK_SERVICE_QUEUE,
        "submit_job",
        lambda loot: SubmitRequest(ticket=loot.open.ticket, job=_edited_job(loot.open), proof=loot.open.proof),
        "JobMismatch",
    ),
    (
        "another run's job",
        SPARK_SERVICE_QUEUE,
        "submit_job",
        lambda loot: SubmitRequest(ticket=loot.fresh, job=loot.open.prepared.job, proof=loot.open.proof),
        "JobMismatch",
    ),
    (
        "job of a run that is over",
        SPARK_SERVICE_QUEUE,
        "submit_job",
        lambda loot: SubmitRequest(ticket=loot.closed.ticket, job=loot.closed.prepared.job, proof=loot.closed.proof),
        "RunClosed",
    ),
    (
        "edited request",
        SPARK_SERVICE_QUEUE,
        "submit_job",
        lambda loot: SubmitRequest(ticket=loot.tampered, job=_job_for(loot, loot.tampered), proof=loot.open.proof),
        "SignatureInvalid",
    ),
    (
        "another run's job is watched",
        SPARK_SERVICE_QUEUE,
        "watch_job",
        lambda loot: WatchRequest(
            ticket=loot.fresh,
            tracking=TrackingId(
                name=job_name(loot.cloud.collaboration, loot.open.ticket.query, loot.open.ticket.run_id), namespace="analytics", uid=""
            ),
            driver_start_seconds=1,
            run_seconds=1,
        ),
        "JobMismatch",
    ),
    (
        "another run's job is deleted",
        SPARK_SERVICE_QUEUE,
        "delete_job",
        lambda loot: loot.fresh.model_copy(update={"run_id": loot.open.ticket.run_id}),
        "TicketMismatch",
    ),
    # ------------------------------------------------ owners' workers: datasets
    (
        "an order by somebody else",
        LITWARE,
        "set_secret",
        lambda loot: SecretOrder(order=loot.order(loot.cloud.fabrikam, loot.world.planes), kind="key", policy=loot.policy),
        "SignerMismatch",
    ),
    (
        "an order by somebody else in the owner's name",
        LITWARE,
        "set_secret",
        lambda loot: SecretOrder(order=loot.in_the_name_of(loot.cloud.litware, loot.world.planes), kind="key", policy=loot.policy),
        "ApproverKeyUnknown",
    ),
    (
        "an order without floors under the signature with floors",
        LITWARE,
        "set_secret",
        lambda loot: SecretOrder(
            order=loot.order(
                loot.cloud.litware, planes_spec(name=loot.world.planes.name, store=loot.world.planes.store, privacy={}), loot.world.planes
            ),
            kind="key",
            policy=loot.policy,
        ),
        "OrderMismatch",
    ),
    (
        "an order for another collaboration",
        LITWARE,
        "set_secret",
        lambda loot: SecretOrder(order=loot.litware.model_copy(update={"collaboration": "other"}), kind="key", policy=loot.policy),
        "CollaborationMismatch",
    ),
    (
        "a clean room policy with one more guest",
        LITWARE,
        "set_secret",
        lambda loot: SecretOrder(order=loot.litware, kind="connection", policy=_weaker(loot.policy)),
        "CleanRoomPolicyMismatch",
    ),
    (
        "a release policy with one more guest",
        CONTOSSO,
        "set_key_with_skr",
        lambda loot: KeyOrder(order=loot.contosso, policy=_weaker(loot.policy)),
        "CleanRoomPolicyMismatch",
    ),
    (
        "role on the storage account for another principal",
        CONTOSSO,
        "allow_access_blob",
        lambda loot: AccessOrder(order=loot.contosso, identity=_identity(loot).model_copy(update={"principal_id": str(uuid.uuid4())})),
        "IdentityMismatch",
    ),
    (
        "role on the key vault for another principal",
        CONTOSSO,
        "allow_access_key_vault",
        lambda loot: AccessOrder(order=loot.contosso, identity=_identity(loot).model_copy(update={"principal_id": str(uuid.uuid4())})),
        "IdentityMismatch",
    ),
    (
        "an issuer of one's own",
        CONTOSSO,
        "set_federation",
        lambda loot: _federation(loot, issuer_url="https://issuer.attacker.example"),
        "FederationMismatch",
    ),
    (
        "another subject",
        CONTOSSO,
        "set_federation",
        lambda loot: _federation(loot, subject=federated_subject(loot.cloud.collaboration, loot.cloud.fabrikam.user_id)),
        "FederationMismatch",
    ),
    (
        "descriptor with another storage address",
        LITWARE,
        "propose_document",
        lambda loot: ProposeOrder(
            order=loot.litware,
            descriptor=loot.descriptor_of(
                loot.world.planes.name, _set("datasetAccessPoint", "store", "provider", "url", to="https://storage.attacker.example")
            ),
        ),
        "DescriptorMismatch",
    ),
    (
        "descriptor without floors",
        LITWARE,
        "propose_document",
        lambda loot: ProposeOrder(
            order=loot.litware,
            descriptor=loot.descriptor_of(loot.world.planes.name, lambda value: value["datasetAccessPolicy"].pop("privacyFloors")),
        ),
        "DescriptorMismatch",
    ),
    (
        "descriptor that allows every column",
        CONTOSSO,
        "propose_document",
        lambda loot: ProposeOrder(
            order=loot.contosso,
            descriptor=loot.descriptor_of(
                loot.world.flights.name,
                lambda value: value["datasetAccessPolicy"]["privacyFloors"].update(allowedOutputColumns=["tailnum"]),
            ),
        ),
        "DescriptorMismatch",
    ),
    (
        "descriptor with a key that the attacker knows",
        CONTOSSO,
        "propose_document",
        lambda loot: ProposeOrder(
            order=loot.contosso,
            descriptor=loot.descriptor_of(
                loot.world.flights.name,
                _set(
                    "datasetAccessPoint",
                    "protection",
                    "encryptionSecrets",
                    "dek",
                    "wrappedKey",
                    to=base64.b64encode(b"\1" * 256).decode(),
                ),
            ),
        ),
        "DescriptorMismatch",
    ),
    (
        "descriptor with another attestation authority",
        CONTOSSO,
        "propose_document",
        lambda loot: ProposeOrder(
            order=loot.contosso,
            descriptor=loot.descriptor_of(
                loot.world.flights.name,
                _set(
                    "datasetAccessPoint",
                    "protection",
                    "encryptionSecrets",
                    "kek",
                    "secret",
                    "backingResource",
                    "provider",
                    "configuration",
                    to=base64.b64encode(b'{"authority":"https://maa.attacker.example"}').decode(),
                ),
            ),
        ),
        "DescriptorMismatch",
    ),
    (
        "descriptor of another dataset",
        LITWARE,
        "propose_document",
        lambda loot: ProposeOrder(order=loot.litware, descriptor=loot.descriptor),
        "OrderMismatch",
    ),
    (
        "acceptance of a query's proposal by way of a dataset's",
        LITWARE,
        "accept_document",
        lambda loot: AcceptOrder(
            order=loot.order(loot.cloud.litware, loot.pending),
            proposed=loot.proposed.model_copy(update={"proposal_id": loot.voting.proposal_id}),
        ),
        "ProposalDiffers",
    ),
    (
        "acceptance of another text than was proposed",
        LITWARE,
        "accept_document",
        lambda loot: AcceptOrder(
            order=loot.order(loot.cloud.litware, loot.pending), proposed=loot.proposed.model_copy(update={"digest": "0" * 64})
        ),
        "DocumentDiffers",
    ),
    (
        "acceptance of another's document",
        LITWARE,
        "accept_document",
        lambda loot: AcceptOrder(
            order=loot.litware,
            proposed=ProposedDocument(
                document_id=loot.voting.query,
                proposal_id=loot.voting.proposal_id,
                version=loot.voting.version,
                digest=loot.voting.digest,
            ),
        ),
        "DocumentDiffers",
    ),
    # ------------------------------------------------ owners' workers: votes
    ("a vote without a signature", LITWARE, "accept_query", lambda loot: loot.vote("yes"), "StatementMalformed"),
    (
        "a vote with another's signature",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.contosso)),
        "SignerMismatch",
    ),
    (
        "a vote in the owner's name",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(
            sign(
                Decision(
                    collaboration=loot.cloud.collaboration,
                    signer=loot.cloud.litware.user_id,
                    expires=now() + dt.timedelta(days=1),
                    query=loot.voting.query,
                    version=loot.voting.version,
                    proposal_id=loot.voting.proposal_id,
                    digest=loot.voting.digest,
                    decision="approve",
                ),
                loot.cloud.fabrikam.key(),
            )
        ),
        "ApproverKeyUnknown",
    ),
    (
        "a rejection as an approval",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, decision="reject")),
        "DecisionMismatch",
    ),
    (
        "an approval of another text",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, digest=loot.query.digest)),
        "DecisionMismatch",
    ),
    (
        "an approval of another text, said to be asked for",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, digest=loot.query.digest), digest=loot.query.digest),
        "ProposalDiffers",
    ),
    (
        "an approval cast on another proposal",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware), proposal_id=loot.proposed.proposal_id),
        "DecisionMismatch",
    ),
    (
        "an approval that names a proposal of something else",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(
            loot.decision(loot.cloud.litware, proposal_id=loot.proposed.proposal_id), proposal_id=loot.proposed.proposal_id
        ),
        "ProposalDiffers",
    ),
    (
        "an approval of another version",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, version="1"), version="1"),
        "DecisionVersionMismatch",
    ),
    (
        "an approval that has expired",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, expires=now() - dt.timedelta(seconds=1))),
        "StatementExpired",
    ),
    (
        "an approval for another collaboration",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.decision(loot.cloud.litware, collaboration="other")),
        "CollaborationMismatch",
    ),
    (
        "an order to publish in place of a decision",
        LITWARE,
        "accept_query",
        lambda loot: loot.vote(loot.litware.authorisation),
        "StatementMalformed",
    ),
    # ------------------------------------------------ the author's worker
    (
        "a draft without the text that was signed",
        FABRIKAM,
        "update_document",
        lambda loot: DraftOrder(order=loot.author("update-query"), draft=_draft(loot, World.SQL + "\n"), version=loot.voting.version),
        "OrderMismatch",
    ),
    (
        "a draft that asks for more than was signed",
        FABRIKAM,
        "update_document",
        lambda loot: DraftOrder(
            order=loot.author("update-query", spec=loot.world.query().model_copy(update={"name": loot.voting.query})),
            draft=_draft(loot, World.SQL.replace(">= 25", ">= 21")),
            version=loot.voting.version,
        ),
        "DraftMismatch",
    ),
    (
        "a draft in another's name",
        CONTOSSO,
        "create_document",
        lambda loot: DraftOrder(order=loot.author("create-query"), draft=_draft(loot, World.SQL)),
        "SignerMismatch",
    ),
    (
        "an order to withdraw in place of one to propose",
        FABRIKAM,
        "propose_query",
        lambda loot: ProposeQueryOrder(
            order=loot.author("withdraw-query"), owners=loot.voting.owners, version=loot.voting.version, digest=loot.voting.digest
        ),
        "OrderMismatch",
    ),
    (
        "withdrawal of another proposal",
        FABRIKAM,
        "withdraw_proposal",
        lambda loot: WithdrawOrder(order=loot.author("withdraw-query", query="q-of-mine"), proposal_id=loot.voting.proposal_id),
        "OrderMismatch",
    ),
    # ------------------------------------------------ frontend
    (
        "details of another collaboration",
        FRONTEND_QUEUE,
        "get_clean_room_policy",
        lambda loot: CleanRoomDetailsRequest(collaboration="other", owner_id=loot.cloud.litware.user_id),
        "CollaborationMismatch",
    ),
]


@pytest.mark.parametrize(("queue", "activity", "make", "code"), [row[1:] for row in FORGERIES], ids=[row[0] for row in FORGERIES])
def test_forged_input(loot: Loot, queue: str, activity: str, make: Make, code: str) -> None:
    argument = make(loot)
    # What the forgery before this one left: whatever that one changes late is noticed here.
    before = _LEFT.pop() if _LEFT else everything(loot)
    with pytest.raises(CleanRoomError) as caught:
        run_async(forged(loot.cloud, queue, activity, argument))
    assert caught.value.code == code, caught.value
    after = everything(loot)
    assert after == before
    _LEFT.append(after)


_LEFT: list[dict[str, Any]] = []
"""Everything as the last forgery left it, while nothing else has been tested."""


@pytest.fixture(autouse=True)
def nothing_between_forgeries(request: pytest.FixtureRequest) -> None:
    if request.function is not test_forged_input:
        _LEFT.clear()


# ---------------------------------------------------------------------- what needs more than one step


def test_the_control_true_inputs_are_accepted(loot: Loot) -> None:
    """The same call with nothing forged: the refusals above are not those of a door that is shut to everybody."""
    before = everything(loot)
    run_async(forged(loot.cloud, CLEAN_ROOM_QUEUE, "set_secret", _grant(loot.open)))
    run_async(forged(loot.cloud, CLEAN_ROOM_QUEUE, "configure_idp", _grant(loot.open, "executor")))
    assert everything(loot) == before, "granted already by the preparation"


def test_revoking_with_others_requests_takes_nothing(loot: Loot) -> None:
    """Host data and secrets are derived from the signed request: a forged one reaches nobody's grants."""
    before = everything(loot)
    for ticket in (loot.tampered, loot.fresh.model_copy(update={"run_id": loot.open.ticket.run_id})):
        assert _revoke(loot.cloud, ticket).grants == 0
    assert everything(loot) == before
    assert loot.open.ticket.run_id in str(before["delegates"])


def test_receipt_of_consent_after_it_was_withdrawn(loot: Loot) -> None:
    """Neither the receipt nor any secret, as long as one approver has switched consent off."""
    cloud, name = loot.cloud, loot.query.query
    run_async(set_consent(cloud.litware, name, enabled=False))
    try:
        before = everything(loot)
        for activity, build in RELEASING.items():
            with pytest.raises(CleanRoomError) as caught:
                run_async(forged(cloud, CLEAN_ROOM_QUEUE, activity, build(loot.open)))
            assert (activity, caught.value.code) == (activity, "UserDocumentRuntimeOptionDisabled")
        request = SubmitRequest(ticket=loot.open.ticket, job=loot.open.prepared.job, proof=loot.open.proof)
        with pytest.raises(CleanRoomError) as caught:
            run_async(forged(cloud, SPARK_SERVICE_QUEUE, "submit_job", request))
        assert caught.value.code == "UserDocumentRuntimeOptionDisabled"
        assert everything(loot) == before
    finally:
        run_async(set_consent(cloud.litware, name, enabled=True))


def test_limit_of_runs_holds_without_the_workflow(cloud: Cloud, world: World) -> None:
    """An approval for one run: whoever calls the activities alone, leaving out what only counts, is refused the second receipt."""
    state = cloud.approved(world.query("once"), max_runs=1)
    others = cloud.grants_left()
    runs = [_prepare(cloud, ticket_of(cloud, state.query, state.digest)[0]) for _ in range(2)]
    try:
        request = RELEASING["issue_consent_receipt"](runs[0])
        run_async(forged(cloud, CLEAN_ROOM_QUEUE, "issue_consent_receipt", request, StagedSecret))
        with pytest.raises(CleanRoomError) as caught:
            run_async(forged(cloud, CLEAN_ROOM_QUEUE, "issue_consent_receipt", RELEASING["issue_consent_receipt"](runs[1])))
        assert caught.value.code == "ApprovalRunsExhausted"
    finally:
        for run in runs:
            _revoke(cloud, run.ticket)
    assert cloud.grants_left() == others


def test_foreign_proposal_for_ones_own_dataset_name(loot: Loot) -> None:
    """Fabrikam proposes a document under the name of a dataset that Contosso is about to publish, with Contosso as its approver."""
    cloud = loot.cloud
    spec = flights_spec()
    text = str(loot.documents[loot.world.flights.name].data).replace(loot.world.flights.name, spec.name)

    async def sneak() -> ProposedDocument:
        async with cloud.fabrikam.governance() as client:
            documents = cloud.fabrikam.documents(client)
            version = await documents.put_draft(spec.name, text, {"type": "dataset"}, [cloud.contosso.user_id])
            proposal = await documents.propose(spec.name, version, uuid.uuid4().hex)
            return ProposedDocument(document_id=spec.name, proposal_id=proposal, version=version, digest=document_digest(text))

    proposed = run_async(sneak())
    order = loot.order(cloud.contosso, spec)
    run_async(forged(cloud, CONTOSSO, "create_managed_identity", order))
    before = everything(loot)
    with pytest.raises(CleanRoomError) as caught:
        run_async(forged(cloud, CONTOSSO, "accept_document", AcceptOrder(order=order, proposed=proposed)))
    assert caught.value.code == "DescriptorMismatch"
    assert everything(loot) == before


# ---------------------------------------------------------------------- workflows


def _workflow(cloud: Cloud, run: Any, argument: Any, queue: str, **attributes: Any) -> str:
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


def test_preparation_of_a_run_that_is_over(loot: Loot) -> None:
    before = everything(loot)
    request = RunQueryInput(ticket=loot.closed.ticket, caller="fabrikam")
    assert _workflow(loot.cloud, Prepare.run, request, CLEAN_ROOM_QUEUE, query=loot.query.query) == "RunClosed"
    assert everything(loot) == before


@pytest.mark.parametrize(("signed_by", "code"), [("fabrikam", "SignerMismatch"), ("litware", "OrderMismatch")])
def test_publishing_that_the_owner_did_not_order(loot: Loot, signed_by: str, code: str) -> None:
    """Somebody else's order, and the owner's own order for the same name with its floors."""
    cloud, true = loot.cloud, loot.world.planes
    spec = true if signed_by == "fabrikam" else planes_spec(name=true.name, store=true.store, privacy={})
    order = loot.order(cloud.session(signed_by), spec, true)
    before = everything(loot)
    given = PublishDatasetInput(
        collaboration=cloud.collaboration,
        party="litware",
        owner_id=cloud.litware.user_id,
        spec=spec,
        authorisation=order.authorisation,
    )
    assert _workflow(cloud, PublishS3Dataset.run, given, FRONTEND_QUEUE, datasets=[spec.name]) == code
    assert everything(loot) == before
