"""The order of a run's steps, what ends it, and what is undone, recorded and shown at each end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import TimeoutError, TimeoutType

from cleanroom.errors import CleanRoomError, PreconditionFailed, Refused, Unavailable
from cleanroom.messages.run import ConsentWithdrawn, JobOutcome, Revoked
from tests.unit.workflows.driver import HELD, START, UNTIL_CANCELLED, Driver
from tests.unit.workflows.worlds import JOB, PREPARED, PROOF, RECEIPT, STAGED, TICKET, conclude_run, prepare, run_query

STEPS = (
    "Prepare phase",
    "Check consent again, issue the consent receipt",
    "Submit job",
    "Pods get secrets, mount datasets, check consent, execute",
    "Collect the result receipt",
    "Revoke every grant of this run",
)
JOB_FAILED = PreconditionFailed("JobFailed", "the driver failed", party="operator", hint="Read its log.")
GONE = Unavailable("GovernanceUnreachable", "on purpose", hint="Wait.")


def events(driver: Driver) -> list[str]:
    """Calls in order, with ledger entries by their step."""
    return [call.argument.step if call.name == "record_event" else call.name for call in driver.calls]


def undone(driver: Driver) -> list[str]:
    """What follows the last step of the diagram."""
    found = events(driver)
    start = min(found.index(name) for name in ("delete_job", "revoke_grants") if name in found)
    return found[start:]


def entry(driver: Driver, step: str) -> Any:
    return next(call.argument for call in driver.calls if call.name == "record_event" and call.argument.step == step)


# ---------------------------------------------------------------------- success


def test_a_completed_run_takes_the_steps_of_the_diagram_and_deletes_no_job() -> None:
    with run_query() as run:
        assert events(run) == [
            *("Prepare", "issue_consent_receipt", "RUN_STARTED", "submit_job", "SUBMITTED", "watch_job", "watch_consent"),
            *("collect_result", "revoke_grants", "REVOKED", "RUN_COMPLETED"),
        ]
        assert (run.result.state, run.result.receipt, run.result.job, run.result.failure) == ("COMPLETED", RECEIPT, "job-1", None)
        assert run.result.revoked == Revoked(secrets=3, grants=8)
        assert (run.attributes["CrOutcome"], run.attributes["CrStage"]) == (["COMPLETED"], ["run.closed"])
        assert run.attributes["CrDatasets"] == ["orders", "totals"]
        stages = [written["CrStage"][0] for written in run.written if "CrStage" in written]
        assert stages == ["run.prepare", "run.submit", "run.watch", "run.conclude", "run.cleanup", "run.closed"]
        assert run.timers_started == []
        assert [line.split(" (")[0] for line in run.query("status").steps] == [f"done: {label}" for label in STEPS]
        assert f"**COMPLETED**: 42 rows in `totals`, digest `{RECEIPT.digest[:16]}`" in run.details
        assert "cleanroom run result run-1 --dataset FILE" in run.details


def test_the_end_of_a_step_is_shown_at_once() -> None:
    with run_query(record_event=HELD) as run:
        assert run.running() == ["record_event"]
        assert "- ✓ Check consent again, issue the consent receipt" in run.details


def test_the_preparation_shows_what_it_verified_and_for_how_many_datasets() -> None:
    with prepare() as preparation:
        assert "- ✓ Get users, validate the caller" in preparation.details
        lines = {line.split(" — ")[0]: line.split(" — ")[1:] for line in preparation.query("timeline")}
        assert lines["done: Verify Spark service"] == [f"Milan, host data {'5a' * 6}, 2 checks (0.0 s)"]
        assert lines["done: Get secrets and set them for the pods"] == ["2 datasets (0.0 s)"]
        assert lines["done: Configure IDP for the pods (0.0 s)"] == []


def test_every_request_of_a_run_carries_its_ticket_and_what_was_prepared() -> None:
    with run_query() as run:
        assert {call.argument.ticket for call in run.calls if not call.child} == {TICKET}
        assert run.call("issue_consent_receipt").argument.proof == PROOF
        assert run.call("submit_job").argument.job == JOB
        watch, consent = run.call("watch_job").argument, run.call("watch_consent").argument
        assert (watch.tracking.name, watch.tracking.uid, watch.driver_start_seconds, watch.run_seconds) == ("job-1", "u", 11, 22)
        assert (consent.proof, consent.interval_seconds) == (PROOF, 7)
        assert run.call("collect_result").argument.job_digest == PREPARED.job_digest


def test_the_ledger_entries_name_job_query_and_result() -> None:
    digest = {"job": PREPARED.job_digest}
    with run_query() as run:
        assert entry(run, "RUN_STARTED").digests == digest | {"query": "1" * 64}
        assert (entry(run, "SUBMITTED").digests, entry(run, "SUBMITTED").message) == (digest, "job job-1")
        assert (entry(run, "REVOKED").digests, entry(run, "REVOKED").message) == (digest, "3 secrets, 8 grants")
        assert entry(run, "RUN_COMPLETED").digests == digest | {"result": RECEIPT.digest}
        assert entry(run, "RUN_COMPLETED").message == "result delivered"


def test_state_and_stage_follow_the_steps() -> None:
    answers: dict[str, Any] = dict.fromkeys(("Prepare", "issue_consent_receipt", "submit_job", "watch_job", "collect_result"), HELD)
    with run_query(**answers, revoke_grants=HELD) as run:

        def seen() -> tuple[str, str, str]:
            status = run.query("status")
            return status.state, status.stage, status.job

        assert seen() == ("Preparing", "prepare", "")
        assert "cleanroom run cancel run-1" in run.details
        run.finish("Prepare", PREPARED)
        assert seen() == ("Submitting", "submit", "")
        run.finish("issue_consent_receipt", STAGED)
        run.advance(seconds=3)
        run.finish("submit_job", {"name": "job-1", "namespace": "n", "uid": "u"})
        assert seen() == ("Running", "watch", "job-1")
        assert "running: Pods get secrets, mount datasets, check consent, execute" in run.query("status").steps
        run.finish("watch_job", JobOutcome(completed=True))
        assert seen() == ("Concluding", "conclude", "job-1")
        run.finish("collect_result", RECEIPT)
        assert seen() == ("Concluding", "cleanup", "job-1")
        assert run.query("outcome").receipt == RECEIPT
        run.finish("revoke_grants", Revoked(secrets=1, grants=2))
        assert run.query("status").state == "COMPLETED"
        assert run.result.stages["submit"] == 3
        assert set(run.result.stages) == {"prepare", "consent", "submit", "watch", "result", "revoke"}


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("step", "deleted"),
    [("Prepare", False), ("issue_consent_receipt", True), ("submit_job", True), ("watch_job", True), ("collect_result", False)],
)
def test_a_step_that_fails_ends_the_run_and_undoes_it(step: str, deleted: bool) -> None:
    """From the receipt until the job has ended, the job may run: it is deleted before the grants are revoked."""
    with run_query(**{step: Refused("NoRight", "on purpose", party="fabrikam", hint="Ask.")}) as run:
        assert undone(run) == [*(["delete_job"] if deleted else []), "revoke_grants", "REVOKED", "RUN_FAILED"]
        assert run.code == "NoRight"
        outcome = run.query("outcome")
        assert (outcome.state, outcome.failure.code, outcome.failure.party, outcome.failure.hint) == (
            "FAILED", "NoRight", "fabrikam", "Ask.",
        )  # fmt: skip
        assert run.query("status").failure == outcome.failure
        assert entry(run, "RUN_FAILED").message == "NoRight"
        assert run.attributes["CrOutcome"] == ["NoRight"]
        assert "**FAILED**: `NoRight` on purpose" in run.details
        assert "Next step: Ask" in run.details
        assert run.running() == []


def test_a_preparation_that_began_nothing_is_revoked_and_not_recorded() -> None:
    """The ledger does not pin the run to this request, so an entry of it would be refused."""
    with run_query(Prepare=Refused("NoRight", "x"), revoke_grants=Revoked(secrets=0, grants=0, closed=False)) as run:
        assert undone(run) == ["revoke_grants"]
        assert run.query("outcome").revoked.closed is False
    with run_query(Prepare=Refused("NoRight", "x"), revoke_grants=GONE) as run:
        assert (undone(run), run.code) == (["revoke_grants"], "NoRight")


def test_a_prepared_run_whose_revocation_failed_is_recorded_without_what_was_revoked() -> None:
    with run_query(revoke_grants=GONE) as run:
        assert undone(run) == ["revoke_grants", "RUN_COMPLETED"]
        outcome = run.query("outcome")
        assert (outcome.state, outcome.failure.code, outcome.failure.party) == ("COMPLETED", "CleanupFailed", "operator")
        assert "cleanup: GovernanceUnreachable" not in run.details  # The summary replaces it.
        assert "CleanupFailed" in run.details
        assert run.attributes["CrOutcome"] == ["CleanupFailed"]


def test_a_failed_deletion_neither_stops_the_revocation_nor_hides_the_failure() -> None:
    with run_query(watch_job=JobOutcome(completed=False, error=JOB_FAILED.to_dict()), delete_job=GONE) as run:
        assert undone(run) == ["delete_job", "revoke_grants", "REVOKED", "RUN_FAILED"]
        assert (run.code, run.query("outcome").failure.code) == ("JobFailed", "JobFailed")


def test_a_failed_ledger_entry_does_not_stop_the_next_one() -> None:
    entries = [None, None, GONE, GONE]
    with run_query(record_event=entries) as run:
        assert undone(run) == ["revoke_grants", "REVOKED", "RUN_COMPLETED"]
        assert run.query("outcome").failure.code == "CleanupFailed"


def test_an_activity_that_timed_out_fails_the_run_with_its_code() -> None:
    with run_query(collect_result=TimeoutError("t", type=TimeoutType.SCHEDULE_TO_CLOSE, last_heartbeat_details=[])) as run:
        assert run.code == "StepTimedOut"


# ---------------------------------------------------------------------- the job's outcome


def test_a_preparation_that_timed_out_is_undone() -> None:
    """The server ends it without running its code, so the run alone can take back what it granted."""
    with run_query(Prepare=TimeoutError("late", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])) as run:
        assert undone(run) == ["revoke_grants", "REVOKED", "RUN_FAILED"]


def test_a_job_that_failed_is_not_collected() -> None:
    with run_query(watch_job=JobOutcome(completed=False, error=JOB_FAILED.to_dict())) as run:
        assert "collect_result" not in run.names
        assert (run.code, run.query("outcome").failure.hint) == ("JobFailed", "Read its log.")


def test_a_job_that_may_have_completed_is_decided_by_the_ledger() -> None:
    outcome = JobOutcome(completed=False, error=JOB_FAILED.to_dict(), may_have_completed=True)
    with run_query(watch_job=outcome) as run:
        assert run.result.receipt == RECEIPT
    missing = PreconditionFailed("CompletionEvidenceMissing", "no entry")
    with run_query(watch_job=outcome, collect_result=missing) as run:
        assert run.code == "JobFailed"
    with run_query(watch_job=outcome, collect_result=Refused("CompletionEvidenceMismatch", "x")) as run:
        assert run.code == "CompletionEvidenceMismatch"
    with run_query(collect_result=missing) as run:
        assert run.code == "CompletionEvidenceMissing"


def test_withdrawn_consent_ends_the_run_although_its_job_still_runs() -> None:
    withdrawn = ConsentWithdrawn(document_id="orders", message="turned off")
    with run_query(watch_job=UNTIL_CANCELLED, watch_consent=withdrawn) as run:
        assert run.code == "ConsentWithdrawn"
        assert run.call("watch_job").cancelled
        assert undone(run) == ["delete_job", "revoke_grants", "REVOKED", "RUN_FAILED"]
        failure = run.query("outcome").failure
        assert "'orders'" in failure.message
        assert "turned off" in failure.message


def test_a_consent_watch_that_fails_ends_the_run() -> None:
    with run_query(watch_job=UNTIL_CANCELLED, watch_consent=Refused("RunClosed", "x")) as run:
        assert run.code == "RunClosed"
        assert "delete_job" in run.names


def test_the_job_decides_when_both_watches_end_together() -> None:
    with run_query(watch_job=HELD, watch_consent=HELD) as run:
        job, consent = run.call("watch_job"), run.call("watch_consent")
        run.end_together({job: JobOutcome(completed=True), consent: ConsentWithdrawn(document_id="orders", message="m")})
        assert run.result.state == "COMPLETED"


def test_the_end_waits_a_bounded_time_for_the_consent_watch_to_stop() -> None:
    with run_query(watch_consent=HELD) as run:
        assert run.call("watch_consent").cancelled
        assert events(run)[-1] == "RUN_COMPLETED"
        assert (run.ended, run.timers) == (False, {"the consent watch stops": 10})
        run.advance(seconds=10)
        assert run.result.state == "COMPLETED"
    with run_query(watch_consent=HELD) as run:
        run.finish("watch_consent", ConsentWithdrawn(document_id="orders", message="m"))
        assert run.result.state == "COMPLETED"


# ---------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("step", ["Prepare", "issue_consent_receipt", "submit_job"])
def test_a_step_with_an_effect_ends_before_it_is_undone(step: str) -> None:
    """Otherwise it could take effect after it was undone."""
    result = {"Prepare": PREPARED, "issue_consent_receipt": STAGED, "submit_job": {"name": "job-1", "namespace": "n", "uid": "u"}}[step]
    with run_query(**{step: HELD}) as run:
        run.cancel()
        assert run.call(step).cancelled
        assert run.names[-1] == step
        assert run.running() == [step]
        run.advance(hours=1)
        assert not run.ended
        run.finish(step, result)
        assert undone(run) == [*([] if step == "Prepare" else ["delete_job"]), "revoke_grants", "REVOKED", "RUN_CANCELLED"]
        assert run.cancelled
        outcome = run.query("outcome")
        assert (outcome.state, outcome.failure.code) == ("CANCELLED", "RunCancelled")
        assert run.attributes["CrOutcome"] == ["RunCancelled"]
        assert entry(run, "RUN_CANCELLED").message == "RunCancelled"


@pytest.mark.parametrize(("step", "deleted"), [("watch_job", True), ("collect_result", False)])
def test_a_cancelled_wait_is_given_up_and_undone(step: str, deleted: bool) -> None:
    with run_query(**{step: HELD}) as run:
        run.cancel()
        assert undone(run) == [*(["delete_job"] if deleted else []), "revoke_grants", "REVOKED", "RUN_CANCELLED"]
        assert (run.cancelled, run.running()) == (True, [])


@pytest.mark.parametrize("step", ["delete_job", "revoke_grants"])
def test_a_second_cancellation_does_not_interrupt_the_cleanup(step: str) -> None:
    with run_query(watch_job=HELD, **{step: HELD}) as run:
        for _ in range(3):
            run.cancel()
        assert run.running() == [step]
        assert not run.call(step).cancelled
        run.finish(step, True if step == "delete_job" else Revoked(secrets=1, grants=1))
        assert undone(run) == ["delete_job", "revoke_grants", "REVOKED", "RUN_CANCELLED"]
        assert run.cancelled


def test_a_completed_run_that_is_cancelled_during_its_cleanup_stays_completed() -> None:
    with run_query(revoke_grants=HELD) as run:
        run.cancel()
        run.finish("revoke_grants", Revoked(secrets=1, grants=1))
        assert run.result.state == "COMPLETED"


# ---------------------------------------------------------------------- ConcludeRun


def test_a_terminated_run_is_revoked_before_its_job_is_deleted_and_then_recorded() -> None:
    with conclude_run() as run:
        assert events(run) == ["revoke_grants", "delete_job", "REVOKED", "RUN_FAILED"]
        assert {call.argument if call.name == "delete_job" else call.argument.ticket for call in run.calls} == {TICKET}
        assert entry(run, "REVOKED").message == "3 secrets, 8 grants"
        assert entry(run, "RUN_FAILED").message == "RunTerminated"
        assert (run.result.job_stopped, run.result.revoked) == (True, Revoked(secrets=3, grants=8))
        assert (run.attributes["CrOutcome"], run.written[0]["CrStage"]) == (["succeeded"], ["conclude.cleanup"])
        assert [line.split(" (")[0] for line in run.query("timeline")] == [
            *("done: Revoke every grant of the run", "done: Stop the job", "done: Record the end in the ledger"),
        ]
    with conclude_run(delete_job=False) as run:
        assert run.result.job_stopped is False


def test_a_request_that_began_nothing_deletes_no_job_and_records_nothing() -> None:
    with conclude_run(revoke_grants=Revoked(secrets=0, grants=0, closed=False)) as run:
        assert run.names == ["revoke_grants"]
        assert (run.result.job_stopped, run.result.revoked.closed) == (False, False)


@pytest.mark.parametrize("step", ["revoke_grants", "delete_job", "record_event"])
def test_a_failed_conclusion_fails_so_that_it_is_started_again(step: str) -> None:
    error: CleanRoomError = GONE
    with conclude_run(**{step: error}) as run:
        assert run.code == "GovernanceUnreachable"
        assert run.names[-1] == step


def test_times_are_those_of_the_workflow() -> None:
    with run_query(revoke_grants=HELD) as run:
        run.advance(seconds=4)
        run.finish("revoke_grants", Revoked(secrets=1, grants=1))
        assert run.result.stages["revoke"] == 4
        assert run.attributes["CrStageSince"] == [START]
        assert run.now == START + timedelta(seconds=4)
