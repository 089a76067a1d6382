"""Replays the recorded histories and notes with which options the workflows start activities, local activities and child workflows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import info

from cleanroom.temporal.workers import replayer
from tests.histories import NAMES, recorded_history, recorded_keyring
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery

WORKFLOWS = (PublishAzureDataset, PublishS3Dataset, PublishQuery, Prepare, RunQuery)
ACTIVITIES: dict[tuple[str, str], list[StartActivityInput]] = defaultdict(list)
CHILDREN: dict[tuple[str, str], list[StartChildWorkflowInput]] = defaultdict(list)


class _Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> Any:
        ACTIVITIES[info().workflow_type, input.activity].append(input)
        return super().start_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> Any:
        CHILDREN[info().workflow_type, input.workflow].append(input)
        return await super().start_child_workflow(input)


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))


class Recorder(Interceptor):
    """Records the options of every call."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Inbound


async def record() -> None:
    """Replay every history; fills :data:`ACTIVITIES` and :data:`CHILDREN`."""
    ACTIVITIES.clear()
    CHILDREN.clear()
    for name in NAMES:
        replay = replayer(
            WORKFLOWS,
            keyring=recorded_keyring(),
            namespace="default",
            accept_unbound=name == "publish-query",
            interceptors=[Recorder()],
        )
        result = await replay.replay_workflow(recorded_history(name), raise_on_replay_failure=False)
        assert result.replay_failure is None
