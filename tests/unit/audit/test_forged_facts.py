"""What the clean room and the Spark service attested is compared with the records, and a run's entries with one request and one job."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanroom.attestation import ALLOW_ALL_HOST_DATA, Expectations, Product, Tcb, report_data_for
from cleanroom.audit.execution import MeasuredJob, audit_expectations, expected_grants
from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle
from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.runs.authority import service_nonce
from cleanroom.runs.ledger import RUNS_SCOPE, pin_entry, run_facts
from cleanroom.spark.job import JobConfig
from cleanroom.spark.policy import pod_policies
from cleanroom.spark.run_events import event_id
from cleanroom.spark.signed import PolicySigner
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek
from cleanroom.trust import AttestationPolicy, MinimumTcb, TrustDocument
from tests.audit_records import CLEAN_ROOM_HOST, DATASETS, QUERY, SPARK_HOST, Items, clone, index_of
from tests.audit_world import AuditWorld
from tests.unit.audit.test_forged_records import add_event, put, verify_rechained
from tests.unit.spark_support import make_profile, make_trust_document

ZEROS = "0" * 64


def failed(verdict: BundleVerdict) -> list[str]:
    return [f"{check.id} {check.kind} {check.subject}: {check.detail}" for check in verdict.checks if not check.passed]


def fails(verdict: BundleVerdict, words: str) -> None:
    assert any(words in line for line in failed(verdict)), failed(verdict)


# --- the clean room's attested statement


def attest_again(world: AuditWorld, items: Items, change: Callable[[dict[str, Any]], None], host: str = CLEAN_ROOM_HOST) -> None:
    """Change the attested statement, and let the clean room attest the changed one."""
    body = items[index_of(items, "event", "prepared")][2]
    statement = {name: value for name, value in body["data"].items() if name != "attestation"}
    change(statement)
    evidence = world.hardware.evidence(bytes.fromhex(host), report_data_for(canonical_json(statement)))
    body["data"] = statement | {"attestation": evidence.model_dump(mode="json", exclude_none=True)}


def set_to(member: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement.update({member: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda statement: None, ""),
        (set_to("jobDigest", ZEROS), "it attests another job"),
        (set_to("hostData", {"driver": ZEROS, "executor": ZEROS}), "it attests other pod policies"),
        (lambda statement: statement["hostData"].update(executor=ZEROS), "it attests other pod policies"),
        (set_to("trust", {"id": "trust-flights-1", "digest": ZEROS}), "it attests another trust document"),
        (lambda statement: statement.pop("trust"), "it attests another trust document"),
        (set_to("documents", []), "it names no documents"),
        (lambda statement: statement["documents"].update({QUERY: ZEROS}), f"it attests another text of document '{QUERY}'"),
        (lambda statement: statement["documents"].update({DATASETS[0]: ZEROS}), f"it attests another text of document '{DATASETS[0]}'"),
        (lambda statement: statement["documents"].update(other=ZEROS), "document 'other' is in only one"),
        *((lambda statement, name=name: statement["documents"].pop(name), f"document '{name}' is in only one") for name in DATASETS),
        (lambda statement: statement["approvedBy"].pop(), "it names other approvers than the query's votes"),
        (lambda statement: statement["approvedBy"].append("mallory"), "it names other approvers than the query's votes"),
        (lambda statement: statement["approvedBy"].reverse(), "it names other approvers than the query's votes"),
        (lambda statement: statement["proof"].update(report=ZEROS), "it attests another report or statement"),
        (lambda statement: statement["proof"].update(policies=ZEROS), "it attests another report or statement"),
        (set_to("query", "other"), "it attests another query"),
        (set_to("caller", "mallory"), "it attests another caller"),
        (set_to("note", "rows may leave"), "it attests 'note', which the clean room does not derive"),
    ],
)
def test_attested_facts_must_be_those_of_the_records(
    world: AuditWorld, items: Items, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    changed = clone(items)
    attest_again(world, changed, change)
    verdict = verify_rechained(world, changed)
    if words:
        fails(verdict, words)
    else:
        assert verdict.ok, failed(verdict)


def test_statement_that_was_changed_after_it_was_attested_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    changed[index_of(changed, "event", "prepared")][2]["data"]["approvedBy"].append("mallory")
    fails(verify_rechained(world, changed), "clean-room event")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("event", "data.attestation", {}, "prepared"), "clean-room event"),
        (put("event", "data.attestation.uvm_endorsements", None, "prepared"), "UvmEndorsementMissing"),
        (put("report", "report.evidence.uvm_endorsements", None), "UvmEndorsementMissing"),
        (put("event", "timestamp", "0", "prepared"), "CertificateNotYetValid"),
    ],
)
def test_evidence_is_verified_as_the_trust_document_requires(
    world: AuditWorld, items: Items, change: Callable[[AuditWorld, Items], None], words: str
) -> None:
    changed = clone(items)
    change(world, changed)
    fails(verify_rechained(world, changed), words)


def test_clean_room_that_allows_every_container_fails_although_the_contract_accepts_it(world: AuditWorld, items: Items) -> None:
    changed, allow_all = clone(items), next(iter(ALLOW_ALL_HOST_DATA))
    attest_again(world, changed, lambda statement: None, host=allow_all)
    put("clean-room-policy", "policy", {"x-ms-sevsnpvm-hostdata": [allow_all]})(world, changed)
    fails(verify_rechained(world, changed), "HostDataRefused")


def test_statement_without_the_contracts_policy_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    del changed[index_of(changed, "clean-room-policy")]
    fails(verify_rechained(world, changed), "the bundle does not contain the contract's clean room policy")
    # The auditor's own value does not need it.
    changed[0][2].pop("sealedBy", None)
    assert verify_bundle(world.bundle(changed, sealed_by=None), world.trust, clean_room_host_data=[CLEAN_ROOM_HOST]).ok


class StrictWorld(AuditWorld):
    """A world whose trust document requires firmware that the hardware does not have."""

    @property
    def trust_document(self) -> TrustDocument:  # type: ignore[override]
        tcb = Tcb(bootloader=255, tee=0, snp=0, microcode=0)
        return make_trust_document(
            self.hardware,
            attestation=AttestationPolicy(minimum_tcb={Product.MILAN: MinimumTcb(reported=tcb, committed=tcb)}, require_crl=True),
        )


def test_minimum_of_the_trust_document_reaches_both_reports(tmp_path: Path) -> None:
    world = StrictWorld(tmp_path)
    verdict = verify_bundle(world.bundle(), world.trust)
    assert {(check.id, check.kind) for check in verdict.checks if not check.passed and "TcbTooOld" in check.detail} == {
        ("attestation", "report"),
        ("clean-room", "event"),
    }
    assert "The trust document requires revocation lists. Pass them with --crl." in verdict.notes


def test_auditor_requires_what_the_trust_document_does_and_lists_only_if_there_are_some(world: AuditWorld) -> None:
    lists = [b"list"]
    assert audit_expectations(None, lists) == Expectations(
        require_uvm=True, refuse_host_data=ALLOW_ALL_HOST_DATA, crls=(b"list",), require_crl=False
    )
    policy = AttestationPolicy(require_crl=True, minimum_uvm_svn=7, minimum_report_version=3, provider_ids=("x",))
    accepted = dataclasses.replace(world.accepted_trust, document=make_trust_document(world.hardware, attestation=policy))
    assert audit_expectations(accepted, lists) == Expectations(
        require_uvm=True,
        refuse_host_data=ALLOW_ALL_HOST_DATA,
        crls=(b"list",),
        minimum_uvm_svn=7,
        minimum_report_version=3,
        csp_ids=frozenset({"x"}),
    )


def test_grants_of_a_job_are_its_secrets_its_subjects_and_the_ledger_for_both_roles(world: AuditWorld) -> None:
    """Computed from the job's JSON, because the records of these tests are made with the function itself."""
    found: set[str] = set()

    def secrets(value: Any) -> None:
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, dict | list):
                secrets(item)
            elif str(name).endswith("SecretId") and item is not None:
                found.add(item)

    secrets(world.job.model_dump(mode="json", by_alias=True))
    assert len(found) == 9
    places = {*(("secrets", name) for name in found), ("oauth-federation-subjects", "s"), ("events", "writer")}
    measured = MeasuredJob(job=world.job, driver="d", executor="e", subjects=frozenset({"s"}))
    assert expected_grants(measured) == {(kind, name, host) for kind, name in places for host in ("d", "e")}


@pytest.mark.parametrize("kind", ["request", "outcome", "job", "policies", "revocation", "receipt"])
def test_record_of_another_run_is_named(world: AuditWorld, items: Items, kind: str) -> None:
    changed = clone(items)
    index = index_of(changed, kind)
    changed[index] = (changed[index][0], "r-other", changed[index][2])
    fails(verify_rechained(world, changed), f"complete {kind} r-other: it belongs to run 'r-other'")


def test_pin_counts_only_where_the_clean_room_alone_can_write(world: AuditWorld, items: Items) -> None:
    """The pods of the run can write into the run's scope."""
    changed = clone(items)
    pin = changed[index_of(changed, "event", "pinned.")][2]
    pin["scope"] = items[index_of(items, "event", "granted")][2]["scope"]
    fails(verify_rechained(world, changed), "RUN_PINNED")


# --- one request, one job, one query


def test_runs_of_others_in_the_query_count_and_do_not_matter_otherwise(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    token = world.another_run(dt.timedelta(0)).ask().request
    data = run_facts(peek(RunRequest, token), token) | {"name": "RUN_STARTED", "digests": {"job": "ab" * 32}}
    add_event(changed, "granted", f"query.{QUERY}", data)
    verdict = verify_rechained(world, changed)
    assert verdict.ok, failed(verdict)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("event", "data.jobDigest", ZEROS, "query-completed"), "two jobs"),
        (put("event", "data.jobDigest", ZEROS, "submitted"), "two jobs"),
        (put("event", "data.digests.job", ZEROS, f"query.{QUERY}"), "two jobs"),
        (put("event", "data.requestDigest", ZEROS, f"query.{QUERY}"), "two requests"),
        (put("event", "data.queryDigest", ZEROS, "query-completed"), "it belongs to another query text"),
        (put("event", "data.runId", "r-other", "query-completed"), "it belongs to another run"),
        (put("event", "scope", "run-r-other", "granted"), "it belongs to another run"),
        (put("event", "id", "query.other", f"query.{QUERY}"), "it belongs to another query"),
        (put("event", "id", "closed.r-other", "closed"), "it belongs to another query"),
        (put("event", "data.step", "other", "granted"), "its ID is that of another event"),
        (put("event", "seqno", 103, "granted"), "seqno 103 follows 103"),
        (put("event", "data.receipt", {"rows": "x"}, "query-completed"), "events event"),
        (put("event", "data.receipt.jobDigest", ZEROS, "query-completed"), "its receipt differs from the run's"),
        (put("event", "data.receipt.queryDigest", ZEROS, "query-completed"), "its receipt differs from the run's"),
        (put("receipt", "receipt.runId", "r-other"), "it belongs to run 'r-other'"),
        (put("receipt", "receipt.queryDigest", ZEROS), "receipt receipt"),
        (put("receipt", "receipt.jobDigest", ZEROS), "it belongs to another job"),
        (put("receipt", "receipt.dataset", "litware-planes"), "it names dataset 'litware-planes'"),
        (put("job", "job.governance.trustDigest", ZEROS), "with another digest"),
        (put("event", "data.trust.digest", ZEROS, "prepared"), "it attests another trust document"),
        (put("policies", "executor", ZEROS), "the service signed another executor"),
        (put("document", "document.id", "other", "litware-planes"), "it is document 'other'"),
    ],
)
def test_entry_of_another_run_job_or_query_is_named(
    world: AuditWorld, items: Items, change: Callable[[AuditWorld, Items], None], words: str
) -> None:
    changed = clone(items)
    change(world, changed)
    fails(verify_rechained(world, changed), words)


def test_every_completion_of_the_pods_must_have_the_receipt(world: AuditWorld, items: Items) -> None:
    for rows in (None, 99):
        changed = clone(items)
        data = clone(items)[index_of(items, "event", "query-completed")][2]["data"]
        data["receipt"]["rows"] = rows or data["receipt"]["rows"]
        add_event(changed, "submitted", event_id(world.run_id, "QUERY_COMPLETED"), data, "run-" + world.run_id)
        changed[index_of(changed, "event", "query-completed")][2]["scope"] = items[index_of(items, "event", "granted")][2]["scope"]
        verdict = verify_rechained(world, changed)
        if rows is None:
            assert verdict.ok, failed(verdict)
        else:
            fails(verdict, "its receipt differs from the run's")


@pytest.mark.parametrize(
    "name", ["prepare-started", "granted", "prepared", "started", "submitted", "query-completed", "revoked", "run-completed", "closed"]
)
def test_completed_run_needs_each_of_its_entries(world: AuditWorld, items: Items, name: str) -> None:
    changed = clone(items)
    full = {"started": "run-started", "closed": "closed."}.get(name, name)
    del changed[index_of(changed, "event", full)]
    fails(verify_rechained(world, changed), "complete event")


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_entry_that_says_another_outcome_fails(world: AuditWorld, items: Items, state: str) -> None:
    changed = clone(items)
    data = clone(items)[index_of(items, "event", "run-completed")][2]["data"] | {"name": f"RUN_{state}"}
    scope = items[index_of(items, "event", "granted")][2]["scope"]
    add_event(changed, "run-completed", event_id(world.run_id, f"RUN_{state}"), data, scope)
    fails(verify_rechained(world, changed), f"the ledger says {state}, the export COMPLETED")


# --- runs that did not complete


def ended_as(world: AuditWorld, items: Items, state: str, *, started: bool = True) -> Items:
    """Return the records of the run as one that failed or was cancelled, before or after its job was submitted."""
    changed = clone(items)
    for kind in ("export", "outcome"):
        changed[index_of(changed, kind)][2]["state"] = state
    del changed[index_of(changed, "receipt")]
    del changed[index_of(changed, "event", "query-completed")]
    last = index_of(changed, "event", "run-completed")
    kind, _, body = changed[last]
    body["data"]["name"], body["id"] = f"RUN_{state}", event_id(world.run_id, f"RUN_{state}")
    changed[last] = (kind, f"{body['id']}#{body['seqno']}", body)
    if not started:
        for name in ("run-started", f"query.{QUERY}", "submitted"):
            del changed[index_of(changed, "event", name)]
    return changed


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
@pytest.mark.parametrize("started", [True, False])
def test_run_that_did_not_complete_verifies(world: AuditWorld, items: Items, state: str, started: bool) -> None:
    verdict = verify_rechained(world, ended_as(world, items, state, started=started))
    assert verdict.ok, failed(verdict)
    assert verdict.state == state


@pytest.mark.parametrize(
    ("name", "words"), [("run-failed", "RUN_FAILED"), ("pinned.", "RUN_PINNED"), ("closed.", "RUN_CLOSED"), (f"query.{QUERY}", "run start")]
)
def test_started_run_needs_its_end_its_pin_and_its_start(world: AuditWorld, items: Items, name: str, words: str) -> None:
    changed = ended_as(world, items, "FAILED")
    del changed[index_of(changed, "event", name)]
    fails(verify_rechained(world, changed), words)


@pytest.mark.parametrize("kind", ["report", "job", "policies", "consent", "revocation"])
def test_started_run_needs_its_evidence(world: AuditWorld, items: Items, kind: str) -> None:
    changed = ended_as(world, items, "FAILED")
    del changed[index_of(changed, kind)]
    fails(verify_rechained(world, changed), "complete")


def test_started_run_needs_every_grant_and_its_revocation(world: AuditWorld, items: Items) -> None:
    kinds = {body["delegateType"]: index for index, (kind, _, body) in enumerate(items) if kind == "grant"}
    for index in kinds.values():
        for held in (False, True):
            changed = ended_as(world, items, "FAILED")
            if held:
                changed[index][2]["held"] = True
            else:
                del changed[index]
            fails(verify_rechained(world, changed), "not revoked" if held else "complete grant")


# --- the Spark service


def served(world: AuditWorld, items: Items, *, job: JobConfig | None = None, nonce: str | None = None, profile: Any = None) -> Items:
    """Let the attested service sign another job, nonce or profile, and the clean room attest that."""
    changed, right = clone(items), service_nonce(world.ticket)
    signer, profile = PolicySigner(), profile or make_profile()
    payload = signer.payload(right)
    evidence = world.hardware.evidence(bytes.fromhex(SPARK_HOST), report_data_for(payload.encode()))
    policies = pod_policies(job or world.job, profile)
    statement = signer.sign(job or world.job, profile, policies, nonce or right).statement
    report = changed[index_of(changed, "report")][2]
    report["report"] |= {"evidence": evidence.model_dump(mode="json", exclude_none=True), "payload": payload}
    hosts = {"driver": policies.driver.host_data, "executor": policies.executor.host_data}
    before = dict(changed[index_of(changed, "policies")][2])
    changed[index_of(changed, "policies")][2].update(statement=statement, **hosts)
    for kind, _, body in changed:
        if kind == "grant":
            role = next(name for name in hosts if body["hostData"] == before[name])
            body["hostData"] = hosts[role]
    proof = {"report": evidence.digest(), "policies": sha256_hex(statement.encode())}
    attest_again(world, changed, lambda attested: attested.update(proof=proof, hostData=hosts))
    return changed


def test_service_signs_exactly_this_job_for_this_request_and_program(world: AuditWorld, items: Items) -> None:
    verdict = verify_rechained(world, served(world, items))
    assert verdict.ok, failed(verdict)
    other = world.job.model_copy(update={"datasink": world.job.datasink.model_copy(update={"format": "csv"})})
    fails(verify_rechained(world, served(world, items, job=other)), "the service signed another jobDigest")
    fails(verify_rechained(world, served(world, items, nonce=ZEROS)), "the service signed another nonce")
    profile = make_profile(layers=("9" * 64,))
    fails(verify_rechained(world, served(world, items, profile=profile)), "do not follow from the job and the program")


def test_pin_is_read_from_the_ledgers_earliest_entry(world: AuditWorld, items: Items) -> None:
    """An entry that pins the run to another request, and that the exporter moved behind the genuine one."""
    changed = clone(items)
    token = world.ask().request
    entry = pin_entry(peek(RunRequest, token), token)
    add_event(changed, "pinned.", changed[index_of(changed, "event", "pinned.")][2]["id"], {**entry, "requestDigest": ZEROS}, RUNS_SCOPE)
    assert verify_rechained(world, changed).ok
    first = index_of(changed, "event", "pinned.")
    changed[first][2]["seqno"], changed[first + 1][2]["seqno"] = changed[first + 1][2]["seqno"], changed[first][2]["seqno"]
    assert not verify_rechained(world, changed).ok
