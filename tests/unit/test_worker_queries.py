"""Queries without a worker fail soon, and the state of a run is readable without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.api.taskqueue.v1 import PollerInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueResponse, DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.converter import DataConverter
from temporalio.exceptions import CancelledError, TerminatedError, TimeoutError, TimeoutType
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import Conflict, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.lifecycle.run import RunFacts, failure_code, next_command, run_state
from cleanroom.lifecycle.state import WorkflowEnd
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunResult, RunStatus, RunTicket
from cleanroom.runs.ledger import closed_event_id
from cleanroom.spark.run_events import event_id
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import application_error
from starters.operations import run_workflow, worker_queries, workflow_progress
from starters.operations.pending_activities import retrying_activities
from starters.operations.query_workflow import wait_for_state
from starters.operations.run_workflow import take_snapshot
from starters.operations.session import FoundWorkflow
from starters.operations.worker_queries import QUERY_SECONDS, require_worker, send_query
from tests.patience import PATIENCE

LATE = RPCError("context deadline exceeded", RPCStatusCode.DEADLINE_EXCEEDED, b"")
RESULT = RunResult(run_id="r-1", query="delays", state="COMPLETED", stages={"prepare": 1.0})
COMPLETED, CLOSED = event_id("r-1", "RUN_COMPLETED"), closed_event_id("r-1")
STATUS = RunStatus(run_id="r-1", query="delays", state="Running", stage="watch", steps=("done: Prepare phase",))


class World:
    """A Temporal server with one workflow; ``answers`` are those of its worker."""

    def __init__(
        self, *answers: Any, polled: float | None = 1.0, status: WorkflowExecutionStatus = WorkflowExecutionStatus.RUNNING, ends: Any = None
    ) -> None:
        self.answers, self.polled, self.ends, self.id = list(answers), polled, ends, "cr/flights/run/r-1"
        self.workflow_service, self.namespace, self.asked = self, "default", []
        found = TypedSearchAttributes([SearchAttributePair(attributes.STAGE, "run.watch"), SearchAttributePair(attributes.QUERY, "delays")])
        self.pending = DescribeWorkflowExecutionResponse()
        self.described = SimpleNamespace(
            status=status, task_queue="clean-room", typed_search_attributes=found, raw_description=self.pending
        )

    async def describe_task_queue(self, request: Any) -> DescribeTaskQueueResponse:
        answer = DescribeTaskQueueResponse()
        served = ("clean-room", TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
        if self.polled is not None and (request.task_queue.name, request.task_queue_type) == served:
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
    def found(self) -> FoundWorkflow[RunResult]:
        return FoundWorkflow(self, self, self.described)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [None, 300.0])
async def test_queue_without_a_poll_for_a_minute_has_no_worker(seconds: float | None) -> None:
    world: Any = World(LATE, polled=seconds)
    with pytest.raises(Unavailable, match="No worker polls task queue 'clean-room'") as caught:
        await require_worker(world, "clean-room")
    assert (caught.value.code, caught.value.exit_code) == ("NoWorker", 7)
    assert "cleanroom worker clean-room" in (caught.value.hint or "")
    await require_worker(World(polled=50.0), "clean-room")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [LATE, RPCError("no poller seen for task queue recently", RPCStatusCode.FAILED_PRECONDITION, b"")])
async def test_unanswered_query_reports_the_last_poll(error: RPCError) -> None:
    world: Any = World(error, polled=20.0)
    with pytest.raises(Unavailable, match=f"last polled 20 s ago and did not answer within {QUERY_SECONDS:.0f} s"):
        await send_query(world, world, "status", RunStatus)


def not_ready(message: str) -> RPCError:
    return RPCError(message, RPCStatusCode.FAILED_PRECONDITION, b"")


NOT_YET = not_ready("Workflow task is not scheduled yet.")


async def test_a_history_that_begins_after_a_pause_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_queries, "LOOK_SECONDS", 0)
    world: Any = World(NOT_YET, NOT_YET, NOT_YET, STATUS)
    assert await send_query(world, world, "status", RunStatus) == STATUS
    assert len(world.asked) == 4
    world = World(NOT_YET, polled=300.0)
    with pytest.raises(Unavailable, match="NoWorker"):
        await send_query(world, world, "status", RunStatus)
    assert len(world.asked) == 1
    world = World(NOT_YET)
    with pytest.raises(Unavailable, match="NoWorker"):
        await send_query(world, world, "status", RunStatus, seconds=0)


async def test_a_workflow_that_cannot_answer_leaves_its_commands_with_what_the_server_knows() -> None:
    world = World(not_ready("Unable to query workflow due to Workflow Task in failed state."))
    snapshot = await take_snapshot(None, world.found)  # type: ignore[arg-type]
    assert (snapshot.state.word, snapshot.unanswered and snapshot.unanswered.code) == ("Running", "WorkflowCannotAnswer")


async def test_other_server_errors_are_not_reported_as_missing_worker() -> None:
    world: Any = World(RPCError("down", RPCStatusCode.UNAVAILABLE, b""))
    with pytest.raises(RPCError):
        await send_query(world, world, "status", RunStatus)
    world = World(WorkflowQueryFailedError("Encoded failure"))
    with pytest.raises(PreconditionFailed, match="WorkflowCannotAnswer"):
        await send_query(world, world, "status", RunStatus)


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
@pytest.mark.parametrize("has_worker", [True, False])
async def test_run_snapshot_with_and_without_a_worker(
    status: WorkflowExecutionStatus, ends: Any, state: str, failure: str | None, has_worker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    so_far = RESULT.model_copy(update={"state": "Running"})
    world = World(
        {"status": STATUS, "outcome": so_far} if has_worker else LATE, polled=1.0 if has_worker else None, status=status, ends=ends
    )
    cleaned(monkeypatch)
    snapshot = await take_snapshot(cast(Any, None), world.found)
    assert snapshot.query == "delays"
    assert snapshot.state.word == state
    assert (snapshot.failure.code if snapshot.failure else None) == failure
    assert (snapshot.unanswered is None) is has_worker
    assert snapshot.steps == (STATUS.steps if has_worker else ())
    assert not world.asked or has_worker
    if status is WorkflowExecutionStatus.COMPLETED:
        assert snapshot.result == RESULT
    if status is WorkflowExecutionStatus.TERMINATED:
        assert "cleanroom run conclude r-1" in (snapshot.failure.hint if snapshot.failure else "")


def cleaned(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Answer what the ledger and the workflows that conclude runs say about a terminated run."""

    async def with_cleanup(session: object, runs: dict[str, RunFacts]) -> dict[str, RunFacts]:
        return {run_id: replace(each, **facts) for run_id, each in runs.items()}

    monkeypatch.setattr(run_workflow, "with_cleanup", with_cleanup)


@pytest.mark.parametrize("facts", [{"recorded": "FAILED"}, {"concluded": True}], ids=["in the ledger", "nothing begun"])
@pytest.mark.parametrize("status", [WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT])
async def test_a_run_that_was_concluded_is_not_to_be_concluded_again(
    status: WorkflowExecutionStatus, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned(monkeypatch, **facts)
    world = World(LATE, polled=None, status=status, ends=WorkflowFailureError(cause=TerminatedError("by hand")))
    snapshot = await take_snapshot(cast(Any, None), world.found)
    assert snapshot.failure is not None
    assert (snapshot.state.word, snapshot.failure.code) == ("FAILED", "RunTerminated")
    assert "conclude" not in str((snapshot.failure, next_command(snapshot.state, "r-1", "delays")))


async def test_a_retrying_step_whose_worker_was_killed_is_shown_as_worker_lost() -> None:
    """Also while the server retries it, when its failure has no wrapper yet."""
    world: Any = World()
    world.namespace, world.data_converter = "default", DataConverter.default
    item = world.pending.pending_activities.add(attempt=2)
    item.activity_type.name = "watch_job"
    lost = TimeoutError("heartbeat", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[])
    DataConverter.default.failure_converter.to_failure(lost, DataConverter.default.payload_converter, item.last_failure)
    client: Any = SimpleNamespace(get_workflow_handle=lambda id: world, namespace="default", data_converter=DataConverter.default)
    [(step, error)] = (await retrying_activities(client, "w")).items()
    assert (step, error.code) == ("watch_job, attempt 2", "WorkerLost")
    assert "The step watch_job stopped sending heartbeats" in error.message
    assert "`cleanroom worker BOUNDARY` starts it again" in (error.hint or "")


@pytest.mark.parametrize("outcome", ["", "COMPLETED", "RunCancelled", "ConsentWithdrawn", "CleanupFailed"])
@pytest.mark.parametrize("recorded", ["", "COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("concluded", [False, True])
def test_every_state_of_a_run_leads_on(outcome: str, recorded: str, concluded: bool) -> None:
    for end in WorkflowEnd:
        for stage in ("", "prepare", "submit", "watch", "conclude", "cleanup", "closed"):
            facts = RunFacts(end, stage, outcome, recorded, concluded)
            state, code = run_state(facts), failure_code(facts)
            command = next_command(state, "r-1", "delays", failure=code)
            assert command.startswith("cleanroom ")
            assert ("conclude" in command) == (state.word == "TERMINATED")
            if end in (WorkflowEnd.TERMINATED, WorkflowEnd.TIMED_OUT):
                assert (state.word == "TERMINATED") == (not recorded and not concluded)
                assert (code == "RunTerminated") == (recorded == "FAILED" or (concluded and not recorded))


def test_a_run_whose_preparation_was_cancelled_is_cancelled_wherever_it_is_shown() -> None:
    """The workflow of the run then fails, because nobody has cancelled the run itself."""
    assert run_state(RunFacts(WorkflowEnd.FAILED, "closed", "RunCancelled")).word == "CANCELLED"
    assert run_state(RunFacts(WorkflowEnd.CANCELLED, "closed", "RunCancelled")).word == "CANCELLED"


async def test_waiting_for_a_state_tolerates_a_short_absence_of_the_worker() -> None:
    draft = QueryState(query="delays", stage="Draft")
    world: Any = World(LATE, LATE, draft)
    assert await wait_for_state(world, world, lambda state: state.stage == "Draft", "the draft") == draft
    world = World(LATE, polled=300.0)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="NoWorker"):
        await wait_for_state(world, world, lambda state: True, "the draft")
    assert time.monotonic() - begun < 60
    world = World(WorkflowQueryFailedError("no"), ends=ENDED)
    with pytest.raises(WorkflowFailureError):
        await wait_for_state(world, world, lambda state: True, "the draft")


async def test_following_a_workflow_warns_once_about_a_missing_worker(
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
    stderr = capsys.readouterr().err
    assert stderr.count("waiting") == 1
    assert stderr.index("first") < stderr.index("continues in the background")


async def fail_soon(following: Any) -> None:
    """Wait for a command that must end by itself."""
    async with asyncio.timeout(PATIENCE):
        await following


@pytest.mark.parametrize(
    "answer",
    [LATE, RPCError("workflow must handle at least one workflow task before it can be queried", RPCStatusCode.FAILED_PRECONDITION, b"")],
    ids=["no answer", "no workflow task yet"],
)
@pytest.mark.parametrize("polled", [None, 300.0], ids=["never", "five minutes ago"])
async def test_a_command_that_no_worker_serves_ends_within_seconds(polled: float | None, answer: RPCError) -> None:
    """The workflow continues when a worker starts, and the command says which one."""
    world: Any = World(answer, polled=polled)
    with pytest.raises(Unavailable, match=r"No worker polls task queue 'clean-room'\. The workflow continues") as caught:
        await fail_soon(workflow_progress.follow_timeline(world, world, "cleanup (dry-run)"))
    assert (caught.value.code, caught.value.exit_code) == ("NoWorker", 7)
    assert "cleanroom worker clean-room" in (caught.value.hint or "")


async def test_a_step_that_waits_for_the_worker_of_another_queue_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow_progress, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(workflow_progress, "LOOK_SECONDS", 0.0)
    world: Any = World(("running: look",))
    scheduled, started = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    for queue, state, name in (("spark-service", scheduled, "list_jobs"), ("frontend", started, "verify_decision")):
        item = world.pending.pending_activities.add(state=state)
        item.activity_type.name, item.activity_options.task_queue.name = name, queue
    following = asyncio.ensure_future(workflow_progress.follow_timeline(world, world, "cleanup"))
    while len(world.asked) < 4:
        await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    stderr = " ".join(capsys.readouterr().err.split())
    assert stderr.count("step list_jobs of cleanup waits for task queue 'spark-service', which no worker polls") == 1
    assert "cleanroom worker spark-service" in stderr
    assert "frontend" not in stderr


async def test_a_cleanup_that_no_worker_serves_is_not_started() -> None:
    from starters.operations.cleanup import run_cleanup

    server: Any = World(polled=None)

    async def temporal() -> Any:
        return server

    session: Any = SimpleNamespace(require_encryption=lambda: None, temporal=temporal, collaboration="flights")
    with pytest.raises(Unavailable, match="NoWorker"):
        await run_cleanup(session, apply=True)


async def test_conclude_of_a_completed_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cleanup records RUN_FAILED, which would break the audit bundle of a run that has completed."""
    from starters.operations import conclude

    async def completed(session: object, run_id: str) -> FoundWorkflow[Any]:
        return FoundWorkflow(cast(Any, None), cast(Any, None), cast(Any, SimpleNamespace(status=WorkflowExecutionStatus.COMPLETED)))

    async def nothing(*arguments: object) -> None:
        return None

    monkeypatch.setattr(conclude, "find_run", completed)
    monkeypatch.setattr(conclude, "_pinned_ticket", nothing)
    session = SimpleNamespace(require_encryption=lambda: None, temporal=nothing, settings=SimpleNamespace(profile="litware"))
    with pytest.raises(Conflict, match="RunCompleted"):
        await conclude.conclude_run(cast(Any, session), "r-1")


@pytest.mark.parametrize(
    ("entries", "concludes"),
    [({COMPLETED, CLOSED}, False), ({COMPLETED}, True), ({CLOSED}, True), (set(), True)],
    ids=["completed and closed", "completed but not closed", "closed but not completed", "neither"],
)
async def test_the_ledger_decides_whether_a_run_without_a_history_has_completed(
    entries: set[str], concludes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starters.operations import conclude

    class Ledger:
        async def latest_event(self, contract: str, *, event_id: str, scope: str) -> object:
            return next((entry for entry in entries if entry == event_id), None)

    class Begun(Exception):
        pass

    class Session:
        settings, collaboration = SimpleNamespace(profile="litware"), "c"

        def require_encryption(self) -> None: ...

        async def temporal(self) -> Any:
            return SimpleNamespace(start_workflow=begin)

        @asynccontextmanager
        async def governance(self) -> AsyncIterator[Ledger]:
            yield Ledger()

    async def begin(*arguments: object, **options: object) -> None:
        raise Begun

    async def unknown(session: object, run_id: str) -> None:
        raise NotFound("WorkflowNotFound", run_id)

    async def pinned(session: object, run_id: str) -> RunTicket:
        return RunTicket(collaboration="c", query="q", run_id=run_id, request="token")

    monkeypatch.setattr(conclude, "find_run", unknown)
    monkeypatch.setattr(conclude, "_pinned_ticket", pinned)
    with pytest.raises(Begun if concludes else Conflict):
        await conclude.conclude_run(cast(Any, Session()), "r-1")
