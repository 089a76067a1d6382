"""A workflow that nobody serves is told as that, soon; what the server knows of a run is told without a worker."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.taskqueue.v1 import PollerInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueResponse
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import PreconditionFailed, Refused, Unavailable
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunResult, RunStatus
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import application_error
from starters.operations import workflow_progress
from starters.operations.query_workflow import wait_for_state
from starters.operations.run_workflow import RunFound, take_snapshot
from starters.operations.worker_queries import QUERY_SECONDS, query_workflow, require_worker

LATE = RPCError("context deadline exceeded", RPCStatusCode.DEADLINE_EXCEEDED, b"")
RESULT = RunResult(run_id="r-1", query="delays", state="COMPLETED", stages={"prepare": 1.0})
STATUS = RunStatus(run_id="r-1", query="delays", state="Running", stage="watch", steps=("done: Prepare phase",))


class World:
    """A server that knows one workflow, and what its worker answers."""

    def __init__(
        self, *answers: Any, polled: float | None = 1.0, status: WorkflowExecutionStatus = WorkflowExecutionStatus.RUNNING, ends: Any = None
    ) -> None:
        self.answers, self.polled, self.ends, self.id = list(answers), polled, ends, "cr/flights/run/r-1"
        self.workflow_service, self.namespace, self.asked = self, "default", []
        found = TypedSearchAttributes([SearchAttributePair(attributes.STAGE, "run.watch"), SearchAttributePair(attributes.QUERY, "delays")])
        self.described = SimpleNamespace(status=status, task_queue="clean-room", typed_search_attributes=found)

    async def describe_task_queue(self, request: Any) -> DescribeTaskQueueResponse:
        assert request.task_queue.name == "clean-room"
        answer = DescribeTaskQueueResponse()
        if self.polled is not None:
            poller = PollerInfo()
            poller.last_access_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=self.polled))
            answer.pollers.append(poller)
        return answer

    async def describe(self) -> Any:
        return self.described

    async def query(self, name: str, *, result_type: Any, rpc_timeout: timedelta) -> Any:
        self.asked.append(name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, dict):
            answer = answer[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def result(self) -> Any:
        if self.ends is None:
            await asyncio.Event().wait()
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends

    @property
    def found(self) -> RunFound:
        return RunFound(self, self, self.described)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [None, 300.0])
async def test_a_queue_that_nobody_has_asked_for_a_minute_is_not_served(seconds: float | None) -> None:
    world: Any = World(LATE, polled=seconds)
    with pytest.raises(Unavailable, match="No worker serves queue 'clean-room'") as told:
        await require_worker(world, "clean-room")
    assert (told.value.code, told.value.exit_code) == ("NoWorker", 7)
    assert "cleanroom worker clean-room" in (told.value.hint or "")
    await require_worker(World(polled=50.0), "clean-room")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [LATE, RPCError("no poller seen for task queue recently", RPCStatusCode.FAILED_PRECONDITION, b"")])
async def test_a_worker_that_has_just_died_is_told_as_one_that_does_not_answer(error: RPCError) -> None:
    world: Any = World(error, polled=20.0)
    with pytest.raises(Unavailable, match=f"asked for work 20 s ago and does not answer within {QUERY_SECONDS:.0f} s"):
        await query_workflow(world, world, "status", RunStatus)


async def test_other_errors_of_the_server_are_not_taken_for_a_missing_worker() -> None:
    world: Any = World(RPCError("down", RPCStatusCode.UNAVAILABLE, b""))
    with pytest.raises(RPCError):
        await query_workflow(world, world, "status", RunStatus)
    world = World(WorkflowQueryFailedError("Encoded failure"))
    with pytest.raises(PreconditionFailed, match="WorkflowCannotAnswer"):
        await query_workflow(world, world, "status", RunStatus)


ENDED = WorkflowFailureError(cause=application_error(Refused("ConsentWithdrawn", "withdrawn", hint="Give it again.")))


@pytest.mark.parametrize(
    ("status", "ends", "state", "failure"),
    [
        (WorkflowExecutionStatus.RUNNING, None, "Running", None),
        (WorkflowExecutionStatus.COMPLETED, RESULT, "COMPLETED", None),
        (WorkflowExecutionStatus.FAILED, ENDED, "FAILED", "ConsentWithdrawn"),
        (WorkflowExecutionStatus.CANCELED, WorkflowFailureError(cause=CancelledError()), "CANCELLED", "RunCancelled"),
        (WorkflowExecutionStatus.TERMINATED, WorkflowFailureError(cause=TerminatedError("by hand")), "TERMINATED", "Terminated"),
    ],
)
@pytest.mark.parametrize("served", [True, False])
async def test_a_run_is_shown_with_and_without_a_worker(
    status: WorkflowExecutionStatus, ends: Any, state: str, failure: str | None, served: bool
) -> None:
    so_far = RESULT.model_copy(update={"state": "Running"})
    world = World({"status": STATUS, "outcome": so_far} if served else LATE, polled=1.0 if served else None, status=status, ends=ends)
    seen = await take_snapshot(world.found)
    assert seen.query == "delays"
    assert seen.state == (STATUS.state if served and state not in ("TERMINATED", "Running") else state)
    assert (seen.failure.code if seen.failure else None) == failure
    assert (seen.unanswered is None) is served
    assert seen.steps == (STATUS.steps if served else ())
    assert not world.asked or served
    if status is WorkflowExecutionStatus.COMPLETED:
        assert seen.result == RESULT
    if status is WorkflowExecutionStatus.TERMINATED:
        assert "cleanroom run conclude r-1" in (seen.failure.hint if seen.failure else "")


async def test_who_waits_for_a_query_waits_for_its_worker_too() -> None:
    draft = QueryState(query="delays", stage="Draft")
    world: Any = World(LATE, LATE, draft)
    assert await wait_for_state(world, world, lambda state: state.stage == "Draft", "the draft") == draft
    world = World(LATE, polled=300.0)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="NoWorker"):
        await wait_for_state(world, world, lambda state: True, "the draft")
    assert time.monotonic() - begun < 5
    world = World(WorkflowQueryFailedError("no"), ends=ENDED)
    with pytest.raises(WorkflowFailureError):
        await wait_for_state(world, world, lambda state: True, "the draft")


async def test_a_followed_workflow_without_a_worker_says_so_and_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow_progress, "POLL_SECONDS", 0.01)
    world: Any = World(LATE, LATE, ("done: first",), ("done: first", "done: second"))
    following = asyncio.ensure_future(workflow_progress.follow_timeline(world, world, "publishing x"))
    while len(world.asked) < 4:
        await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    told = capsys.readouterr().err
    assert told.count("waiting") == 1
    assert told.index("first") < told.index("goes on by itself")
