"""An upgrade from the recorded earlier release, under open queries and running runs, on a real server.

The workers of the earlier release are another process with the recorded code. The next release has other commands in ``RunQuery`` and
``Prepare``: a run that moved would fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.common import WorkerDeploymentVersion
from temporalio.testing import WorkflowEnvironment

from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, collaborator_queue, prepare_workflow_id
from cleanroom.messages.query import AuthorMessage, DecisionMessage, QueryState
from cleanroom.messages.run import Grant, Grants, JobOutcome, RunResult
from cleanroom.temporal.versions import DEPLOYMENTS, list_versions, move_pinned, promote
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.answering import LATER, UNTIL_CANCELLED, answering, plain
from tests.changed_release import ADDED, ChangedPrepare, ChangedRunQuery
from tests.histories.release import unpack_release
from tests.patience import PATIENCE
from tests.release_worker import AT_ONCE
from tests.scenario.test_worker_versions import EAGER
from tests.temporal_env import client_with, server_options
from tests.unit.workflows import worlds
from tests.unit.workflows.driver import ARGUMENTS
from workflows.publish_query import PublishQuery

pytestmark = pytest.mark.scenario
ROOT = Path(__file__).parents[2]
COLLABORATORS = ("contosso", "fabrikam", "litware")
GRANT = Grants(grants=(Grant(delegate_type="secrets", delegate_id="s", host_data="d" * 64),))
ANSWERS: dict[str, Any] = (
    worlds.publish_query_answers()
    | worlds.prepare_answers()
    | worlds.run_query_answers()
    | {"get_secret": worlds.staged("orders", "key"), "get_key_with_skr": worlds.staged("orders", "key")}
    | {"set_secret": GRANT, "configure_idp": GRANT}
    | {"verify_decision": lambda request: worlds.decided(request).model_copy(update={"expires": datetime.now(UTC) + timedelta(days=30)})}
    | {"watch_consent": UNTIL_CANCELLED, "find_query_change": UNTIL_CANCELLED}
)
"""Answers of the activities, from which only queries depend on the argument."""


@asynccontextmanager
async def earlier_release(client: Client, folder: Path) -> AsyncIterator[None]:
    """Run the workers of the recorded release in a process of their own."""
    unpack_release(folder / "code")
    fixed = {name: value for name, value in ANSWERS.items() if not callable(value) and not isinstance(value, list)}
    (folder / "answers.json").write_text(json.dumps(plain(fixed) | {"watch_job": LATER}))
    ready, log = folder / "ready", folder / "release.log"
    arguments = [client.service_client.config.target_host, "earlier", str(folder / "answers.json"), str(ready)]
    path = os.pathsep.join((str(folder / "code"), str(ROOT)))
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tests.release_worker", *arguments), env={**os.environ, "PYTHONPATH": path}, stderr=output
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while not ready.exists():
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
            yield
        finally:
            process.kill()
            await process.wait()


@asynccontextmanager
async def next_release(client: Client) -> AsyncIterator[None]:
    """Run the workers of the next release in this process."""
    answer = answering(ANSWERS, ARGUMENTS)
    workflows = {FRONTEND_QUEUE: (PublishQuery,), CLEAN_ROOM_QUEUE: (ChangedRunQuery, ChangedPrepare), SPARK_SERVICE_QUEUE: ()}
    async with AsyncExitStack() as stack:
        for deployment, queues in DEPLOYMENTS.items():
            for queue in queues:
                spec = WorkerSpec(queue, queue, workflows[queue], (answer,), version=WorkerDeploymentVersion(deployment, "next"), **AT_ONCE)
                await stack.enter_async_context(create_worker(client, spec))
        yield


@asynccontextmanager
async def collaborators(client: Client) -> AsyncIterator[None]:
    """Run the workers of the collaborators, which have no version."""
    answer = answering(ANSWERS, ARGUMENTS)
    async with AsyncExitStack() as stack:
        for name in COLLABORATORS:
            await stack.enter_async_context(create_worker(client, WorkerSpec(name, collaborator_queue(name), (), (answer,), **AT_ONCE)))
        yield


async def promoted(client: Client, build: str) -> None:
    """Promote a version as soon as all its workers poll."""
    async with asyncio.timeout(PATIENCE):
        for deployment in DEPLOYMENTS:
            while True:
                try:
                    await promote(client, deployment, build)
                    break
                except Exception as error:
                    if getattr(error, "code", "") != "VersionIncomplete":
                        raise
                    await asyncio.sleep(0.05)


async def start_run(client: Client, run_id: str) -> WorkflowHandle[Any, RunResult]:
    input = worlds.RUN.model_copy(update={"ticket": worlds.TICKET.model_copy(update={"run_id": run_id})})
    return await client.start_workflow("RunQuery", input, id=run_id, task_queue=CLEAN_ROOM_QUEUE, result_type=RunResult)


async def watching(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Wait until the activity ``watch_job`` of a run has started."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for pending in (await handle.describe()).raw_description.pending_activities:
                if pending.activity_type.name == "watch_job" and pending.HasField("last_started_time"):
                    return
            await asyncio.sleep(0.02)


async def job_ends(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Complete the activity ``watch_job`` of a run."""
    pending = (await handle.describe()).raw_description.pending_activities
    [activity_id] = [item.activity_id for item in pending if item.activity_type.name == "watch_job"]
    await client.get_async_activity_handle(workflow_id=handle.id, run_id=None, activity_id=activity_id).complete(JobOutcome(completed=True))


def builds(history: WorkflowHistory) -> set[str]:
    """Return the builds that completed workflow tasks; no task may have failed."""
    assert not [event for event in history.events if event.HasField("workflow_task_failed_event_attributes")]
    completed = [event.workflow_task_completed_event_attributes for event in history.events]
    return {item.deployment_version.build_id for item in completed if item.HasField("deployment_version")}


def timers(history: WorkflowHistory) -> list[str]:
    """Return the summaries of the timers of a run."""
    started = [event for event in history.events if event.HasField("timer_started_event_attributes")]
    return [json.loads(event.user_metadata.summary.data) for event in started]


def identities(history: WorkflowHistory) -> set[str]:
    """Return the workers that ran activities."""
    started = [event.activity_task_started_event_attributes for event in history.events]
    return {item.identity for item in started if item.identity}


async def test_runs_end_on_their_version_and_open_queries_move(tmp_path: Path) -> None:
    options = server_options()
    options["dev_server_extra_args"] += EAGER
    async with await WorkflowEnvironment.start_local(**options) as env:
        client = await client_with(env, None)
        async with collaborators(client), AsyncExitStack() as later:
            async with earlier_release(client, tmp_path):
                await promoted(client, "earlier")
                first, abandoned = await start_run(client, "run-1"), await start_run(client, "run-2")
                query = await client.start_workflow("PublishQuery", worlds.QUERY, id="query", task_queue=FRONTEND_QUEUE)
                await query.execute_update("propose", AuthorMessage(party="fabrikam", authorisation="s.i.g"))
                await asyncio.gather(watching(client, first), watching(client, abandoned))

                await later.enter_async_context(next_release(client))
                await promoted(client, "next")

                started = await start_run(client, "run-3")
                await job_ends(client, first)

                # The open query moves with its next message, and loses nothing.
                for approver in ("contosso", "litware"):
                    await query.execute_update("approve", DecisionMessage(decision=f"approve.u-{approver}.signed"))
                state = await approved(client)
                assert (state.stage, state.accepted, state.query) == ("Approved", ("contosso", "litware"), "totals")
                before = await client.get_workflow_handle("query", run_id=query.first_execution_run_id).fetch_history()
                assert builds(before) == {"earlier", "next"}
                assert before.events[-1].HasField("workflow_execution_continued_as_new_event_attributes")
                after = await client.get_workflow_handle("query").fetch_history()
                assert builds(after) == {"next"}

                # The first run ends where it began, with the Spark service that it began with.
                assert (await first.result()).state == "COMPLETED"
                history = await first.fetch_history()
                assert (builds(history), identities(history)) == ({"earlier"}, {"release earlier"})
                assert ADDED not in timers(history)

                # A new run begins on the next version, with its additional commands. Its preparation inherits the version.
                assert (await started.result()).state == "COMPLETED"
                history = await started.fetch_history()
                assert builds(history) == {"next"}
                assert ADDED in timers(history)
                assert builds(await client.get_workflow_handle(prepare_workflow_id("flights", "run-3")).fetch_history()) == {"next"}

            # Its workers are gone, and one run is left: the version is not drained.
            [left] = [item for item in await list_versions(client, "clean-room") if item.build == "earlier"]
            assert (left.state, left.open_workflows) == ("draining", 1)
            # The next release has other commands, so the run that is moved there does not continue. This is why runs are pinned.
            assert await move_pinned(client, "clean-room", "earlier", "next") == (abandoned.id,)
            await job_ends(client, abandoned)
            assert "TMPRL1100" in await failed_task(abandoned)
            await abandoned.terminate()


async def approved(client: Client) -> QueryState:
    """Wait until the query is approved, and has continued on the next version."""
    handle: WorkflowHandle[Any, QueryState] = client.get_workflow_handle("query", result_type=QueryState)
    async with asyncio.timeout(PATIENCE):
        while True:
            state: QueryState = await handle.query("state", result_type=QueryState, rpc_timeout=timedelta(seconds=10))
            described = await handle.describe()
            continued = described.raw_description.workflow_execution_info.first_run_id != described.run_id
            if state.stage == "Approved" and continued and described.status is WorkflowExecutionStatus.RUNNING:
                return state
            await asyncio.sleep(0.05)


async def failed_task(handle: WorkflowHandle[Any, Any]) -> str:
    """Wait until a workflow task has failed, and return why."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async for event in handle.fetch_history_events():
                if event.HasField("workflow_task_failed_event_attributes"):
                    return event.workflow_task_failed_event_attributes.failure.message
            await asyncio.sleep(0.05)
