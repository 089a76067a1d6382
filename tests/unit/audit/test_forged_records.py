"""Forged records in a bundle that was chained again: verification detects each of them by its contents."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanroom.attestation import report_data_for
from cleanroom.audit.verdict import BundleVerdict
from cleanroom.audit.verify import verify_bundle
from cleanroom.identifiers import canonical_json, decision_document_id, sha256_hex
from cleanroom.runs.ledger import event_scope, pin_entry, pinned_event_id, request_digest, run_facts
from cleanroom.spark.job import JobParameters
from cleanroom.spark.run_events import event_id
from cleanroom.statements.model import RunRequest
from cleanroom.statements.signing import peek
from tests.audit_records import CLEAN_ROOM_HOST, QUERY, SPARK_HOST, Items, clone, index_of
from tests.audit_world import AuditWorld


def verify_rechained(world: AuditWorld, changed: Items) -> BundleVerdict:
    """Chain changed records again, as a forger without keys can, and verify the bundle."""
    changed[0][2].pop("sealedBy", None)
    return verify_bundle(world.bundle(changed, sealed_by=None), world.trust)


Change = Callable[[AuditWorld, Items], None]
"""Changes the records in place."""


def drop(kind: str, subject: str = "") -> Change:
    """Remove the first record of a kind."""

    def change(world: AuditWorld, items: Items) -> None:
        del items[index_of(items, kind, subject)]

    return change


def put(kind: str, member: str, value: Any, subject: str = "") -> Change:
    """Set a member, given as a dotted path, of the first record of a kind."""

    def change(world: AuditWorld, items: Items) -> None:
        body = items[index_of(items, kind, subject)][2]
        *path, last = member.split(".")
        for step in path:
            body = body[step]
        body[last] = value(body[last]) if callable(value) else value

    return change


def decision_by_another_key(world: AuditWorld, items: Items) -> None:
    index = index_of(items, "decision")
    token = json.loads(items[index][2]["document"]["data"])["decision"]
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["max_runs"] = 1000
    changed = base64.urlsafe_b64encode(canonical_json(claims)).rstrip(b"=").decode()
    set_data(items, index, json.dumps({"decision": f"{head}.{changed}.{signature}"}))


def set_data(items: Items, index: int, data: str) -> None:
    body = items[index][2]
    body["document"]["data"], body["digest"] = data, sha256_hex(data.encode())


def other_sql(world: AuditWorld, items: Items) -> None:
    index = index_of(items, "document", QUERY)
    query = json.loads(items[index][2]["document"]["data"])
    segments = json.loads(base64.b64decode(query["application"]["query"]))
    segments["segments"][0]["data"] = "SELECT * FROM flights"
    query["application"]["query"] = base64.b64encode(json.dumps(segments).encode()).decode()
    set_data(items, index, json.dumps(query))


def no_vote(world: AuditWorld, items: Items) -> None:
    items[index_of(items, "document", QUERY)][2]["document"]["finalVotes"].pop()


def other_report(world: AuditWorld, items: Items) -> None:
    evidence = world.hardware.evidence(bytes.fromhex(SPARK_HOST), bytes(64))
    items[index_of(items, "report")][2]["report"]["evidence"] = evidence.model_dump(mode="json", exclude_none=True)


def flipped_report(world: AuditWorld, items: Items) -> None:
    evidence = items[index_of(items, "report")][2]["report"]["evidence"]
    raw = bytearray(base64.b64decode(evidence["evidence"]))
    raw[0x90] ^= 1
    evidence["evidence"] = base64.b64encode(bytes(raw)).decode()


def other_job(world: AuditWorld, items: Items) -> None:
    job = world.job.model_copy(update={"datasink": world.job.datasink.model_copy(update={"format": "csv"})})
    items[index_of(items, "job")][2].update(job=job.model_dump(mode="json", by_alias=True, exclude_none=True), digest=job.digest())


def extra_grant(world: AuditWorld, items: Items) -> None:
    index = index_of(items, "grant")
    kind, _, body = items[index]
    items.insert(index, (kind, "secrets/unneeded", {**body, "delegateId": "unneeded"}))


def swapped_events(world: AuditWorld, items: Items) -> None:
    first = index_of(items, "event")
    items[first], items[first + 1] = items[first + 1], items[first]


def event(name: str, member: str, value: Any) -> Change:
    return put("event", f"data.{member}", value, name)


@dataclass(frozen=True)
class Forgery:
    """A change of a genuine bundle, and the check and the kind of record that it must fail."""

    name: str
    change: Change
    check: str
    kind: str


FORGERIES = [
    Forgery("request removed", drop("request"), "complete", "request"),
    Forgery("document removed: query", drop("document", QUERY), "complete", "document"),
    Forgery("document removed: litware-weather", drop("document", "litware-weather"), "complete", "document"),
    Forgery("decision removed", drop("decision"), "complete", "document"),
    Forgery("key removed", drop("key"), "complete", "document"),
    Forgery("report removed", drop("report"), "complete", "report"),
    Forgery("job removed", drop("job"), "complete", "job"),
    Forgery("policies removed", drop("policies"), "complete", "policies"),
    Forgery("consent removed", drop("consent"), "complete", "consent"),
    Forgery("grant removed", drop("grant"), "complete", "grant"),
    Forgery("revocation removed", drop("revocation"), "complete", "revocation"),
    Forgery("receipt removed", drop("receipt"), "complete", "receipt"),
    Forgery("event removed: prepared", drop("event", "prepared"), "complete", "event"),
    Forgery("event removed: query-completed", drop("event", "query-completed"), "complete", "event"),
    Forgery("event removed: run-completed", drop("event", "run-completed"), "complete", "event"),
    Forgery("event removed: revoked", drop("event", "revoked"), "complete", "event"),
    Forgery("event removed: closed", drop("event", "closed"), "complete", "event"),
    Forgery("event removed: query start", drop("event", f"query.{QUERY}"), "complete", "event"),
    Forgery("event data.runId set to r-other: query start", put("event", "data.runId", "r-other", f"query.{QUERY}"), "complete", "event"),
    Forgery("event id set to elsewhere: granted", put("event", "id", "elsewhere", "granted"), "events", "event"),
    Forgery("limit of a decision raised", decision_by_another_key, "approvals", "decision"),
    Forgery(
        "decision document.proposerId set to unknown-user", put("decision", "document.proposerId", "unknown-user"), "approvals", "decision"
    ),
    Forgery("SQL of the query replaced", other_sql, "approvals", "document"),
    Forgery("vote removed from the query", no_vote, "document", "document"),
    Forgery("document digest set to zeros: litware-planes", put("document", "digest", "0" * 64, "litware-planes"), "document", "document"),
    Forgery(
        "document document.contractId set to other: litware-planes",
        put("document", "document.contractId", "other", "litware-planes"),
        "document",
        "document",
    ),
    Forgery(
        "document document.version set to 2.999: litware-planes",
        put("document", "document.version", "2.999", "litware-planes"),
        "approvals",
        "document",
    ),
    Forgery("document document.state set to Draft: query", put("document", "document.state", "Draft", QUERY), "document", "document"),
    Forgery(
        "request request set to altered", put("request", "request", lambda token: token[:-8] + "AAAAAAA" + token[-1]), "request", "request"
    ),
    Forgery("request request set to no.jws.here", put("request", "request", "no.jws.here"), "request", "request"),
    Forgery("consent documents set to query only", put("consent", "documents", [QUERY]), "complete", "consent"),
    Forgery("consent status set to withdrawn", put("consent", "status", "withdrawn"), "complete", "consent"),
    Forgery("report replaced by one of the same service", other_report, "attestation", "report"),
    Forgery("bit of the report flipped", flipped_report, "attestation", "report"),
    Forgery("report nonce set to zeros", put("report", "nonce", "0" * 64), "attestation", "report"),
    Forgery("report at set to 2001-01-01T00:00:00Z", put("report", "at", "2001-01-01T00:00:00Z"), "attestation", "report"),
    Forgery("report report.evidence.evidence set to AAAA", put("report", "report.evidence.evidence", "AAAA"), "attestation", "report"),
    Forgery("job replaced", other_job, "job", "job"),
    Forgery("job digest set to zeros", put("job", "digest", "0" * 64), "job", "job"),
    Forgery(
        "policies statement set to altered",
        put("policies", "statement", lambda token: token[:-8] + "AAAAAAA" + token[-1]),
        "policies",
        "policies",
    ),
    Forgery("policies driver set to zeros", put("policies", "driver", "0" * 64), "policies", "policies"),
    Forgery("grant held set to True", put("grant", "held", True), "grants", "grant"),
    Forgery("grant added", extra_grant, "grants", "grant"),
    Forgery("receipt receipt.rows set to 99", put("receipt", "receipt.rows", 99), "events", "event"),
    Forgery("receipt receipt.digest set to zeros", put("receipt", "receipt.digest", "0" * 64), "receipt", "receipt"),
    Forgery("receipt receipt.jobDigest set to zeros", put("receipt", "receipt.jobDigest", "0" * 64), "receipt", "receipt"),
    Forgery("ledger entries swapped", swapped_events, "events", "event"),
    Forgery("event started runId set to r-other", event("started", "runId", "r-other"), "events", "event"),
    Forgery("event granted queryDigest set to zeros", event("granted", "queryDigest", "0" * 64), "events", "event"),
    Forgery("event prepared hostData.driver set to zeros", event("prepared", "hostData.driver", "0" * 64), "clean-room", "event"),
    Forgery("event prepared query set to x", event("prepared", "query", "x"), "clean-room", "event"),
    Forgery("clean-room-policy policy set to empty", put("clean-room-policy", "policy", {}), "clean-room", "event"),
    Forgery("outcome startedAt set to yesterday", put("outcome", "startedAt", "yesterday"), "readable", "outcome"),
    Forgery("outcome removed", drop("outcome"), "complete", "outcome"),
    Forgery(
        "outcome workflowId set to cr/flights/run/r-other", put("outcome", "workflowId", "cr/flights/run/r-other"), "outcome", "outcome"
    ),
    Forgery("outcome state set to FAILED", put("outcome", "state", "FAILED"), "outcome", "outcome"),
    Forgery("outcome closedAt set to 2001-01-01T00:00:00Z", put("outcome", "closedAt", "2001-01-01T00:00:00Z"), "outcome", "outcome"),
    Forgery("consent at set to 2001-01-01T00:00:00Z", put("consent", "at", "2001-01-01T00:00:00Z"), "consent", "consent"),
    Forgery("revocation at set to 2100-01-01T00:00:00Z", put("revocation", "at", "2100-01-01T00:00:00Z"), "revocation", "revocation"),
    Forgery("export state set to FAILED", put("export", "state", "FAILED"), "complete", "event"),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_forged_record_in_a_rechained_bundle_fails_its_check(world: AuditWorld, items: Items, forgery: Forgery) -> None:
    changed = clone(items)
    forgery.change(world, changed)
    verdict = verify_rechained(world, changed)
    assert not verdict.ok
    assert (forgery.check, forgery.kind) in {(row.id, row.kind) for row in verdict.checks if not row.passed}, verdict.checks
    assert verdict.first_broken is not None


def test_genuine_record_of_another_run_fails(world: AuditWorld, items: Items) -> None:
    theirs = world.another_run(dt.timedelta(hours=1)).items()
    differing = [index for index in range(1, len(items)) if items[index] != theirs[index]]
    assert {items[index][0] for index in differing} == {
        *("request", "outcome", "consent", "report", "job", "policies", "grant", "revocation", "receipt", "event")
    }
    for index in (index for index in differing if items[index][0] != "grant" or items[index - 1][0] != "grant"):
        for insert in (False, True):
            changed, foreign = clone(items), clone(theirs)[index]
            changed[index : index if insert else index + 1] = [foreign]
            verdict = verify_rechained(world, changed)
            assert not verdict.ok, foreign[:2]
            assert verdict.first_broken is not None
            kind = "document" if foreign[0] == "key" else foreign[0]
            assert kind in {row.kind for row in verdict.checks if not row.passed}, (foreign[:2], verdict.first_broken)


def test_duplicate_or_missing_record_fails(world: AuditWorld, items: Items) -> None:
    for index in (index for index in range(1, len(items)) if items[index][0] != "grant" or items[index - 1][0] != "grant"):
        twice = clone(items)
        twice.insert(index + 1, clone(items)[index])
        verdict = verify_rechained(world, twice)
        assert verdict.first_broken is not None, items[index][:2]
        assert verdict.first_broken.kind in (items[index][0], "event"), (items[index][:2], verdict.first_broken)
        assert not verify_rechained(world, [*clone(items)[:index], *clone(items)[index + 1 :]]).ok, items[index][:2]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_arbitrary_edit_yields_a_verdict(world: AuditWorld, items: Items, data: st.DataObject) -> None:
    changed = clone(items)
    body: Any = changed[data.draw(st.integers(0, len(changed) - 1))][2]
    while True:
        keys = sorted(body) if isinstance(body, dict) else list(range(len(body)))
        key: Any = data.draw(st.sampled_from(keys))
        if not isinstance(body[key], dict | list) or not body[key] or data.draw(st.booleans()):
            break
        body = body[key]
    before, body[key] = body[key], data.draw(JSON_VALUES | st.just("2.5") | st.just([]) | st.just({}))
    verdict = verify_rechained(world, changed)
    assert verdict.ok or verdict.first_broken is not None
    assert before is not None


@pytest.mark.parametrize("member", ["collaboration", "runId", "query"])
@pytest.mark.parametrize("name", ["", "flights/run"])
def test_text_that_cannot_be_a_name_yields_a_failed_verdict(world: AuditWorld, items: Items, member: str, name: str) -> None:
    changed = clone(items)
    changed[0][2][member] = name
    verdict = verify_rechained(world, changed)
    assert (verdict.ok, verdict.first_broken is not None) == (False, True)


def test_ledger_without_the_clean_rooms_attestation_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    del changed[index_of(items, "event", "prepared")][2]["data"]["attestation"]
    verdict = verify_rechained(world, changed)
    assert verdict.first_broken is not None
    assert verdict.first_broken.subject == "PREPARED"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}, "ApprovalExpired"),
        ({"decision": "reject"}, "QueryMissingApprovalsFromDatasetOwners"),
        ({"digest": "0" * 64}, "SignedDecisionInvalid"),
    ],
)
def test_decision_that_does_not_permit_the_run_is_named(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    world = AuditWorld(tmp_path)
    items = world.items()
    world.decide("litware", **changes)
    document_id = decision_document_id(world.documents[QUERY].proposal_id, world.users["litware"])
    index = index_of(items, "decision", document_id)
    changed = clone(items)
    changed[index][2]["document"] = world.documents[document_id].wire()
    set_data(changed, index, str(world.documents[document_id].data))
    verdict = verify_rechained(world, changed)
    assert verdict.first_broken is not None
    assert (verdict.first_broken.index, verdict.first_broken.kind) == (index, "decision")
    assert code in verdict.first_broken.detail


def test_more_runs_than_approved_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    index = index_of(items, "event", f"query.{QUERY}")
    kind, subject, body = changed[index]
    for number in range(3):
        earlier = {**body, "seqno": number + 1, "data": {**body["data"], "runId": f"r-earlier-{number}"}}
        changed.insert(index_of(changed, "event") + number, (kind, f"{subject}-{number}", earlier))
    verdict = verify_rechained(world, changed)
    assert verdict.first_broken is not None
    assert "ApprovalRunsExhausted" in verdict.first_broken.detail


# ---------------------------------------------------------------------- a run ID stands for one request and one job


def add_event(items: Items, after: str, id_: str, data: Any, scope: str = "runs") -> None:
    """Add an entry after the first one whose subject contains ``after``."""
    index = index_of(items, "event", after)
    body = items[index][2]
    seqno = body["seqno"] + 1
    entry = {"scope": scope, "id": id_, "seqno": seqno, "timestamp": body["timestamp"], "data": data}
    items.insert(index + 1, ("event", f"{id_}#{seqno}", entry))


def second_request(world: AuditWorld) -> tuple[RunRequest, str]:
    """Another signed request with the same run ID."""
    token = world.ask(JobParameters(start_date="2013-01-01", end_date="2013-01-31")).request
    return peek(RunRequest, token), token


def test_bundle_of_another_request_than_the_pinned_one_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    request, token = second_request(world)
    changed[index_of(changed, "event", "pinned.")][2]["data"] = pin_entry(request, token)
    verdict = verify_rechained(world, changed)
    failed = " ".join(check.detail for check in verdict.checks if not check.passed)
    assert request_digest(token) in failed or "RunPinnedToAnotherRequest" in failed
    assert world.run_id in failed


def test_run_that_started_with_two_requests_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    request, token = second_request(world)
    data = run_facts(request, token) | {"name": "RUN_STARTED", "digests": {"job": "ab" * 32}}
    add_event(changed, f"query.{QUERY}", f"query.{QUERY}", data)
    verdict = verify_rechained(world, changed)
    failed = [check.detail for check in verdict.checks if not check.passed]
    assert any("two requests" in detail and world.run_id in detail and request_digest(token) in detail for detail in failed)


def test_run_with_two_jobs_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    data = json.loads(json.dumps(changed[index_of(changed, "event", f"query.{QUERY}")][2]["data"]))
    data["digests"]["job"] = "ab" * 32
    add_event(changed, f"query.{QUERY}", f"query.{QUERY}", data)
    verdict = verify_rechained(world, changed)
    failed = [check.detail for check in verdict.checks if not check.passed]
    assert any("two jobs" in detail and world.run_id in detail and "ab" * 32 in detail for detail in failed)


def test_run_without_a_pin_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    del changed[index_of(changed, "event", "pinned.")]
    verdict = verify_rechained(world, changed)
    assert any("RUN_PINNED" in f"{check.subject} {check.detail}" for check in verdict.checks if not check.passed)


def test_entry_before_the_pin_fails(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    first, second = index_of(changed, "event", "pinned."), index_of(changed, "event", "prepare-started")
    changed[first], changed[second] = changed[second], changed[first]
    low, high = changed[second][2]["seqno"], changed[first][2]["seqno"]
    changed[first][2]["seqno"], changed[second][2]["seqno"] = low, high
    verdict = verify_rechained(world, changed)
    assert any("precedes the entry that pins" in check.detail for check in verdict.checks if not check.passed)


def test_entries_of_others_are_ignored_and_noted(world: AuditWorld, items: Items) -> None:
    """An earlier version let any published key enter this."""
    changed = clone(items)
    data = {
        "source": "cleanroom-application", "name": "RUN_FAILED", "message": "it failed", "runId": world.run_id, "query": QUERY,
        "queryDigest": world.job.query_digest, "caller": "mallory",
    }  # fmt: skip
    add_event(changed, "run-completed", event_id(world.run_id, "RUN_FAILED"), data, event_scope(world.run_id))
    verdict = verify_rechained(world, changed)
    assert verdict.first_broken is None
    assert any("RUN_FAILED by mallory" in note for note in verdict.notes)


def test_pin_of_another_request_that_came_later_is_noted(world: AuditWorld, items: Items) -> None:
    changed = clone(items)
    add_event(changed, "pinned.", pinned_event_id(world.run_id), pin_entry(*second_request(world)))
    verdict = verify_rechained(world, changed)
    assert verdict.first_broken is None
    assert any("another request asked for this run ID" in note for note in verdict.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"message": "Litware agreed by telephone that rows may leave"}, "it attests 'message'"),
        ({"digests": {"consent": "00"}}, "it attests 'digests'"),
        ({"name": "RUN_COMPLETED"}, "it attests step 'RUN_COMPLETED'"),
        ({"caller": "mallory"}, "it attests another caller"),
        ({"requestDigest": "ab" * 32}, "it attests another requestDigest"),
        ({"proof": {"report": "ab" * 32, "policies": "ab" * 32}}, "another report or statement"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_attested_statement_with_words_of_a_caller_fails(world: AuditWorld, items: Items, change: dict[str, Any], words: str) -> None:
    """The clean room's report is genuine, over a statement that the clean room could be talked into."""
    changed = clone(items)
    body = changed[index_of(changed, "event", "prepared")][2]
    statement = {name: value for name, value in body["data"].items() if name != "attestation"} | change
    evidence = world.hardware.evidence(bytes.fromhex(CLEAN_ROOM_HOST), report_data_for(canonical_json(statement)))
    body["data"] = statement | {"attestation": evidence.model_dump(mode="json", exclude_none=True)}
    verdict = verify_rechained(world, changed)
    failed = [check.detail for check in verdict.checks if not check.passed]
    if "requestDigest" not in change and "name" not in change:
        assert any(words in detail for detail in failed), failed
    else:
        assert failed
