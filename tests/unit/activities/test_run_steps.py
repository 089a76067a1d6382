"""What the clean room's activities return, record, and refuse, and for which commits they wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cleanroom.claims import NOBODY
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance.commits import await_commit
from cleanroom.identifiers import TransactionId, document_digest, user_secret_name
from cleanroom.messages.run import (
    AuditEvent,
    CollectRequest,
    ConsentReceiptRequest,
    GrantRequest,
    RunTicket,
    StagedSecret,
    StageRequest,
    VerifyPolicyRequest,
    VerifySparkRequest,
)
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, runs_event_id
from cleanroom.secret import Secret
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, RUN_ENDS, event_id
from cleanroom.spark.tombstone import is_tombstone
from tests.audit_records import QUERY, SPARK_HOST
from tests.refusals import refused
from tests.run_activities import configure_idp, grant, issue_receipt, revoke, stage, stage_from_vault
from tests.run_world import RunWorld


async def record(runs: RunWorld, ticket: RunTicket, step: str, **members: Any) -> Any:
    await runs.call(runs.process.governance.record_event, AuditEvent(ticket=ticket, step=step, **members))
    return next(event for event in reversed(runs.governance.ledger) if event.scope == event_scope(ticket.run_id))


# ---------------------------------------------------------------------- checks


async def test_the_checks_return_caller_query_approvals_and_consent(runs: RunWorld, ticket: RunTicket) -> None:
    room, users, documents = runs.process.governance, runs.world.users, runs.world.documents
    caller = await runs.call(room.get_users, ticket)
    assert (caller.caller_id, caller.users) == (users["fabrikam"], len(users))
    snapshot = await runs.call(room.fetch_query, ticket)
    for found in (snapshot.query, *snapshot.datasets):
        document = documents[found.id]
        digest = document_digest(str(document.data))
        assert (found.version, found.digest, found.owner_id) == (document.version, digest, document.proposer_id)
    job = runs.job(ticket)
    names = {item.name for item in (*job.datasets, job.datasink)}
    assert snapshot.query.id == QUERY
    assert {item.id for item in snapshot.datasets} == names
    approvals = await runs.call(room.validate_access_and_approvals, ticket)
    owners = {documents[name].proposer_id for name in names}
    assert set(approvals.owners) == set(approvals.approved_by) == owners
    assert approvals.runs_left == 5
    consent = await runs.call(room.check_execution_consent, ticket)
    assert set(consent.documents) == {QUERY, *names}
    assert await runs.call(room.build_job, ticket) == job


async def test_the_report_and_the_policies_of_the_service_are_verified(runs: RunWorld, ticket: RunTicket) -> None:
    room, proof = runs.process.governance, runs.proof(ticket)
    verdict = await runs.call(room.verify_spark, VerifySparkRequest(ticket=ticket, report=proof.report))
    assert verdict.host_data == SPARK_HOST
    await runs.call(room.verify_security_policy, VerifyPolicyRequest(ticket=ticket, proof=proof))
    other = runs.proof(runs.ticket("r-2"))
    await refused(runs.call(room.verify_spark, VerifySparkRequest(ticket=ticket, report=other.report)))
    mixed = proof.model_copy(update={"policies": other.policies})
    await refused(runs.call(room.verify_security_policy, VerifyPolicyRequest(ticket=ticket, proof=mixed)))


# ---------------------------------------------------------------------- entries of the ledger


@pytest.mark.parametrize("step", [step for step in CLEAN_ROOM_STEPS if step != "PREPARED"])
async def test_an_entry_has_the_facts_of_the_request_and_the_words_of_the_orchestrator(
    runs: RunWorld, ticket: RunTicket, step: str
) -> None:
    entry = await record(runs, ticket, step, message="m" * 501, digests={"job": "a" * 64})
    assert (entry.id, entry.scope) == (event_id("r-1", step), "run-r-1")
    assert (entry.data["name"], entry.data["message"], entry.data["digests"]) == (step, "m" * 500, {"job": "a" * 64})
    assert (entry.data["runId"], entry.data["query"]) == ("r-1", QUERY)


async def test_unknown_step_and_prepared_without_a_proof_are_refused(runs: RunWorld, ticket: RunTicket) -> None:
    assert await refused(record(runs, ticket, "QUERY_COMPLETED")) == "AuditStepUnknown"
    assert await refused(record(runs, ticket, "PREPARED")) == "AuditStepNotAttested"
    assert await refused(record(runs, ticket, "GRANTED", proof=runs.proof(ticket))) == "AuditStepNotAttested"
    assert runs.governance.ledger == []


async def test_the_attested_entry_names_job_pods_documents_approvers_proof_and_trust(runs: RunWorld, ticket: RunTicket) -> None:
    data = (await record(runs, ticket, "PREPARED", proof=runs.proof(ticket))).data
    proof, job = runs.proof(ticket), runs.job(ticket)
    assert (data["name"], data["runId"], data["jobDigest"]) == ("PREPARED", "r-1", job.digest())
    assert data["hostData"] == {"driver": proof.policies.driver_host_data, "executor": proof.policies.executor_host_data}
    names = {QUERY, *(item.name for item in (*job.datasets, job.datasink))}
    assert data["documents"] == {name: document_digest(str(runs.world.documents[name].data)) for name in names}
    assert set(data["approvedBy"]) == {runs.world.documents[name].proposer_id for name in names - {QUERY}}
    assert data["proof"]["report"] == proof.report.evidence.digest()
    trust = runs.world.accepted_trust
    assert data["trust"] == {"id": trust.id, "digest": trust.digest}
    assert None not in data["attestation"].values()


# ---------------------------------------------------------------------- the completion record


@pytest.mark.parametrize("data", [None, "text", {"id": 3003}])
async def test_a_completion_record_of_another_form_is_no_evidence(runs: RunWorld, ticket: RunTicket, data: Any) -> None:
    await record(runs, ticket, "PREPARE_STARTED")
    await runs.process.client.put_event(data, event_id=event_id("r-1", "QUERY_COMPLETED"), scope=event_scope("r-1"))
    request = CollectRequest(ticket=ticket, job_digest=runs.job(ticket).digest())
    code = await refused(runs.call(runs.process.governance.collect_result, request))
    assert code == ("RunEventMalformed" if isinstance(data, dict) else "CompletionEvidenceMissing")


# ---------------------------------------------------------------------- commits


class Commits:
    """Stands for the governance client's commit watch: notes which writes were waited for, and when the last write was sent."""

    def __init__(self, runs: RunWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deferred: list[TransactionId] = []
        self.waited: list[TransactionId] = []
        self.sent = 0
        self.early = False
        """Whether a write was sent after the process had waited for another one."""
        client = runs.process.client
        for name in ("put_secret", "set_delegate", "put_event"):
            genuine = getattr(client, name)

            async def write(*arguments: Any, genuine: Any = genuine, **options: Any) -> Any:
                self.early |= bool(self.waited)
                self.sent += 1
                result = await genuine(*arguments, **options)
                watch: Any = self
                await await_commit(watch, TransactionId(2, self.sent))
                return result

            monkeypatch.setattr(client, name, write)

    async def wait(self, transaction: TransactionId) -> None:
        self.waited.append(transaction)


@pytest.mark.parametrize("work", [stage, stage_from_vault, grant, configure_idp])
async def test_a_release_leaves_its_commits_to_the_entry_prepared(
    runs: RunWorld, ticket: RunTicket, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(runs, ticket, "PREPARE_STARTED")
    commits = Commits(runs, monkeypatch)
    await work(runs, ticket)
    assert commits.waited == []
    assert len(commits.deferred) == commits.sent > 0
    await record(runs, ticket, "PREPARED", proof=runs.proof(ticket))
    assert len(commits.waited) == commits.sent
    assert commits.deferred == []


@pytest.mark.parametrize("step", [step for step in CLEAN_ROOM_STEPS if step != "PREPARED"])
async def test_only_the_first_entries_of_a_run_do_not_wait_for_their_commit(
    runs: RunWorld, ticket: RunTicket, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(runs, ticket, "PREPARE_STARTED")
    commits = Commits(runs, monkeypatch)
    await record(runs, ticket, step)
    assert bool(commits.deferred) == (step in ("PREPARE_STARTED", "GRANTED"))
    assert bool(commits.waited) == (step not in ("PREPARE_STARTED", "GRANTED"))


@pytest.mark.parametrize("work", [issue_receipt, revoke])
async def test_receipt_and_revocation_wait_for_their_commits_at_the_end(
    runs: RunWorld, ticket: RunTicket, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage(runs, ticket)
    commits = Commits(runs, monkeypatch)
    await work(runs, ticket)
    assert len(commits.waited) == commits.sent > 2
    assert not commits.early


# ---------------------------------------------------------------------- secrets and grants


@pytest.mark.parametrize(
    "changes", [{"dataset": "contosso-flights"}, {"kind": "connection"}, {"secret_id": "cleanroom_r-2.litware-planes.key"}]
)
async def test_a_secret_that_the_run_did_not_stage_is_not_granted(runs: RunWorld, ticket: RunTicket, changes: dict[str, Any]) -> None:
    await stage(runs, ticket)
    assert await refused(grant(runs, ticket, **changes)) == "SecretNotInJob"
    assert runs.governance.delegates == {}


async def test_a_key_of_the_wrong_length_is_not_staged(runs: RunWorld, ticket: RunTicket) -> None:
    owner = runs.world.documents["litware-planes"].proposer_id
    for name in list(runs.governance.secrets):
        if name.startswith(f"{owner}_litware-planes."):
            runs.governance.secrets[name] = Secret(b"short")
    await refused(stage(runs, ticket))
    assert [name for name in runs.governance.secrets if name.startswith("cleanroom_r-1.")] == []


async def test_the_start_of_a_run_is_counted_with_its_job_before_the_receipt(runs: RunWorld, ticket: RunTicket) -> None:
    receipt = await issue_receipt(runs, ticket)
    job = runs.job(ticket)
    (entry,) = [event for event in runs.governance.ledger if (event.id, event.scope) == (runs_event_id(QUERY), RUNS_SCOPE)]
    assert (entry.data["name"], entry.data["runId"], entry.data["digests"]) == ("RUN_STARTED", "r-1", {"job": job.digest()})
    assert receipt == StagedSecret(dataset=job.query_id, kind="consent", secret_id=job.consent_secret_id)


async def test_a_repeated_receipt_keeps_the_network_secret(runs: RunWorld, ticket: RunTicket) -> None:
    name = runs.job(ticket).network_secret_id or ""
    await issue_receipt(runs, ticket)
    before = runs.governance.secrets[name].reveal()
    await issue_receipt(runs, ticket)
    assert runs.governance.secrets[name].reveal() == before


async def test_no_network_secret_is_made_while_governance_refuses_to_read_it(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get_secret(secret_id: str) -> Any:
        raise NotFound("ContractNotFound", secret_id)

    monkeypatch.setattr(runs.process.client, "get_secret", get_secret)
    assert await refused(issue_receipt(runs, ticket)) == "ContractNotFound"
    assert all(is_tombstone(value) for name, value in runs.governance.secrets.items() if name.startswith("cleanroom_r-1."))
    assert all(held <= {NOBODY} for held in runs.governance.delegates.values())


async def test_the_revocation_closes_the_run_in_the_ledger_and_says_so(runs: RunWorld, ticket: RunTicket) -> None:
    await stage(runs, ticket)
    assert (await revoke(runs, ticket)).closed
    (entry,) = [event for event in runs.governance.ledger if event.id == closed_event_id("r-1")]
    assert (entry.scope, entry.data["name"], entry.data["runId"]) == (RUNS_SCOPE, "RUN_CLOSED", "r-1")


async def test_nothing_is_taken_back_before_governance_shows_that_the_run_is_closed(
    runs: RunWorld, ticket: RunTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage(runs, ticket)
    genuine = runs.process.client.latest_event

    async def latest_event(contract_id: str, *, event_id: str, scope: str) -> Any:
        return None if event_id == closed_event_id("r-1") else await genuine(contract_id, event_id=event_id, scope=scope)

    monkeypatch.setattr(runs.process.client, "latest_event", latest_event)
    assert await refused(revoke(runs, ticket)) == "RunNotClosed"
    assert runs.released(ticket) != []


async def test_concurrent_runs_that_together_exceed_the_limit_are_refused_after_they_are_counted(runs: RunWorld) -> None:
    """Each of them sees no other run before its own start is in the ledger."""
    tickets = [runs.ticket(f"r-{number}") for number in range(6)]
    for ticket in tickets:
        await record(runs, ticket, "PREPARE_STARTED")
    receipts = [
        runs.call(runs.process.secrets.issue_consent_receipt, ConsentReceiptRequest(ticket=item, proof=runs.proof(item)))
        for item in tickets
    ]
    answers = await asyncio.gather(*receipts, return_exceptions=True)
    codes = [answer.code for answer in answers if isinstance(answer, CleanRoomError)]
    assert codes == ["ApprovalRunsExhausted"] * 6


async def test_grants_name_every_secret_for_both_roles(runs: RunWorld, ticket: RunTicket) -> None:
    proof = runs.proof(ticket)
    staged = await runs.call(runs.process.secrets.get_secret, StageRequest(ticket=ticket, proof=proof, dataset="litware-planes"))
    granted = await runs.call(runs.process.secrets.set_secret, GrantRequest(ticket=ticket, proof=proof, secrets=staged.secrets))
    found = sorted((item.delegate_id, item.host_data) for item in granted.grants)
    assert len({host for _, host in found}) == 2
    assert found == sorted((secret.secret_id, host) for secret in staged.secrets for host in {host for _, host in found})


async def test_each_secret_is_a_copy_of_the_owners_secret_of_its_kind(runs: RunWorld, ticket: RunTicket) -> None:
    request = StageRequest(ticket=ticket, proof=runs.proof(ticket), dataset="litware-planes")
    staged = await runs.call(runs.process.secrets.get_secret, request)
    owner = runs.world.users["litware"]
    assert {secret.kind for secret in staged.secrets} == {"key", "connection"}
    for secret in staged.secrets:
        original = runs.governance.secrets[f"{owner}_{user_secret_name('litware-planes', secret.kind)}"]
        assert runs.governance.secrets[secret.secret_id].reveal() == original.reveal()


# ---------------------------------------------------------------------- one end


@pytest.mark.parametrize("first", RUN_ENDS)
async def test_a_run_has_one_recorded_end(first: str, runs: RunWorld, ticket: RunTicket) -> None:
    """A workflow that was reset, or a cleanup, records an end that contradicts it. An audit bundle with both does not verify."""
    await record(runs, ticket, first)
    for step in RUN_ENDS:
        await record(runs, ticket, step)
    ends = [event.data["name"] for event in runs.governance.ledger if event.data.get("name") in RUN_ENDS]
    assert ends == [first, first], "a repeated step updates its own entry"
