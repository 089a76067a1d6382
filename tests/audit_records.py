"""The records of a genuine audit bundle, built from a :class:`tests.audit_world.AuditWorld`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cleanroom.attestation import report_data_for
from cleanroom.audit.bodies import (
    Body,
    ConsentBody,
    DocumentBody,
    EventBody,
    ExportBody,
    GrantBody,
    JobBody,
    OutcomeBody,
    PoliciesBody,
    PolicyBody,
    ReceiptBody,
    ReportBody,
    RequestBody,
    RevocationBody,
    TrustBody,
)
from cleanroom.audit.chain import Kind
from cleanroom.audit.execution import MeasuredJob, expected_grants
from cleanroom.identifiers import canonical_json, document_digest, federated_subject, sha256_hex
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, pin_entry, pinned_event_id, run_facts, runs_event_id
from cleanroom.spark.policy import PodPolicies, pod_policies
from cleanroom.spark.run_events import EVENT_IDS, RunEvent, event_id
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.signed import PolicySigner
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek
from tests.unit.spark_support import make_profile

if TYPE_CHECKING:
    from tests.audit_world import AuditWorld

COLLABORATION, QUERY = "flights", "fabrikam-delays"
DATASETS = ("contosso-flights", "litware-planes", "litware-weather", "litware-delays")
SPARK_HOST, CLEAN_ROOM_HOST = "5a" * 32, "c1" * 32

Items = list[tuple[Kind, str, dict[str, Any]]]
"""Kind, subject and body of records before they are chained."""
Row = tuple[Kind, str, Body]


def genuine_records(world: AuditWorld) -> Items:
    """Return the contents of all records, in the order of an export."""
    policies = pod_policies(world.job, make_profile())
    rows = [
        *_run_records(world),
        *_document_records(world),
        ("clean-room-policy", COLLABORATION, PolicyBody(policy=CLEAN_ROOM_POLICY)),
        ("trust", world.trust_document.id, _trust_record(world)),
        ("consent", "check", ConsentBody(step="check_execution_consent", at=world.now, documents=(QUERY, *DATASETS), status="enabled")),
        *_service_records(world, policies),
        *_grant_records(world, policies),
        ("revocation", world.run_id, RevocationBody(at=world.now, secrets=8, grants=16)),
        ("receipt", world.run_id, ReceiptBody(receipt=world.receipt)),
        *(("event", f"{event.id}#{event.seqno}", event) for event in ledger_entries(world, policies)),
    ]
    return [(kind, subject, body.wire()) for kind, subject, body in rows]


CLEAN_ROOM_POLICY = {"x-ms-sevsnpvm-hostdata": [CLEAN_ROOM_HOST], "x-ms-sevsnpvm-is-debuggable": [False]}


def _trust_record(world: AuditWorld) -> TrustBody:
    document = world.member_document(world.trust_document.id)
    return TrustBody(document=document.wire(), digest=document_digest(str(document.data)))


def _run_records(world: AuditWorld) -> list[Row]:
    export = ExportBody(
        collaboration=COLLABORATION,
        run_id=world.run_id,
        query=QUERY,
        state="COMPLETED",
        exported_at=world.now,
        exported_by=world.users["contosso"],
        sealed_by=world.users["contosso"],
    )
    outcome = OutcomeBody(
        workflow_id=f"cr/{COLLABORATION}/run/{world.run_id}",
        temporal_run_id="t-1",
        state="COMPLETED",
        started_at=world.now,
        closed_at=world.now,
    )
    return [
        ("export", world.run_id, export),
        ("request", world.run_id, RequestBody(request=world.ticket.request)),
        ("outcome", world.run_id, outcome),
    ]


def _document_records(world: AuditWorld) -> list[Row]:
    rows: list[Row] = []
    for document_id, document in world.documents.items():
        kind: Kind = (
            "decision"
            if document_id.startswith("decision.")
            else "key"
            if document_id.startswith("approver-key.")
            else "deputy"
            if document_id.startswith("approver-deputy.")
            else "document"
        )
        rows.append((kind, document_id, DocumentBody(document=document.wire(), digest=document_digest(str(document.data)))))
    return rows


def _service_records(world: AuditWorld, policies: PodPolicies) -> list[Row]:
    nonce, signer = service_nonce(world.ticket), PolicySigner()
    payload = signer.payload(nonce)
    evidence = world.hardware.evidence(bytes.fromhex(SPARK_HOST), report_data_for(payload.encode()))
    statement = signer.sign(world.job, make_profile(), policies, nonce).statement
    report = ReportBody(report=ServiceReport(evidence=evidence, payload=payload), nonce=nonce, at=world.now)
    body = PoliciesBody(statement=statement, driver=policies.driver.host_data, executor=policies.executor.host_data)
    world.proof = {"report": evidence.digest(), "policies": sha256_hex(statement.encode())}
    return [
        ("report", "spark-service", report),
        ("job", world.run_id, JobBody(job=world.job, digest=world.job.digest())),
        ("policies", world.run_id, body),
    ]


def _grant_records(world: AuditWorld, policies: PodPolicies) -> list[Row]:
    subject = federated_subject(COLLABORATION, world.users["contosso"])
    measured = MeasuredJob(
        job=world.job, driver=policies.driver.host_data, executor=policies.executor.host_data, subjects=frozenset({subject})
    )
    return [
        ("grant", f"{kind}/{name}", GrantBody(delegate_type=kind, delegate_id=name, host_data=host, held=False))
        for kind, name, host in sorted(expected_grants(measured))
    ]


def ledger_entries(world: AuditWorld, policies: PodPolicies) -> list[EventBody]:
    """Return the ledger entries of the run."""
    driver, executor = policies.driver.host_data, policies.executor.host_data
    scope, moment = event_scope(world.run_id), str(int(world.now.timestamp() * 1000))
    found: list[EventBody] = []

    def add(id_: str, data: Any, where: str = scope) -> None:
        found.append(EventBody(scope=where, id=id_, seqno=100 + 3 * len(found), timestamp=moment, data=data))

    token = world.ticket.request
    request = peek(RunRequest, token)

    def step(name: str) -> dict[str, Any]:
        return run_facts(request, token) | {"name": name}

    add(pinned_event_id(world.run_id), pin_entry(request, token), RUNS_SCOPE)
    for name in ("PREPARE_STARTED", "GRANTED"):
        add(event_id(world.run_id, name), step(name))
    statement = step("PREPARED") | {
        "jobDigest": world.job.digest(),
        "hostData": {"driver": driver, "executor": executor},
        "approvedBy": sorted(world.users[name] for name in ("contosso", "litware")),
        "trust": {"id": world.trust_document.id, "digest": world.trust_document.digest},
        "documents": {name: document_digest(str(world.documents[name].data)) for name in (QUERY, *DATASETS)},
        "proof": world.proof,
    }
    evidence = world.hardware.evidence(bytes.fromhex(CLEAN_ROOM_HOST), report_data_for(canonical_json(statement)))
    add(event_id(world.run_id, "PREPARED"), statement | {"attestation": evidence.model_dump(mode="json", exclude_none=True)})
    add(event_id(world.run_id, "RUN_STARTED"), step("RUN_STARTED"))
    add(runs_event_id(QUERY), step("RUN_STARTED") | {"digests": {"job": world.job.digest()}}, RUNS_SCOPE)
    add(event_id(world.run_id, "SUBMITTED"), step("SUBMITTED"))
    completed = RunEvent(
        id=EVENT_IDS["QUERY_COMPLETED"],
        name="QUERY_COMPLETED",
        message="done",
        run_id=world.run_id,
        query_digest=world.job.query_digest,
        job_digest=world.job.digest(),
        receipt=world.receipt,
    )
    add(event_id(world.run_id, "QUERY_COMPLETED"), completed.wire())
    add(closed_event_id(world.run_id), step("RUN_CLOSED"), RUNS_SCOPE)
    for name in ("REVOKED", "RUN_COMPLETED"):
        add(event_id(world.run_id, name), step(name))
    return found


def clone(items: Items) -> Items:
    """Return a deep copy that a test can change."""
    return [(kind, subject, json.loads(json.dumps(body))) for kind, subject, body in items]


def index_of(items: Items, kind: str, subject: str = "") -> int:
    """Return the index of the first record of ``kind`` whose subject contains ``subject``."""
    return next(index for index, (found, name, _) in enumerate(items) if found == kind and subject in name)
