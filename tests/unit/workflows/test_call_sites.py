"""Queue, timeouts, attempts, heartbeats and cancellation of every activity and child workflow that the workflows start.

A replay compares only the order of commands, so it does not notice another timeout. This test compares each call with literal values.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

from cleanroom.messages.query import BallotRecorded
from tests.unit.workflows.driver import HELD, Call, Driver, Timing, timing
from tests.unit.workflows.worlds import (
    RUN,
    STORES,
    azure_job,
    cleanup,
    conclude_run,
    held,
    job,
    prepare,
    publish_dataset,
    publish_query,
    run_query,
    watch_queries,
)
from workflows.run_query import PREPARE_DETAILS

MINUTES, HOURS, DAYS = 60, 3600, 86_400
SERVICE = Timing()
FINISHED = replace(SERVICE, finished_on_cancel=True)
"""Takes effect outside of the workflow, which must undo it: so a cancelled workflow waits for its end."""
OFFLINE = replace(SERVICE, total=DAYS)
"""On the queue of a collaborator, whose worker may be offline for a day."""
PROPAGATING = replace(OFFLINE, attempts=0, first_backoff=5, growth=1.5)
WATCHED = Timing(start_to_close=12 * HOURS, total=24 * HOURS, attempts=0)
CLEANUP = Timing(total=HOURS, attempts=0, longest_backoff=60)
ROOM, SPARK, FRONTEND, CONTOSSO, FABRIKAM = "clean-room", "spark-service", "frontend", "collaborator.contosso", "collaborator.fabrikam"

LOOK = Timing(start_to_close=10 * MINUTES, total=HOURS, attempts=5, longest_backoff=60)

EXPECTED = {
    ("Cleanup", "delete_job"): (SPARK, SERVICE),
    ("Cleanup", "delete_unpinned_job"): (SPARK, SERVICE),
    ("Cleanup", "describe_runs"): (ROOM, LOOK),
    ("Cleanup", "find_held"): (ROOM, LOOK),
    ("Cleanup", "list_jobs"): (SPARK, SERVICE),
    ("Cleanup", "record_event"): (ROOM, SERVICE),
    ("Cleanup", "revoke_grants"): (ROOM, SERVICE),
    ("ConcludeRun", "delete_job"): (SPARK, CLEANUP),
    ("ConcludeRun", "record_event"): (ROOM, SERVICE),
    ("ConcludeRun", "revoke_grants"): (ROOM, CLEANUP),
    ("Prepare", "build_job"): (ROOM, SERVICE),
    ("Prepare", "check_execution_consent"): (ROOM, SERVICE),
    ("Prepare", "configure_idp"): (ROOM, FINISHED),
    ("Prepare", "fetch_query"): (ROOM, SERVICE),
    ("Prepare", "get_attestation_report"): (SPARK, SERVICE),
    ("Prepare", "get_key_with_skr"): (
        ROOM,
        replace(FINISHED, start_to_close=60, total=15 * MINUTES, attempts=0, first_backoff=5, growth=1.5),
    ),
    ("Prepare", "get_secret"): (ROOM, FINISHED),
    ("Prepare", "get_security_policy"): (SPARK, SERVICE),
    ("Prepare", "get_users"): (ROOM, SERVICE),
    ("Prepare", "record_event"): (ROOM, SERVICE),
    ("Prepare", "set_secret"): (ROOM, FINISHED),
    ("Prepare", "validate_access_and_approvals"): (ROOM, SERVICE),
    ("Prepare", "verify_security_policy"): (ROOM, SERVICE),
    ("Prepare", "verify_spark"): (ROOM, SERVICE),
    ("PublishAzureDataset", "accept_document"): (CONTOSSO, OFFLINE),
    ("PublishAzureDataset", "allow_access_blob"): (CONTOSSO, PROPAGATING),
    ("PublishAzureDataset", "allow_access_key_vault"): (CONTOSSO, PROPAGATING),
    ("PublishAzureDataset", "create_managed_identity"): (CONTOSSO, OFFLINE),
    ("PublishAzureDataset", "generate_dataset_descriptor"): (FRONTEND, SERVICE),
    ("PublishAzureDataset", "get_clean_room_identity"): (FRONTEND, SERVICE),
    ("PublishAzureDataset", "get_clean_room_policy"): (FRONTEND, SERVICE),
    ("PublishAzureDataset", "locate_blob_store"): (CONTOSSO, OFFLINE),
    ("PublishAzureDataset", "propose_document"): (CONTOSSO, OFFLINE),
    ("PublishAzureDataset", "set_federation"): (CONTOSSO, PROPAGATING),
    ("PublishAzureDataset", "set_key_with_skr"): (CONTOSSO, PROPAGATING),
    ("PublishQuery", "accept_query"): (CONTOSSO, replace(OFFLINE, total=30 * DAYS)),
    ("PublishQuery", "find_query_change"): (FRONTEND, SERVICE),
    ("PublishQuery", "confirm_withdrawal"): (FABRIKAM, OFFLINE),
    ("PublishQuery", "create_document"): (FABRIKAM, OFFLINE),
    ("PublishQuery", "determine_dataset_owners"): (FRONTEND, SERVICE),
    ("PublishQuery", "generate_query_document"): (FRONTEND, SERVICE),
    ("PublishQuery", "notify"): (CONTOSSO, Timing(60, DAYS, 10, 6, 10, 4, 1800)),
    ("PublishQuery", "propose_query"): (FABRIKAM, OFFLINE),
    ("PublishQuery", "reject_query"): (CONTOSSO, replace(OFFLINE, total=30 * DAYS)),
    ("PublishQuery", "update_document"): (FABRIKAM, OFFLINE),
    ("PublishQuery", "verify_decision"): (FRONTEND, SERVICE),
    ("PublishQuery", "withdraw_proposal"): (FABRIKAM, OFFLINE),
    ("PublishS3Dataset", "accept_document"): (CONTOSSO, OFFLINE),
    ("PublishS3Dataset", "generate_dataset_descriptor"): (FRONTEND, SERVICE),
    ("PublishS3Dataset", "get_clean_room_policy"): (FRONTEND, SERVICE),
    ("PublishS3Dataset", "get_connection_secret"): (CONTOSSO, OFFLINE),
    ("PublishS3Dataset", "locate_s3_store"): (CONTOSSO, OFFLINE),
    ("PublishS3Dataset", "propose_document"): (CONTOSSO, OFFLINE),
    ("PublishS3Dataset", "set_secret"): (CONTOSSO, OFFLINE),
    ("RunQuery", "collect_result"): (ROOM, SERVICE),
    ("RunQuery", "delete_job"): (SPARK, CLEANUP),
    ("RunQuery", "issue_consent_receipt"): (ROOM, FINISHED),
    ("RunQuery", "record_event"): (ROOM, SERVICE),
    ("RunQuery", "revoke_grants"): (ROOM, CLEANUP),
    ("RunQuery", "submit_job"): (SPARK, FINISHED),
    ("RunQuery", "watch_consent"): (ROOM, replace(WATCHED, finished_on_cancel=True)),
    ("RunQuery", "watch_job"): (SPARK, WATCHED),
    ("WatchQueries", "watch_queries"): (FRONTEND, replace(WATCHED, total=366 * DAYS)),
}


@pytest.fixture(scope="module")
def calls() -> dict[tuple[str, str], list[Call]]:
    """Every call of workflows that take, together, all their paths."""
    found: dict[tuple[str, str], list[Call]] = defaultdict(list)

    def note(driver: Driver) -> None:
        for call in driver.calls:
            found[driver.kind.__name__, call.name].append(call)

    with run_query() as finished, run_query(watch_job=HELD) as cancelled:
        cancelled.cancel()
        note(finished)
        note(cancelled)
    with conclude_run() as concluded, cleanup(held("run-1"), list_jobs=job("run-1")) as swept:
        note(concluded)
        note(swept)
    with cleanup(held("run-1", held={}, ticket=None), list_jobs=job("run-1")) as unpinned:
        note(unpinned)
    with prepare() as s3, prepare(build_job=azure_job()) as azure:
        note(s3)
        note(azure)
    for kind in STORES:
        with publish_dataset(kind) as published:
            note(published)
    with publish_query() as query:
        message = {"party": "fabrikam", "authorisation": "s.i.g"}
        query.update("update", message | {"spec": query.input.spec})
        for decision in ("reject", "approve"):
            query.update("propose", message)
            query.update(decision, {"decision": f"{decision}.u-contosso.signed"})
        query.update("withdraw", message)
        query.update("withdraw", message)
        note(query)
    with watch_queries() as watcher:
        note(watcher)
    with publish_query(accept_query=BallotRecorded(proposal_state="Open", ballots={"u-litware": "accepted"})) as waiting:
        waiting.update("propose", message)
        waiting.update("approve", {"decision": "approve.u-litware.signed"})
        waiting.advance(days=1)
        found["PublishQuery", "notify"] = [call for call in waiting.calls if call.name == "notify"]
    return found


def test_every_call_is_expected_and_every_expected_one_was_made(calls: dict[tuple[str, str], list[Call]]) -> None:
    assert set(calls) == {*EXPECTED, ("RunQuery", "Prepare")}


@pytest.mark.parametrize("site", EXPECTED, ids="-".join)
def test_activity_is_started_on_its_queue_with_its_options(site: tuple[str, str], calls: dict[tuple[str, str], list[Call]]) -> None:
    """No activity runs on the workflow's own queue by omission."""
    for call in calls[site]:
        assert (call.command.task_queue, timing(call)) == EXPECTED[site]
        assert call.summary


def test_a_cancelled_run_waits_for_its_preparation(calls: dict[tuple[str, str], list[Call]]) -> None:
    for call in calls["RunQuery", "Prepare"]:
        command = call.command
        assert command.workflow_id == "cr/flights/run/run-1/prepare"
        assert command.workflow_execution_timeout.ToTimedelta().total_seconds() == HOURS
        assert command.cancellation_type == ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED
        assert command.parent_close_policy == ParentClosePolicy.TERMINATE
        assert call.argument == RUN.model_dump(mode="json")
        assert call.details == PREPARE_DETAILS
        assert set(command.search_attributes.indexed_fields) == {"CrCollab", "CrKind", "CrQuery", "CrProposer"}
