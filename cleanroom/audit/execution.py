"""Checks of the attested Spark service, the measured job, the grants to its pods, and the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Expectations, TrustStore, parse_report
from cleanroom.attestation.evidence import strict_base64
from cleanroom.audit.approvals import ticket_of
from cleanroom.audit.bodies import GrantBody, JobBody, PoliciesBody, ReceiptBody, ReportBody, RequestBody, RevocationBody
from cleanroom.audit.parsed_bundle import ParsedBundle, ParsedRecord
from cleanroom.audit.verdict import Checks
from cleanroom.datasets.result import result_digest
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import federated_subject
from cleanroom.runs.assembly import JobEnvironment, assemble_job
from cleanroom.runs.authorised import AuthorisedRun
from cleanroom.runs.authority import service_nonce
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.signed import VerifiedService, read_statement, verify_service_report
from cleanroom.trust import AcceptedTrust

COMMON_GRANTS = (("events", "writer"),)
"""Delegate policies that grant access to the pods of every run."""


@dataclass(frozen=True)
class MeasuredJob:
    """The job with the host data of its pods, as signed by the attested service."""

    job: JobConfig
    driver: str
    executor: str
    subjects: frozenset[str]
    """Subjects of the ID tokens that the pods can get."""


def check_service(
    bundle: ParsedBundle,
    checks: Checks,
    trust: TrustStore,
    accepted_host_data: Collection[str] | None,
    accepted: AcceptedTrust | None,
    crls: Sequence[bytes] = (),
) -> VerifiedService | None:
    """Check the Spark service's report: hardware, endorsement, host data, and the nonce that follows from this run request.

    ``accepted`` is the run's trust document, whose requirements on reports and host data apply. The auditor's roots apply, not its.
    """
    if not (bundle.started or bundle.completed) and not bundle.all(ReportBody):
        return None
    item, request = bundle.one(ReportBody, checks, what="report"), bundle.one(RequestBody)
    if item is None or request is None:
        return None
    nonce = service_nonce(ticket_of(bundle, request))
    if item.body.nonce != nonce:
        checks.add("attestation", item.record, False, "its nonce does not follow from the run request")
        return None
    evidence = item.body.report.evidence
    try:
        found = parse_report(strict_base64(evidence.evidence.encode())).host_data.hex()
        named = frozenset(accepted.document.spark_service_host_data) if accepted is not None else frozenset()
        wanted = named if accepted_host_data is None else named & frozenset(accepted_host_data)
        expectations = audit_expectations(accepted, crls)
        service, verdict = verify_service_report(item.body.report, nonce, trust, wanted, item.body.at, expectations=expectations)
    except (CleanRoomError, ValueError) as error:
        shown = f"{error.code}: {error.message}" if isinstance(error, CleanRoomError) else f"not a report: {error}"
        checks.add("attestation", item.record, False, shown)
        return None
    if accepted_host_data is None:
        checks.notes.append(f"Spark service: host data {found}. Compare it with the value that you trust, or pass --spark-host-data.")
    checks.development |= verdict.development
    checks.add("attestation", item.record, True, f"{verdict.product}, host data {found[:16]}…, {len(verdict.checks)} checks")
    return service


def audit_expectations(accepted: AcceptedTrust | None, crls: Sequence[bytes]) -> Expectations:
    """Return what the run's trust document requires of reports. Revocation is checked against the lists that the auditor has."""
    if accepted is None:
        return Expectations(require_uvm=True, refuse_host_data=ALLOW_ALL_HOST_DATA, crls=tuple(crls))
    return accepted.document.expectations(crls).model_copy(update={"require_crl": False})


def check_job(
    bundle: ParsedBundle,
    checks: Checks,
    run: AuthorisedRun | None,
    service: VerifiedService | None,
    accepted: AcceptedTrust | None,
) -> MeasuredJob | None:
    """Check that the job has its digest, follows from the documents, and is the one that the attested service signed policies for."""
    if not (bundle.started or bundle.completed) and not bundle.all(JobBody):
        return None
    item = bundle.one(JobBody, checks, what="job")
    policies = bundle.one(PoliciesBody, checks if bundle.started or bundle.completed else None, what="policies")
    if item is None:
        return None
    job = item.body.job
    if job.digest() != item.body.digest:
        checks.add("job", item.record, False, f"its digest is {job.digest()}")
        return None
    if run is not None:
        _check_derivation(checks, item, run, accepted)
    if policies is None or service is None:
        return None
    try:
        statement = read_statement(policies.body.statement, service)
    except CleanRoomError as error:
        checks.add("policies", policies.record, False, f"{error.code}: {error.message}")
        return None
    signed = statement if isinstance(statement, dict) else {}
    for member, value in (
        ("jobDigest", job.digest()),
        ("nonce", service.nonce),
        ("driver", policies.body.driver),
        ("executor", policies.body.executor),
    ):
        if signed.get(member) != value:
            checks.add("policies", policies.record, False, f"the service signed another {member}: {str(signed.get(member))[:80]}")
            return None
    if accepted is not None:
        profile = PodProfile(**dict(accepted.document.pods))
        computed = pod_policies(job, profile)
        hosts = (computed.driver.host_data, computed.executor.host_data)
        if signed.get("profileDigest") != profile.digest() or hosts != (policies.body.driver, policies.body.executor):
            checks.add("policies", policies.record, False, "do not follow from the job and the program in the trust document")
            return None
    checks.add("policies", policies.record, True, "signed by the attested service for this job")
    return MeasuredJob(job=job, driver=policies.body.driver, executor=policies.body.executor, subjects=_subjects(job, run))


def _subjects(job: JobConfig, run: AuthorisedRun | None) -> frozenset[str]:
    named = {each.access.subject for each in (*job.datasets, job.datasink) if each.access.kind == "azure-blob"}
    if run is not None:
        with_identity = [item for item in run.datasets if item.dataset.dataset_access_point.identity is not None]
        named |= {federated_subject(run.document.contract_id, item.owner_id) for item in with_identity}
    return frozenset(named)


def _check_derivation(checks: Checks, item: ParsedRecord[JobBody], run: AuthorisedRun, accepted: AcceptedTrust | None) -> None:
    """Assemble the job again from the documents. Only the SQL that the query gate renders may differ between versions."""
    job = item.body.job
    if accepted is None:
        checks.add("job", item.record, False, "its trust document is not in the bundle")
        return
    # Governance's address and roots come from the clean room's bootstrap file, which its host data covers.
    governance_roots = job.governance.ca_pem.removesuffix("\n").removesuffix(accepted.document.tls_roots.strip())
    environment = JobEnvironment.of(accepted, job.governance.url, governance_roots)
    if job.source != run.query.application.segments().segments:
        checks.add("job", item.record, False, "its source is not the approved text")
        return
    try:
        expected = assemble_job(run, environment)
    except CleanRoomError as error:
        if error.code != "QueryRefusedByGate":
            checks.add("job", item.record, False, f"{error.code}: {error.message}")
            return
        checks.notes.append(f"This version's query gate rejects the text ({error.message}); the run's gate accepted it.")
        checks.add("job", item.record, True, "its source is the approved text")
        return
    if job.network_secret_id is None:  # from before runs had a network secret
        expected = expected.model_copy(update={"network_secret_id": None})
    expected_values, actual_values = (value.model_dump(mode="json", by_alias=True) for value in (expected, job))
    differing = sorted(name for name in expected_values if expected_values[name] != actual_values[name] and name != "segments")
    if differing:
        checks.add("job", item.record, False, f"does not follow from the documents: {', '.join(differing)}")
        return
    if expected_values["segments"] != actual_values["segments"]:
        checks.notes.append("This version's query gate renders the approved text differently. Compare the job's segments.")
    checks.add("job", item.record, True, "follows from the approved documents")


def expected_grants(measured: MeasuredJob) -> set[tuple[str, str, str]]:
    """Return every grant of a prepared run: staged secrets, token subjects and event writers, for each pod role."""
    job = measured.job
    secrets = {job.consent_secret_id, *((job.network_secret_id,) if job.network_secret_id else ())}
    for dataset in (*job.datasets, job.datasink):
        if dataset.key_secret_id:
            secrets.add(dataset.key_secret_id)
        if dataset.access.kind == "aws-s3":
            secrets.add(dataset.access.connection_secret_id)
    places = (
        [("secrets", name) for name in secrets] + [("oauth-federation-subjects", name) for name in measured.subjects] + list(COMMON_GRANTS)
    )
    return {(kind, name, host) for kind, name in places for host in (measured.driver, measured.executor)}


def check_grants(bundle: ParsedBundle, checks: Checks, measured: MeasuredJob | None) -> None:
    """Check that the grants are exactly those that the job needs, and that all are revoked."""
    items = bundle.all(GrantBody)
    if measured is None:
        return
    expected = expected_grants(measured)
    for item in items:
        kind, name, host = item.body.key()
        if item.body.key() not in expected:
            checks.add("grants", item.record, False, "the job does not need this grant")
        elif item.body.held:
            checks.add("grants", item.record, False, f"{kind} {name} still grants access to {host[:16]}…: not revoked")
    present = {item.body.key() for item in items}
    if bundle.started or bundle.completed:
        for kind, name, host in sorted(expected - present):
            checks.missing("grant", f"{kind} {name} for {host[:16]}…")
    revocation = bundle.one(RevocationBody, checks if items else None, what="revocation")
    if items and revocation is not None and not any(item.body.held for item in items):
        detail = f"{len(items)} grants, all revoked; {revocation.body.secrets} secrets overwritten"
        checks.add("grants", revocation.record, True, detail, subject="grants and their revocation")


def check_result(bundle: ParsedBundle, checks: Checks, measured: MeasuredJob | None) -> None:
    """Check that the receipt belongs to this run, query text and job, and that its digest matches its objects."""
    if not bundle.completed:
        return
    item = bundle.one(ReceiptBody, checks, what="receipt")
    if item is None:
        return
    receipt = item.body.receipt
    problem = ""
    if receipt.run_id != bundle.export.run_id:
        problem = f"it belongs to run {receipt.run_id!r}"
    elif receipt.digest != result_digest(receipt.objects):
        problem = "its digest does not match the objects that it lists"
    elif measured is not None and receipt.job_digest != measured.job.digest():
        problem = "it belongs to another job"
    elif measured is not None and receipt.query_digest != measured.job.query_digest:
        problem = "it belongs to another query text"
    elif measured is not None and receipt.dataset != measured.job.datasink.name:
        problem = f"it names dataset {receipt.dataset!r}, the job writes to {measured.job.datasink.name!r}"
    checks.add("receipt", item.record, not problem, problem or f"{receipt.rows} rows in {len(receipt.objects)} objects")
