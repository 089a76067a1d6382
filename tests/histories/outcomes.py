"""Every way in which a workflow ends, recorded on a real server whose activities answer from :mod:`tests.unit.workflows.worlds`.

``python -m tests.histories.outcomes`` records them, in seconds. ``make histories`` does so too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.client import Client, WorkflowContinuedAsNewError, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.testing import WorkflowEnvironment

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, collaborator_queue
from cleanroom.messages.cleanup import CleanupInput, HeldFound, JobsFound, StatesFound, StatesRequest, WorkflowState
from cleanroom.messages.query import AuthorMessage, PublishQueryInput
from cleanroom.messages.run import ConsentWithdrawn, JobOutcome, Revoked
from cleanroom.temporal.workers import WorkerSpec, create_worker
from tests.answering import UNTIL_CANCELLED, answering
from tests.histories import OUTCOMES_FOLDER, recorded_keyring, write_history
from tests.patience import PATIENCE
from tests.release_worker import AT_ONCE
from tests.temporal_env import client_with, server_options
from tests.unit.workflows import worlds
from tests.unit.workflows.driver import ARGUMENTS
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery
from workflows.watch_queries import WatchQueries

CARRIED: Final = "publish-query.carried-and-withdrawn"
Act = Callable[[WorkflowHandle[Any, Any]], Awaitable[None]]
REFUSED: Final = Refused("ApprovalMissing", "refused for the record")
CLEAN_ROOM: Final = (RunQuery, Prepare, ConcludeRun, Cleanup)
FRONTEND: Final = (PublishAzureDataset, PublishS3Dataset, PublishQuery, WatchQueries)
SUGGESTED_END: Final = 120
"""Events after which the recording server suggests to continue as new."""
ENDS: Final = ("completed", "failed", "canceled", "terminated")
"""Ways in which every workflow can end. ``Cleanup``, ``PublishQuery`` and ``WatchQueries`` also continue as new."""
ENDLESS: Final = (WatchQueries,)
"""Workflows that never complete."""


@dataclass(frozen=True)
class Outcome:
    """One way in which a workflow ends."""

    workflow: type
    ends: str
    """``completed``, ``failed``, ``canceled``, ``terminated`` or ``continued_as_new``: the last event."""
    input: Any
    answers: dict[str, Any] = field(default_factory=dict)
    act: Act | None = None
    """What people do while the workflow runs."""
    carried: tuple[str, Act] | None = None
    """Name and acts of the run that follows after ``continued_as_new``."""


async def _running(handle: WorkflowHandle[Any, Any], name: str) -> None:
    """Wait until an activity runs."""
    async with asyncio.timeout(PATIENCE):
        while True:
            pending = (await handle.describe()).raw_description.pending_activities
            if any(item.activity_type.name == name and item.HasField("last_started_time") for item in pending):
                return
            await asyncio.sleep(0.02)


def cancel_at(name: str) -> Act:
    """Cancel the workflow while an activity runs."""

    async def act(handle: WorkflowHandle[Any, Any]) -> None:
        await _running(handle, name)
        await handle.cancel()

    return act


def terminate_at(name: str) -> Act:
    """Terminate the workflow while an activity runs."""

    async def act(handle: WorkflowHandle[Any, Any]) -> None:
        await _running(handle, name)
        await handle.terminate()

    return act


def messages(*sent: tuple[str, Any]) -> Act:
    """Send updates, each after the outcome of the one before."""

    async def act(handle: WorkflowHandle[Any, Any]) -> None:
        for name, message in sent:
            await handle.execute_update(name, message)

    return act


def then(*acts: Act) -> Act:
    """Do several things, one after the other."""

    async def act(handle: WorkflowHandle[Any, Any]) -> None:
        for each in acts:
            await each(handle)

    return act


async def _many_signals(handle: WorkflowHandle[Any, Any]) -> None:
    """Send messages until the workflow continues as new."""
    for number in range(SUGGESTED_END):
        await handle.signal("approve", {"decision": f"too early {number}"})


async def vote(handle: WorkflowHandle[Any, Any]) -> None:
    """Approve the open proposal, without waiting for the outcome."""
    await handle.signal("approve", {"decision": "approve.u-contosso.signed"})


async def look(handle: WorkflowHandle[Any, Any]) -> None:
    """Wake the query, as the watcher does."""
    await handle.signal("look")


AUTHOR = AuthorMessage(party="fabrikam", authorisation="s.i.g")
PROPOSE, WITHDRAW = ("propose", AUTHOR), ("withdraw", AUTHOR)
APPROVE = tuple(("approve", {"decision": f"approve.u-{name}.signed"}) for name in ("contosso", "litware"))
REJECT = ("reject", {"decision": "reject.u-contosso.signed"})


def _query(approval_seconds: int = 14 * 86_400) -> PublishQueryInput:
    return worlds.QUERY.model_copy(update={"approval_seconds": approval_seconds})


def _decided(seconds: int) -> dict[str, Any]:
    """Answers with which approvals expire after ``seconds``."""

    def verified(request: Any) -> Any:
        return worlds.decided(request).model_copy(update={"expires": datetime.now(UTC) + timedelta(seconds=seconds)})

    return {"verify_decision": verified}


def _looked(*runs: str, more: bool = False) -> dict[str, Any]:
    found = HeldFound(read_at=worlds.READ_AT, runs=tuple(map(worlds.held, runs)), more=more)

    def states(request: StatesRequest) -> StatesFound:
        return StatesFound(
            namespace_id="namespace-1", states=dict.fromkeys(request.runs, WorkflowState(state="ended", status="TERMINATED"))
        )

    return {"find_held": found, "describe_runs": states, "list_jobs": JobsFound(), "revoke_grants": Revoked(secrets=3, grants=6)}


JOB_FAILED = JobOutcome(completed=False, error=CleanRoomError("SparkDriverFailed", "the driver failed").to_dict())
WATCHING = {"watch_job": UNTIL_CANCELLED}
SWEEP = CleanupInput(collaboration="flights", apply=True)

OUTCOMES: Final[dict[str, Outcome]] = {
    "publish-azure-dataset.completed": Outcome(PublishAzureDataset, "completed", worlds.publication("azure-blob")),
    "publish-azure-dataset.failed": Outcome(PublishAzureDataset, "failed", worlds.publication("azure-blob"), {"set_federation": REFUSED}),
    "publish-azure-dataset.cancelled": Outcome(
        PublishAzureDataset,
        "canceled",
        worlds.publication("azure-blob"),
        {"propose_document": UNTIL_CANCELLED},
        cancel_at("propose_document"),
    ),
    "publish-azure-dataset.terminated": Outcome(
        PublishAzureDataset,
        "terminated",
        worlds.publication("azure-blob"),
        {"propose_document": UNTIL_CANCELLED},
        terminate_at("propose_document"),
    ),
    "publish-s3-dataset.completed": Outcome(PublishS3Dataset, "completed", worlds.publication("aws-s3")),
    "publish-s3-dataset.failed": Outcome(PublishS3Dataset, "failed", worlds.publication("aws-s3"), {"get_connection_secret": REFUSED}),
    "publish-s3-dataset.cancelled": Outcome(
        PublishS3Dataset, "canceled", worlds.publication("aws-s3"), {"propose_document": UNTIL_CANCELLED}, cancel_at("propose_document")
    ),
    "publish-s3-dataset.terminated": Outcome(
        PublishS3Dataset,
        "terminated",
        worlds.publication("aws-s3"),
        {"propose_document": UNTIL_CANCELLED},
        terminate_at("propose_document"),
    ),
    "publish-query.refused": Outcome(PublishQuery, "failed", _query(), {"generate_query_document": REFUSED}),
    "publish-query.approved-and-expired": Outcome(PublishQuery, "completed", _query(), _decided(2), messages(PROPOSE, *APPROVE)),
    "publish-query.draft-expired": Outcome(PublishQuery, "completed", _query(1)),
    "publish-query.proposal-expired": Outcome(PublishQuery, "completed", _query(2), {}, messages(PROPOSE)),
    "publish-query.rejected-and-withdrawn": Outcome(
        PublishQuery, "completed", _query(), _decided(3600), messages(PROPOSE, REJECT, WITHDRAW)
    ),
    "publish-query.proposal-withdrawn": Outcome(PublishQuery, "completed", _query(), {}, messages(PROPOSE, WITHDRAW, WITHDRAW)),
    "publish-query.updated": Outcome(
        PublishQuery, "completed", _query(), {}, messages(("update", AUTHOR.model_copy(update={"spec": worlds.SPEC})), WITHDRAW)
    ),
    "publish-query.cancelled": Outcome(
        PublishQuery, "canceled", _query(), {"accept_query": UNTIL_CANCELLED}, then(messages(PROPOSE), vote, cancel_at("accept_query"))
    ),
    "publish-query.terminated": Outcome(
        PublishQuery, "terminated", _query(), {"accept_query": UNTIL_CANCELLED}, then(messages(PROPOSE), vote, terminate_at("accept_query"))
    ),
    "publish-query.woken": Outcome(PublishQuery, "completed", _query(), {}, then(look, messages(WITHDRAW))),
    "publish-query.continued-as-new": Outcome(
        PublishQuery, "continued_as_new", _query(), {}, _many_signals, ("publish-query.carried-and-withdrawn", messages(WITHDRAW))
    ),
    "prepare.completed": Outcome(Prepare, "completed", worlds.RUN),
    "prepare.failed": Outcome(Prepare, "failed", worlds.RUN, {"check_execution_consent": REFUSED}),
    "prepare.cancelled": Outcome(Prepare, "canceled", worlds.RUN, {"build_job": UNTIL_CANCELLED}, cancel_at("build_job")),
    "prepare.terminated": Outcome(Prepare, "terminated", worlds.RUN, {"build_job": UNTIL_CANCELLED}, terminate_at("build_job")),
    "run-query.completed": Outcome(RunQuery, "completed", worlds.RUN),
    "run-query.refused": Outcome(RunQuery, "failed", worlds.RUN, {"get_users": REFUSED}),
    "run-query.job-failed": Outcome(RunQuery, "failed", worlds.RUN, {"watch_job": JOB_FAILED}),
    "run-query.consent-withdrawn": Outcome(
        RunQuery, "failed", worlds.RUN, WATCHING | {"watch_consent": ConsentWithdrawn(document_id="orders", message="turned off")}
    ),
    "run-query.result-missing": Outcome(
        RunQuery, "failed", worlds.RUN, {"collect_result": Refused("CompletionEvidenceMissing", "no receipt")}
    ),
    "run-query.cleanup-failed": Outcome(RunQuery, "completed", worlds.RUN, {"revoke_grants": Refused("GrantsRemain", "not undone")}),
    "run-query.cancelled": Outcome(RunQuery, "canceled", worlds.RUN, WATCHING, cancel_at("watch_job")),
    "run-query.cancelled-at-submit": Outcome(RunQuery, "canceled", worlds.RUN, {"submit_job": UNTIL_CANCELLED}, cancel_at("submit_job")),
    "run-query.terminated": Outcome(RunQuery, "terminated", worlds.RUN, WATCHING, terminate_at("watch_job")),
    "conclude-run.completed": Outcome(ConcludeRun, "completed", worlds.TICKET),
    "conclude-run.nothing-begun": Outcome(
        ConcludeRun, "completed", worlds.TICKET, {"revoke_grants": Revoked(secrets=0, grants=0, closed=False)}
    ),
    "conclude-run.failed": Outcome(ConcludeRun, "failed", worlds.TICKET, {"revoke_grants": REFUSED}),
    "conclude-run.cancelled": Outcome(ConcludeRun, "canceled", worlds.TICKET, {"delete_job": UNTIL_CANCELLED}, cancel_at("delete_job")),
    "conclude-run.terminated": Outcome(
        ConcludeRun, "terminated", worlds.TICKET, {"delete_job": UNTIL_CANCELLED}, terminate_at("delete_job")
    ),
    "cleanup.completed": Outcome(Cleanup, "completed", SWEEP, _looked("run-1", "run-2")),
    "cleanup.reported": Outcome(Cleanup, "completed", CleanupInput(collaboration="flights"), _looked("run-1")),
    "cleanup.failed": Outcome(Cleanup, "failed", SWEEP, _looked() | {"find_held": REFUSED}),
    "cleanup.cancelled": Outcome(
        Cleanup, "canceled", SWEEP, _looked("run-1") | {"revoke_grants": UNTIL_CANCELLED}, cancel_at("revoke_grants")
    ),
    "cleanup.terminated": Outcome(
        Cleanup, "terminated", SWEEP, _looked("run-1") | {"revoke_grants": UNTIL_CANCELLED}, terminate_at("revoke_grants")
    ),
    "cleanup.continued-as-new": Outcome(Cleanup, "continued_as_new", SWEEP, _looked("run-1", more=True)),
    "watch-queries.continued-as-new": Outcome(WatchQueries, "continued_as_new", worlds.WATCH, {"watch_queries": None}),
    "watch-queries.failed": Outcome(WatchQueries, "failed", worlds.WATCH, {"watch_queries": REFUSED}),
    "watch-queries.cancelled": Outcome(
        WatchQueries, "canceled", worlds.WATCH, {"watch_queries": UNTIL_CANCELLED}, cancel_at("watch_queries")
    ),
    "watch-queries.terminated": Outcome(
        WatchQueries, "terminated", worlds.WATCH, {"watch_queries": UNTIL_CANCELLED}, terminate_at("watch_queries")
    ),
}
"""By name of the history: the workflow's, a dot, and the outcome's."""

DEFAULT_ANSWERS: Final[dict[str, Any]] = (
    worlds.publish_dataset_answers()
    | worlds.publish_query_answers()
    | worlds.conclude_run_answers()
    | {"watch_consent": UNTIL_CANCELLED, "find_query_change": None}
)


def answers_of(outcome: Outcome) -> dict[str, Any]:
    """What the activities of a workflow answer."""
    own = worlds.prepare_answers() | worlds.run_query_answers() if outcome.workflow in (RunQuery, Prepare) else {}
    fixed = {"watch_consent": UNTIL_CANCELLED, "find_query_change": None}
    return DEFAULT_ANSWERS | own | fixed | outcome.answers


def _run_id(name: str) -> str:
    """Part of the workflow's ID, and the ID of the run. The ID of the preparation of a run contains it."""
    return name.replace(".", "-")


@asynccontextmanager
async def outcome_workers(client: Client, given: Mapping[str, Callable[..., Any]]) -> AsyncIterator[None]:
    """Run all workflows, with the activities that ``given`` has for a part of their ID."""

    @activity.defn(dynamic=True)
    async def answer(arguments: Sequence[RawValue]) -> Any:
        name = next(part for part in (activity.info().workflow_id or "").split("/") if part in given)
        return await given[name](arguments)

    queues = (CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, *map(collaborator_queue, ("contosso", "fabrikam", "litware")))
    async with AsyncExitStack() as stack:
        for queue in queues:
            workflows = {CLEAN_ROOM_QUEUE: CLEAN_ROOM, FRONTEND_QUEUE: FRONTEND}
            await stack.enter_async_context(create_worker(client, WorkerSpec(queue, queue, workflows.get(queue, ()), (answer,), **AT_ONCE)))
        yield


async def record_outcomes(names: Sequence[str] = tuple(OUTCOMES)) -> None:
    """Record histories, all at the same time."""
    given = {_run_id(name): answering(answers_of(OUTCOMES[name]), ARGUMENTS) for name in names}

    options = server_options()
    options["dev_server_extra_args"] += ["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={SUGGESTED_END}"]
    async with await WorkflowEnvironment.start_local(**options) as env:
        client = await client_with(env, recorded_keyring())
        async with outcome_workers(client, given):
            await asyncio.gather(*(_record(client, name, OUTCOMES[name]) for name in names))


async def start_outcome(client: Client, run_id: str, outcome: Outcome) -> WorkflowHandle[Any, Any]:
    """Start the workflow of an outcome as ``recorded/<run_id>``."""
    input, workflow = outcome.input, outcome.workflow
    if hasattr(input, "ticket"):
        input = input.model_copy(update={"ticket": input.ticket.model_copy(update={"run_id": run_id})})
    queue = CLEAN_ROOM_QUEUE if workflow in CLEAN_ROOM else FRONTEND_QUEUE
    return await client.start_workflow(workflow.__name__, input, id=f"recorded/{run_id}", task_queue=queue)


async def _record(client: Client, name: str, outcome: Outcome) -> None:
    handle = await start_outcome(client, _run_id(name), outcome)
    if outcome.act is not None:
        await outcome.act(handle)
    async with asyncio.timeout(PATIENCE):
        with suppress(WorkflowFailureError, WorkflowContinuedAsNewError):
            await client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).result(follow_runs=False)
    await _write(client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id), name)
    if outcome.carried is not None:
        following, act = outcome.carried
        latest = client.get_workflow_handle(handle.id)
        await act(latest)
        await latest.result()
        await _write(latest, following)
    elif outcome.ends == "continued_as_new":
        await client.get_workflow_handle(handle.id).terminate()


async def _write(handle: WorkflowHandle[Any, Any], name: str) -> None:
    history = await handle.fetch_history()
    write_history(OUTCOMES_FOLDER, name, history)
    print(f"{name}: {len(history.events)} events")


if __name__ == "__main__":
    asyncio.run(record_outcomes())
