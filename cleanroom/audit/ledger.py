"""Checks of the run's ledger entries: completeness, order, contents, and the clean room's attested statement."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from cleanroom.attestation import (
    ALLOW_ALL_HOST_DATA,
    AttestationEvidence,
    Expectations,
    TrustStore,
    report_data_for,
    verify_evidence,
)
from cleanroom.audit.bodies import DocumentBody, EventBody, JobBody, PoliciesBody, PolicyBody, ReceiptBody, ReportBody, RequestBody
from cleanroom.audit.chain import Record
from cleanroom.audit.parsed_bundle import ParsedBundle, ParsedRecord, accepted_document_of
from cleanroom.audit.verdict import Checks
from cleanroom.claims import HOST_DATA
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import canonical_json, document_digest, sha256_hex
from cleanroom.runs.ledger import (
    RUN_PINNED,
    RUNS_SCOPE,
    closed_event_id,
    event_scope,
    pinned_event_id,
    request_digest,
    run_facts,
    runs_event_id,
)
from cleanroom.spark.run_events import ATTESTED_STEP, event_id, parse_event
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek

ATTESTATION = "attestation"
DERIVED = frozenset(
    {
        *("source", "name", "runId", "query", "queryDigest", "requestDigest", "caller"),
        *("jobDigest", "hostData", "documents", "approvedBy", "proof", "trust"),
    }
)
"""Members of an attested statement. The clean room derives all of them, so none of them is a caller's word."""


def check_ledger(
    bundle: ParsedBundle,
    checks: Checks,
    trust: TrustStore,
    accepted_host_data: Collection[str] | None,
    expectations: Expectations | None = None,
) -> None:
    """Run all checks of the ledger's entries."""
    _check_order(bundle, checks)
    _check_request(bundle, checks)
    _check_job(bundle, checks)
    _check_run(bundle, checks)
    _check_required_events(bundle, checks)
    _check_completion(bundle, checks)
    demanded = expectations or Expectations(require_uvm=True, refuse_host_data=ALLOW_ALL_HOST_DATA)
    _check_attested_statements(bundle, checks, trust, accepted_host_data, demanded)


def _check_order(bundle: ParsedBundle, checks: Checks) -> None:
    last = 0
    items = bundle.all(EventBody)
    for item in items:
        if item.body.seqno <= last:
            checks.add("events", item.record, False, f"seqno {item.body.seqno} follows {last}: the ledger only grows")
            return
        last = item.body.seqno
    if items:
        checks.add("events", items[-1].record, True, f"{len(items)} entries, seqno {items[0].body.seqno} to {last}", subject="order")


def _check_request(bundle: ParsedBundle, checks: Checks) -> None:
    """Check that the run is one request: the pinned one, which the bundle contains, and no other request started under its ID."""
    run_id, request = bundle.export.run_id, bundle.one(RequestBody)
    pins = bundle.pins()
    if not pins or request is None:
        # Missing records are reported by other checks.
        return
    entry, pinned = pins[0]
    presented = request_digest(request.body.request)
    if pinned.digest != presented:
        detail = f"the ledger pins run {run_id!r} to request {pinned.digest}, the bundle is of request {presented}"
        checks.add("pin", entry.record, False, detail)
        return
    for item in bundle.all(EventBody):
        if item.body.seqno < entry.body.seqno and item.body.member("runId") == run_id:
            checks.add("pin", item.record, False, f"it precedes the entry that pins run {run_id!r} to its request")
            return
    for item in bundle.starts():
        if item.body.member("runId") == run_id and item.body.member("requestDigest") != pinned.digest:
            other = str(item.body.member("requestDigest"))
            checks.add("pin", item.record, False, f"run {run_id!r} has two requests: {pinned.digest} and {other}")
            return
    if len({other.digest for _, other in pins}) > 1:
        checks.notes.append(f"Run {run_id}: another request asked for this run ID at the same time. The ledger's earliest entry counts.")
    checks.add("pin", entry.record, True, f"request {pinned.digest[:16]}…")


def _check_job(bundle: ParsedBundle, checks: Checks) -> None:
    """Check that all entries of the run that name a job name the same one, and the one in the bundle."""
    job = bundle.one(JobBody)
    first = job.body.digest if job is not None else None
    run_id = bundle.export.run_id
    named: list[tuple[Record, object]] = [(item.record, item.body.member("jobDigest")) for item in bundle.events()]
    for item in bundle.starts():
        digests = item.body.member("digests")
        if item.body.member("runId") == run_id and isinstance(digests, dict):
            named.append((item.record, digests.get("job")))
    for record, digest in named:
        if digest is None:
            continue
        first = first or str(digest)
        if digest != first:
            checks.add("events", record, False, f"run {run_id!r} has two jobs: {first} and {digest}")
            return


def _check_run(bundle: ParsedBundle, checks: Checks) -> None:
    export, scope = bundle.export, event_scope(bundle.export.run_id)
    digest = _requested_digest(bundle)
    others = [item.body for item in bundle.all(EventBody) if bundle.of_another_request(item.body)]
    if others:
        names = ", ".join(sorted({f"{body.member('name')} by {body.member('caller')}" for body in others}))
        checks.notes.append(f"{len(others)} entries under this run's ID are of another request than the pinned one, and ignored: {names}.")
    for item in bundle.all(EventBody):
        body = item.body
        if bundle.of_another_request(body):
            continue
        if body.scope == RUNS_SCOPE:
            if body.id not in (runs_event_id(export.query), pinned_event_id(export.run_id), closed_event_id(export.run_id)):
                checks.add("events", item.record, False, "it belongs to another query")
        elif body.scope != scope or body.member("runId") != export.run_id:
            checks.add("events", item.record, False, "it belongs to another run")
        elif body.id != event_id(export.run_id, str(body.member("name")), str(body.member("step") or "")):
            checks.add("events", item.record, False, "its ID is that of another event")
        elif digest is not None and body.member("queryDigest") != digest:
            checks.add("events", item.record, False, "it belongs to another query text")


def _requested_digest(bundle: ParsedBundle) -> str | None:
    request = bundle.one(RequestBody)
    if request is None:
        return None
    try:
        return peek(RunRequest, request.body.request).digest
    except CleanRoomError:
        # The check of the request reports it.
        return None


def _check_required_events(bundle: ParsedBundle, checks: Checks) -> None:
    state = bundle.export.state
    required = [f"RUN_{state}"] if bundle.started or state == "COMPLETED" else []
    if state == "COMPLETED":
        required += ["PREPARE_STARTED", "GRANTED", "PREPARED", "RUN_STARTED", "SUBMITTED", "QUERY_COMPLETED", "REVOKED"]
    for name in required:
        if not bundle.events(name):
            checks.missing("event", name)
    if required and not bundle.pins():
        checks.missing("event", RUN_PINNED)
    closed = [
        item
        for item in bundle.all(EventBody)
        if item.body.id == closed_event_id(bundle.export.run_id) and not bundle.of_another_request(item.body)
    ]
    if required and not closed:
        checks.missing("event", "RUN_CLOSED")
    if required and not any(item.body.member("runId") == bundle.export.run_id for item in bundle.starts()):
        # Without it, the number of earlier runs is unknown, and a violated limit on runs would go unnoticed.
        checks.missing("event", f"run start of query {bundle.export.query}")
    for other in {"COMPLETED", "FAILED", "CANCELLED"} - {state}:
        for item in bundle.events(f"RUN_{other}"):
            checks.add("events", item.record, False, f"the ledger says {other}, the export {state}")


def _check_completion(bundle: ParsedBundle, checks: Checks) -> None:
    """Check that every completion event of the pods contains the receipt of the run."""
    receipt = bundle.one(ReceiptBody)
    if receipt is None:
        return
    for item in bundle.events("QUERY_COMPLETED"):
        try:
            same = parse_event(item.body.data).receipt == receipt.body.receipt
        except CleanRoomError as error:
            checks.add("events", item.record, False, error.message)
            continue
        checks.add("events", item.record, same, "contains the receipt" if same else "its receipt differs from the run's")


def _check_attested_statements(
    bundle: ParsedBundle,
    checks: Checks,
    trust: TrustStore,
    accepted_host_data: Collection[str] | None,
    demanded: Expectations,
) -> None:
    """Check the statements that the clean room bound to its attestation report.

    They must be genuine, come from a clean room of the contract, and agree with the records.
    """
    policy = bundle.one(PolicyBody)
    attested = [item for item in bundle.events() if item.body.member(ATTESTATION) is not None]
    if bundle.export.state == "COMPLETED" and not attested:
        checks.missing("event with the clean room's attestation", "PREPARED")
    for item in attested:
        problem = _statement_problem(item, bundle, checks, trust, accepted_host_data, policy, demanded)
        checks.add("clean-room", item.record, not problem, problem or "attested statement of the clean room")


def _statement_problem(
    item: ParsedRecord[EventBody],
    bundle: ParsedBundle,
    checks: Checks,
    trust: TrustStore,
    accepted_host_data: Collection[str] | None,
    policy: ParsedRecord[PolicyBody] | None,
    demanded: Expectations,
) -> str:
    statement = dict(item.body.data)
    try:
        evidence = AttestationEvidence.model_validate(statement.pop(ATTESTATION))
    except ValidationError as error:
        return describe_validation(error)
    if accepted_host_data is not None:
        accepted = frozenset(accepted_host_data)
    elif policy is not None:
        accepted = frozenset(str(value) for value in policy.body.policy.get(HOST_DATA, []))
    else:
        return "the bundle does not contain the contract's clean room policy"
    try:
        bound = {"host_data": accepted, "report_data": report_data_for(canonical_json(statement))}
        expectations = demanded.model_copy(update=bound)
        verdict = verify_evidence(evidence, trust=trust, expectations=expectations, at=item.body.at)
    except ValueError as error:
        return f"it cannot be verified: {error}"
    if not verdict.ok:
        first = verdict.failures[0]
        return f"{first.reason}: {first.message}"
    if accepted_host_data is None:
        checks.notes.append(
            f"Clean room: host data {', '.join(sorted(accepted))}; compare it with the expected value, or pass --clean-room-host-data."
        )
    checks.development |= verdict.development
    return _contradiction(statement, bundle)


def _other_request(statement: dict[str, object], bundle: ParsedBundle) -> str:
    """Return which member of the attested statement does not follow from the run's request, or an empty string."""
    item = bundle.one(RequestBody)
    if item is None:
        return ""
    try:
        expected = run_facts(peek(RunRequest, item.body.request), item.body.request)
    except CleanRoomError:
        # The check of the request reports it.
        return ""
    differing = sorted(name for name, value in expected.items() if statement.get(name) != value)
    return f"it attests another {differing[0]} than the run request" if differing else ""


def _other_proof(statement: dict[str, object], bundle: ParsedBundle) -> str:
    report, policies = bundle.one(ReportBody), bundle.one(PoliciesBody)
    if report is None or policies is None:
        return ""
    expected = {"report": report.body.report.evidence.digest(), "policies": sha256_hex(policies.body.statement.encode())}
    return "" if statement.get("proof") == expected else "it attests another report or statement of the Spark service"


def _contradiction(statement: dict[str, object], bundle: ParsedBundle) -> str:
    """Return how the attested statement contradicts the records, or an empty string."""
    unknown = sorted(set(statement) - DERIVED)
    if unknown:
        return f"it attests {unknown[0]!r}, which the clean room does not derive"
    if statement.get("name") != ATTESTED_STEP:
        return f"it attests step {statement.get('name')!r}; the clean room attests {ATTESTED_STEP} only"
    problem = _other_request(statement, bundle) or _other_proof(statement, bundle)
    if problem:
        return problem
    job, policies = bundle.one(JobBody), bundle.one(PoliciesBody)
    if job is not None and statement.get("jobDigest") != job.body.digest:
        return "it attests another job"
    if policies is not None and statement.get("hostData") != {"driver": policies.body.driver, "executor": policies.body.executor}:
        return "it attests other pod policies"
    governance = job.body.job.governance if job is not None else None
    if governance is not None and statement.get("trust") != {"id": governance.trust_document, "digest": governance.trust_digest}:
        return "it attests another trust document"
    documents = statement.get("documents")
    if not isinstance(documents, dict):
        return "it names no documents"
    if job is not None:
        used = {job.body.job.query_id, *(each.name for each in (*job.body.job.datasets, job.body.job.datasink))}
        if differing := sorted(used.symmetric_difference(documents)):
            return f"document {differing[0]!r} is in only one of the job and the statement"
    query = bundle.document(bundle.export.query)
    try:
        voted = sorted(accepted_document_of(query.body).accepted_by) if query is not None else []
    except CleanRoomError as error:
        return error.message
    if statement.get("approvedBy") != voted:
        return "it names other approvers than the query's votes"
    held: dict[str, Record] = {}
    for item in bundle.all(DocumentBody):
        held[item.record.subject] = item.record
        wanted = documents.get(item.record.subject)
        if wanted is not None and wanted != document_digest(str(item.body.document.get("data", ""))):
            return f"it attests another text of document {item.record.subject!r}"
    missing = sorted(set(documents) - set(held))
    return f"it attests document {missing[0]!r}, which is not in the bundle" if missing else ""
