"""``Cleanup``: two looks, what lies between them, and what is undone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cleanroom.errors import Refused, Unavailable
from cleanroom.messages.cleanup import CleanupInput, HeldFound, JobsFound, StatesFound, WorkflowState
from cleanroom.messages.run import Revoked
from tests.unit.workflows.driver import HELD, Driver
from tests.unit.workflows.worlds import READ_AT, START, cleanup, held, job
from workflows.cleanup import BATCH

DRY = CleanupInput(collaboration="flights")
APPLY = CleanupInput(collaboration="flights", apply=True)
GONE = Unavailable("TemporalUnavailable", "on purpose")


def events(driver: Driver) -> list[str]:
    return [call.argument.step if call.name == "record_event" else call.name for call in driver.calls]


def states(**found: str) -> StatesFound:
    each: Any = {run.replace("_", "-"): WorkflowState(state=state) for run, state in found.items()}  # type: ignore[arg-type]
    return StatesFound(namespace_id="namespace-1", states=each)


# ---------------------------------------------------------------------- look


def test_nothing_held_asks_temporal_nothing() -> None:
    with cleanup() as run:
        assert events(run) == ["list_jobs", "find_held"]
        assert (run.result.left, run.result.kept, run.result.open_runs) == ((), (), 0)


def test_a_dry_run_looks_twice_around_temporal_and_undoes_nothing() -> None:
    with cleanup(held("run-1"), input=DRY) as run:
        assert events(run) == ["list_jobs", "find_held", "describe_runs", "find_held"]
        assert [call.argument.runs for call in run.calls if call.name == "find_held"] == [None, ("run-1",)]
        (row,) = run.result.left
        assert (row.run_id, row.query, row.held, row.outcome) == ("run-1", "totals", {"secrets": 3, "secret grants": 6}, "")
        assert (row.age_seconds, row.reason) == (7200, "its workflow has ended: TERMINATED")
        assert run.result.applied is False


def test_open_runs_are_counted_and_not_looked_at_again() -> None:
    with cleanup(held("run-1"), held("run-2"), describe_runs=states(run_1="open", run_2="concluding")) as run:
        assert events(run) == ["list_jobs", "find_held", "describe_runs"]
        assert (run.result.left, run.result.open_runs) == ((), 2)


def test_what_a_run_removes_between_the_looks_is_not_left_over() -> None:
    """The workflow ended and cleaned up while Temporal was asked."""
    looks = [HeldFound(read_at=READ_AT, runs=(held("run-1"),)), HeldFound(read_at=READ_AT)]
    with cleanup(find_held=looks) as run:
        assert "revoke_grants" not in events(run)
        assert run.result.left == ()


def test_a_run_that_begins_during_the_sweep_is_not_touched() -> None:
    """The first look did not see it, so the second one does not ask for it."""
    looks = [HeldFound(read_at=READ_AT, runs=(held("run-1"),)), HeldFound(read_at=READ_AT, runs=(held("run-1"), held("run-2")))]
    with cleanup(find_held=looks) as run:
        assert [call.argument.ticket.run_id for call in run.calls if call.name == "revoke_grants"] == ["run-1"]


def test_runs_elsewhere_are_listed_and_kept() -> None:
    with cleanup(held("run-1", origin="namespace-2"), describe_runs=states(run_1="unknown")) as run:
        assert run.result.left == ()
        (row,) = run.result.kept
        assert "namespace-2" in row.reason
    with cleanup(
        held("run-1", origin="namespace-2"),
        input=APPLY.model_copy(update={"lost": ("namespace-2",)}),
        describe_runs=states(run_1="unknown"),
    ) as run:
        assert [row.outcome for row in run.result.left] == ["undone"]


@pytest.mark.parametrize(("grace", "left"), [(7201, 0), (7200, 1)], ids=["within", "after"])
def test_the_grace_is_counted_from_the_ledger(grace: int, left: int) -> None:
    with cleanup(held("run-1"), input=APPLY.model_copy(update={"grace_seconds": grace}), describe_runs=states(run_1="unknown")) as run:
        assert len(run.result.left) == left


def test_nothing_is_undone_while_temporal_does_not_answer() -> None:
    with cleanup(held("run-1"), describe_runs=GONE) as run:
        assert run.code == "TemporalUnavailable"
        assert "revoke_grants" not in events(run)


def test_an_application_without_holdings_in_governance_is_left_over() -> None:
    with cleanup(held("run-1", held={}), list_jobs=job("run-1")) as run:
        assert [call.argument.jobs for call in run.calls if call.name == "find_held"] == [("run-1",), ("run-1",)]
        assert [row.held for row in run.result.left] == [{"application": 1}]
        assert "delete_job" in events(run)


def test_an_application_that_is_gone_at_the_second_look_is_not_left_over() -> None:
    with cleanup(held("run-1", held={}), list_jobs=[job("run-1"), JobsFound()]) as run:
        assert run.result.left == ()


def test_grants_are_undone_while_the_spark_service_does_not_answer() -> None:
    with cleanup(held("run-1"), list_jobs=Unavailable("KubernetesUnreachable", "on purpose")) as run:
        assert run.result.unchecked == {"SparkApplications": "KubernetesUnreachable"}
        assert [row.outcome for row in run.result.left] == ["undone"]


# ---------------------------------------------------------------------- undo


def test_undoing_revokes_stops_the_job_and_records_the_end() -> None:
    with cleanup(held("run-1"), list_jobs=job("run-1")) as run:
        assert events(run)[-4:] == ["revoke_grants", "delete_job", "REVOKED", "RUN_FAILED"]
        assert [row.outcome for row in run.result.left] == ["undone"]
        assert run.attributes["CrOutcome"] == ["succeeded"]


def test_a_run_that_cannot_be_undone_does_not_stop_the_others() -> None:
    def revoke(request: Any) -> Any:
        return Refused("GrantsRemain", "on purpose") if request.ticket.run_id == "run-1" else Revoked(secrets=1, grants=1)

    with cleanup(held("run-1"), held("run-2"), revoke_grants=revoke) as run:
        assert {row.run_id: row.outcome for row in run.result.left} == {"run-1": "GrantsRemain", "run-2": "undone"}


@pytest.mark.parametrize("pin", ["absent", "another"])
def test_what_is_pinned_to_no_request_is_reported(pin: str) -> None:
    refused = {"revoke_grants": Revoked(secrets=0, grants=0, closed=False)} if pin == "another" else {}
    with cleanup(held("run-1", ticket=None if pin == "absent" else held("run-1").ticket), **refused) as run:
        assert [row.outcome for row in run.result.left] == ["RunNotPinned"]
        assert "delete_job" not in events(run)


def test_an_application_of_a_run_that_the_ledger_does_not_know_is_deleted() -> None:
    stray = held("run-1", held={}, pinned=False, pinned_at=None, origin="", ticket=None)
    with cleanup(stray, list_jobs=job("run-1")) as run:
        assert events(run)[-1] == "delete_unpinned_job"
        (row,) = run.result.left
        assert (row.outcome, row.age_seconds, row.reason) == ("undone", None, "the ledger does not know it")


def test_many_runs_are_undone_in_batches_that_continue_as_new() -> None:
    many = [held(f"run-{number}") for number in range(BATCH + 1)]
    with cleanup(*many) as run:
        assert events(run).count("revoke_grants") == BATCH
        assert [row.outcome for row in run.continued.carried.left] == ["undone"] * BATCH
        assert "CrOutcome" not in run.attributes, "it has not ended"
    with cleanup(many[-1], input=run.continued) as last:
        assert (len(last.result.left), last.result.more) == (BATCH + 1, False)


def test_batches_without_progress_end() -> None:
    """Otherwise a cleanup that can undo nothing would run for ever."""
    many = [held(f"run-{number}") for number in range(BATCH + 1)]
    with cleanup(*many, revoke_grants=Unavailable("GovernanceUnreachable", "on purpose")) as run:
        assert run.continued is None
        assert {row.outcome for row in run.result.left} == {"GovernanceUnreachable"}
        assert run.result.more


def test_a_cancelled_cleanup_ends_as_cancelled() -> None:
    with cleanup(held("run-1"), revoke_grants=HELD) as run:
        run.cancel()
        assert run.cancelled
        assert run.attributes["CrOutcome"] == ["CANCELLED"]


def test_progress_is_shown() -> None:
    with cleanup(held("run-1"), held("run-2"), revoke_grants=[Revoked(secrets=1, grants=1), HELD]) as run:
        assert "1 of 2 runs" in run.details
        assert run.query("timeline")[-1].startswith("running: Undo")


def test_age_is_never_negative() -> None:
    """The clean room's clock may have been set back since the pin."""
    with cleanup(held("run-1", pinned_at=START + timedelta(days=1)), input=DRY) as run:
        assert [row.age_seconds for row in run.result.left] == [0]
