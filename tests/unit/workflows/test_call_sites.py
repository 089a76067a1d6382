"""Timeouts, attempts, heartbeats and cancellation of every activity that the recorded workflows start.

A replay compares only the order of commands, so it does not notice another timeout. This test replays the same histories and compares
the options of each call with literal values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from temporalio.worker import StartActivityInput
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

from tests.unit.workflows.call_sites import ACTIVITIES, CHILDREN, record

MINUTES, HOURS, DAYS = 60, 3600, 86_400


@dataclass(frozen=True)
class Options:
    """What matters of one call; times in seconds. ``total`` None: a deadline of the workflow's input, which the test does not compare."""

    start_to_close: float = 30
    total: float | None = 6 * MINUTES
    heartbeat: float | None = 10
    attempts: int = 8
    first_backoff: float = 1
    longest_backoff: float = 30
    finished_on_cancel: bool = False


SERVICE = Options()
FINISHED = replace(SERVICE, finished_on_cancel=True)
"""Takes effect outside of the workflow, which must undo it: so a cancelled workflow waits for its end."""
OFFLINE = replace(SERVICE, total=DAYS)
"""On the queue of a collaborator, whose worker may be offline for a day."""
PROPAGATING = replace(OFFLINE, attempts=0, first_backoff=5)
WATCHED = Options(start_to_close=12 * HOURS, total=24 * HOURS, attempts=0)

EXPECTED = {
    ("Prepare", "build_job"): SERVICE,
    ("Prepare", "check_execution_consent"): SERVICE,
    ("Prepare", "configure_idp"): FINISHED,
    ("Prepare", "fetch_query"): SERVICE,
    ("Prepare", "get_attestation_report"): SERVICE,
    ("Prepare", "get_key_with_skr"): replace(FINISHED, start_to_close=60, total=15 * MINUTES, attempts=0, first_backoff=5),
    ("Prepare", "get_secret"): FINISHED,
    ("Prepare", "get_security_policy"): SERVICE,
    ("Prepare", "get_users"): SERVICE,
    ("Prepare", "record_event"): SERVICE,
    ("Prepare", "set_secret"): FINISHED,
    ("Prepare", "validate_access_and_approvals"): SERVICE,
    ("Prepare", "verify_security_policy"): SERVICE,
    ("Prepare", "verify_spark"): SERVICE,
    ("PublishAzureDataset", "accept_document"): OFFLINE,
    ("PublishAzureDataset", "allow_access_blob"): PROPAGATING,
    ("PublishAzureDataset", "allow_access_key_vault"): PROPAGATING,
    ("PublishAzureDataset", "create_managed_identity"): OFFLINE,
    ("PublishAzureDataset", "generate_dataset_descriptor"): SERVICE,
    ("PublishAzureDataset", "get_clean_room_identity"): SERVICE,
    ("PublishAzureDataset", "get_clean_room_policy"): SERVICE,
    ("PublishAzureDataset", "locate_blob_store"): OFFLINE,
    ("PublishAzureDataset", "propose_document"): OFFLINE,
    ("PublishAzureDataset", "set_federation"): PROPAGATING,
    ("PublishAzureDataset", "set_key_with_skr"): PROPAGATING,
    ("PublishQuery", "accept_query"): replace(OFFLINE, total=None),
    ("PublishQuery", "await_query_change"): Options(20, 366 * DAYS, None, 0, 5, 5),
    ("PublishQuery", "create_document"): OFFLINE,
    ("PublishQuery", "determine_dataset_owners"): SERVICE,
    ("PublishQuery", "generate_query_document"): SERVICE,
    ("PublishQuery", "propose_query"): OFFLINE,
    ("PublishQuery", "update_document"): OFFLINE,
    ("PublishQuery", "verify_decision"): SERVICE,
    ("PublishS3Dataset", "accept_document"): OFFLINE,
    ("PublishS3Dataset", "generate_dataset_descriptor"): SERVICE,
    ("PublishS3Dataset", "get_clean_room_policy"): SERVICE,
    ("PublishS3Dataset", "get_connection_secret"): OFFLINE,
    ("PublishS3Dataset", "locate_s3_store"): OFFLINE,
    ("PublishS3Dataset", "propose_document"): OFFLINE,
    ("PublishS3Dataset", "set_secret"): OFFLINE,
    ("RunQuery", "collect_result"): SERVICE,
    ("RunQuery", "issue_consent_receipt"): FINISHED,
    ("RunQuery", "record_event"): SERVICE,
    ("RunQuery", "revoke_grants"): Options(total=HOURS, attempts=0, longest_backoff=60),
    ("RunQuery", "submit_job"): FINISHED,
    ("RunQuery", "watch_consent"): replace(WATCHED, finished_on_cancel=True),
    ("RunQuery", "watch_job"): WATCHED,
}


def options(call: StartActivityInput, *, compare_total: bool) -> Options:
    assert call.start_to_close_timeout is not None
    assert call.retry_policy is not None
    assert call.retry_policy.maximum_interval is not None
    assert call.schedule_to_close_timeout is not None, "no limit for all attempts"
    return Options(
        start_to_close=call.start_to_close_timeout.total_seconds(),
        total=call.schedule_to_close_timeout.total_seconds() if compare_total else None,
        heartbeat=call.heartbeat_timeout.total_seconds() if call.heartbeat_timeout else None,
        attempts=call.retry_policy.maximum_attempts,
        first_backoff=call.retry_policy.initial_interval.total_seconds(),
        longest_backoff=call.retry_policy.maximum_interval.total_seconds(),
        finished_on_cancel=call.cancellation_type is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


@pytest.fixture(scope="module", autouse=True)
async def recorded() -> None:
    await record()


def test_every_call_of_the_histories_is_expected_and_every_expected_one_was_made() -> None:
    assert set(ACTIVITIES) == set(EXPECTED)


@pytest.mark.parametrize("site", EXPECTED, ids="-".join)
def test_activity_is_started_with_its_options(site: tuple[str, str]) -> None:
    expected = EXPECTED[site]
    for call in ACTIVITIES[site]:
        assert options(call, compare_total=expected.total is not None) == expected


@pytest.mark.parametrize("site", EXPECTED, ids="-".join)
def test_activity_is_started_on_the_queue_of_its_boundary(site: tuple[str, str]) -> None:
    """No activity runs on the workflow's own queue by omission."""
    for call in ACTIVITIES[site]:
        assert call.task_queue
        assert call.task_queue.split(".")[0] in {"clean-room", "spark-service", "frontend", "collaborator"}


@pytest.mark.parametrize("site", EXPECTED, ids="-".join)
def test_activity_has_a_summary(site: tuple[str, str]) -> None:
    assert all(call.summary for call in ACTIVITIES[site])


def test_a_cancelled_run_waits_for_its_preparation() -> None:
    assert set(CHILDREN) == {("RunQuery", "Prepare")}
    for call in CHILDREN["RunQuery", "Prepare"]:
        assert call.execution_timeout is not None
        assert call.execution_timeout.total_seconds() == HOURS
        assert call.cancellation_type is ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED
        assert call.parent_close_policy is ParentClosePolicy.TERMINATE
