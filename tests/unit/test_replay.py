"""Workflow code replays the recorded histories (``tests/histories/record.py``), so running workflows survive an update."""

from __future__ import annotations

import base64
import re

import pytest
from temporalio.client import WorkflowHistory

from cleanroom.temporal.workers import replayer
from tests.histories import NAMES, recorded_history, recorded_keyring
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery

WORKFLOWS = (PublishAzureDataset, PublishS3Dataset, PublishQuery, Prepare, RunQuery)
AGAIN = """
Running workflows would fail here. Keep the order of commands, or guard the change with workflow.patched(...). If no history of the old
code exists, record the histories again: see tests/histories/record.py.
"""


def test_every_workflow_has_a_history() -> None:
    started = {recorded_history(name).events[0].workflow_execution_started_event_attributes.workflow_type.name for name in NAMES}
    assert started == {"PublishAzureDataset", "PublishS3Dataset", "PublishQuery", "Prepare", "RunQuery"}


@pytest.mark.parametrize("name", NAMES)
async def test_recorded_history_replays(name: str) -> None:
    replay = replayer(WORKFLOWS, keyring=recorded_keyring(), namespace="default", accept_unbound=name == "publish-query")
    result = await replay.replay_workflow(recorded_history(name), raise_on_replay_failure=False)
    assert result.replay_failure is None, f"{result.replay_failure}{AGAIN}"


async def test_changed_order_of_commands_fails_the_replay() -> None:
    """Control: a history that lacks a command fails the replay."""
    history = recorded_history("prepare")
    kept = [event for event in history.events if event.activity_task_scheduled_event_attributes.activity_type.name != "build_job"]
    assert len(kept) == len(history.events) - 1
    replay = replayer(WORKFLOWS, keyring=recorded_keyring(), namespace="default")
    result = await replay.replay_workflow(WorkflowHistory(history.workflow_id, kept), raise_on_replay_failure=False)
    assert result.replay_failure is not None


@pytest.mark.parametrize("name", NAMES)
def test_history_contains_no_plain_text(name: str) -> None:
    """SQL, column names, tokens and results are encrypted. IDs and activity names are not."""
    text = recorded_history(name).to_json()
    data = re.findall(r'"data": ?"([A-Za-z0-9+/=]+)"', text)
    assert len(data) > 10
    decoded = text.encode() + b"".join(map(base64.b64decode, data))
    for needle in (b"SELECT", b"dep_delay", b"manufacturer", b"awsSecretAccessKey", b"BEGIN CERTIFICATE", b"eyJhbGciOi"):
        assert needle not in decoded, needle
