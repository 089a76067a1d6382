"""The paths of the workflows: what collaborators do, and what must be true afterwards.

A scenario runs once under a new name and returns what it left everywhere, without the names and random values in it. A run with
faults must leave the same as a run without.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from cleanroom.documents.specs import DatasetSpec
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import (
    cleanup_workflow_id,
    conclude_workflow_id,
    dataset_workflow_id,
    decision_document_id,
    identity_name,
    job_name,
    key_encryption_key_name,
    prepare_workflow_id,
    query_workflow_id,
    run_workflow_id,
    watch_workflow_id,
)
from cleanroom.messages.query import QueryState
from cleanroom.messages.run import RunStatus
from cleanroom.runs.ledger import RUNS_SCOPE, closed_event_id, event_scope, pinned_event_id, runs_event_id
from cleanroom.spark.run_events import CLEAN_ROOM_STEPS, event_id
from cleanroom.temporal.failures import error_from_failure
from starters.operations.conclude import conclude_run
from starters.operations.datasets import publish_dataset
from starters.operations.queries import update_query, withdraw_query
from starters.operations.query_workflow import read_state
from starters.operations.runs import start_run
from starters.operations.workflow_names import STATUS
from tests.faults.cloud import WORKERS
from tests.faults.rows import Left
from tests.faults.stage import Stage, repeated, without_names
from tests.local_cloud.world import flights_spec, planes_spec
from workflows.query_state import SEEN

REFUSED_SIGNALS = {
    *("BallotPending", "BallotAlreadySubmitted", "QueryNotProposed", "QueryClosed", "ProposalClosed"),
    *("DecisionQueryMismatch", "DecisionProposalMismatch", "DecisionVersionMismatch", "DecisionDigestMismatch"),
}
"""Codes with which signals may be refused that are duplicated, late or early."""
WATCH_SECONDS = 20
"""How long a job runs at most so that the activities that watch it meet their faults."""


class Scenario:
    """A path. ``ids`` maps the types of its workflows to their IDs for a name."""

    name: str
    workflows: tuple[str, ...]
    focus: tuple[str, ...] = ()
    """Activities with cells; all of the workflows if empty."""
    profiles: tuple[str, ...] = WORKERS
    """The workers that it needs, where each is a process."""
    failures: tuple[str, ...] = ("",)
    """Codes with which the run without faults ends; empty for success."""

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        """Return the workflow IDs of a run of this scenario."""
        raise NotImplementedError

    async def run(self, stage: Stage, name: str) -> Left:
        """Act, wait until the workflows have ended, and return what is left."""
        raise NotImplementedError


class PublishAzure(Scenario):
    """Contosso publishes a dataset from Blob Storage."""

    name, workflows, profiles = "publish-azure", ("PublishAzureDataset",), ("frontend", "contosso")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishAzureDataset": dataset_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        store = {"kind": "azure-blob", "container": "flights", "subdirectory": name}
        left = await _publish(stage, "contosso", flights_spec(name=name, store=store), self.ids(stage, name))
        identity = f"%/{identity_name(stage.collaboration, name)}"
        roles = "SELECT scope FROM assignments JOIN identities USING (principal_id) WHERE id LIKE ?"
        found = Counter(without_names(scope, name) for (scope,) in stage.rows("entra", "entra.sqlite", roles, identity))
        left["roles"] = [list(item) for item in sorted(found.items())]
        federated = stage.rows("entra", "entra.sqlite", "SELECT subject FROM federated WHERE identity_id LIKE ?", identity)
        left["federations"] = len(federated)
        key = key_encryption_key_name(stage.collaboration, name)
        left["keys"] = len(stage.rows("keyvault", "keyvault.sqlite", "SELECT version FROM versions WHERE name = ?", key))
        return left


class PublishS3(Scenario):
    """Litware publishes a dataset from S3."""

    name, workflows, profiles = "publish-s3", ("PublishS3Dataset",), ("frontend", "litware")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishS3Dataset": dataset_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        store = {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"}
        left = await _publish(stage, "litware", planes_spec(name=name, store=store), self.ids(stage, name))
        names = await stage.governance.list_secrets(stage.collaboration)
        left["secrets"] = sorted(found.replace(name, "*") for found in names if f"_{name}." in found)
        return left


async def _publish(stage: Stage, owner: str, spec: DatasetSpec, ids: Mapping[str, str]) -> Left:
    failure = ""
    try:
        await repeated(lambda: publish_dataset(stage.people[owner], spec))
    except (CleanRoomError, WorkflowFailureError) as error:
        failure = error_from_failure(error).code
    await stage.settle()
    return {"failure": failure, "open": await stage.open_workflows(ids), **await stage.document(spec.name)}


class ApprovedQuery(Scenario):
    """Fabrikam creates, updates, proposes, withdraws and proposes a query. Both owners approve it. The draft also changes elsewhere."""

    name, workflows = "approved-query", ("PublishQuery", "WatchQueries")
    profiles = ("frontend", "contosso", "litware", "fabrikam")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        watch = watch_workflow_id(stage.collaboration)
        return {"PublishQuery": query_workflow_id(stage.collaboration, name), "WatchQueries": watch}

    async def run(self, stage: Stage, name: str) -> Left:
        author, proposals = stage.people["fabrikam"], []

        async def act() -> None:
            text = stage.query(name)
            await stage.create(text)
            changed = stage.query(name, sql=text.sql.replace(">= 25", ">= 26"))
            await repeated(lambda: update_query(author, changed))
            await stage.change_draft(name)
            proposals.append(await stage.propose(name))
            await repeated(lambda: withdraw_query(author, name))
            proposals.append(await stage.propose(name))
            await stage.decide({"litware": "approve", "contosso": "approve"}, name)

        return await _query(stage, name, act, proposals, back="withdrawn")


class RejectedQuery(Scenario):
    """Litware rejects a query of Fabrikam, who then closes the draft."""

    name, workflows, profiles = "rejected-query", ("PublishQuery",), ("frontend", "contosso", "litware", "fabrikam")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"PublishQuery": query_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        author, proposals = stage.people["fabrikam"], []

        async def act() -> None:
            await stage.create(stage.query(name))
            await stage.change_draft(name)
            proposals.append(await stage.propose(name))
            await stage.decide({"litware": "reject"}, name)
            await repeated(lambda: withdraw_query(author, name))

        return await _query(stage, name, act, proposals, back="returned to draft")


def _history(state: QueryState, back: str) -> list[str]:
    """The events of a query, without order.

    The workflow may see an effect in governance before the command that had it reports it, for instance when its worker was killed.

    Args:
        state: The query.
        back: The event with which this path returns a proposal to a draft.
    """
    found = []
    for entry in state.history:
        seen_first = entry.detail == SEEN
        if entry.event != "governance cannot be read" and not (seen_first and entry.event in ("draft changed", "votes changed")):
            found.append(back if seen_first and entry.event == "returned to draft" else entry.event)
    return sorted(found)


async def _query(stage: Stage, name: str, act: Callable[[], Any], proposals: list[str], *, back: str) -> Left:
    failure = ""
    handle = stage.temporal.get_workflow_handle(query_workflow_id(stage.collaboration, name))
    try:
        await act()
    except (CleanRoomError, WorkflowFailureError) as error:
        failure = error_from_failure(error).code
    await stage.settle()
    state = await repeated(lambda: read_state(stage.people["fabrikam"], name))
    if (await repeated(handle.describe)).status is WorkflowExecutionStatus.RUNNING:
        await repeated(handle.cancel)
        with contextlib.suppress(WorkflowFailureError):
            await repeated(handle.result)
    decisions = []
    for number, proposal in enumerate(proposals):
        statuses = await stage.governance.proposal_status(proposal)
        decisions.append([number, statuses.state, sorted([ballot.approver_id, ballot.ballot] for ballot in statuses.ballots)])
    documents = {item.id for item in await stage.governance.list_documents()}
    users = stage.people["fabrikam"].settings.parties.values()
    statements = [sum(decision_document_id(proposal, user) in documents for user in users) for proposal in proposals]
    return {
        "failure": failure,
        "stage": state.stage,
        "pending": sorted(state.pending),
        "accepted": sorted(state.accepted),
        "rejected": sorted(state.rejected),
        "refused": sorted({item.code for item in state.refused} - (REFUSED_SIGNALS if stage.signals else set())),
        "history": _history(state, back),
        "proposals": decisions,
        "decisions": statements,
        **await stage.document(name),
    }


class Run(Scenario):
    """Fabrikam runs the approved query."""

    name, workflows = "run", ("RunQuery", "Prepare")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"RunQuery": run_workflow_id(stage.collaboration, name), "Prepare": prepare_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        handle = await _start(stage, name)
        left: Left = {"failure": ""}
        try:
            result = await repeated(handle.result)
            left |= {"state": result.state, "result": result.receipt is not None and result.receipt.digest == stage.expected_digest()}
        except WorkflowFailureError as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, self.ids(stage, name))


class CancelledRun(Scenario):
    """Fabrikam runs the approved query, and cancels the run while its job runs."""

    name, workflows, failures = "cancelled-run", ("RunQuery",), ("Cancelled",)
    focus = ("watch_job", "watch_consent", "delete_job", "revoke_grants", "record_event")

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return Run().ids(stage, name)

    async def run(self, stage: Stage, name: str) -> Left:
        handle = await _start_held(stage, name)
        await repeated(handle.cancel)
        left: Left = {"failure": ""}
        try:
            await repeated(handle.result)
        except WorkflowFailureError as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, self.ids(stage, name))


class ConcludedRun(Scenario):
    """A run is terminated while its job runs. Litware concludes it."""

    name, workflows = "concluded-run", ("ConcludeRun",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"ConcludeRun": conclude_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        handle = await _start_held(stage, name)
        await repeated(handle.terminate)
        left: Left = {"failure": ""}
        try:
            # Whether the job was found depends on the attempt: a repeated deletion finds none.
            await repeated(lambda: conclude_run(stage.people["litware"], name))
        except (CleanRoomError, WorkflowFailureError) as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, Run().ids(stage, name) | self.ids(stage, name))


class SweptRun(Scenario):
    """A run is terminated while its job runs, and there is a copy of the job. The cleanup undoes what is left of both."""

    name, workflows = "swept-run", ("Cleanup",)

    def ids(self, stage: Stage, name: str) -> dict[str, str]:
        return {"Cleanup": cleanup_workflow_id(stage.collaboration, name)}

    async def run(self, stage: Stage, name: str) -> Left:
        handle = await _start_held(stage, name)
        await asyncio.to_thread(stage.copy_application, job_name(stage.collaboration, "approved-0", name), name, f"{name}-copy")
        await asyncio.to_thread(stage.cloud.pods.reached, name, 2)
        await repeated(handle.terminate)
        left: Left = {"failure": ""}
        try:
            report = await stage.sweep(self.ids(stage, name)["Cleanup"], apply=True)
            undone = sorted([row.run_id.replace(name, "*"), row.outcome] for row in report.left if row.run_id.startswith(name))
            left |= {"undone": undone, "unchecked": report.unchecked}
        except WorkflowFailureError as error:
            left["failure"] = error_from_failure(error).code
        return left | await _run_left(stage, name, Run().ids(stage, name) | self.ids(stage, name))


async def _start(stage: Stage, name: str) -> WorkflowHandle[Any, Any]:
    return await repeated(lambda: start_run(stage.people["fabrikam"], "approved-0", stage.approved, name, consent_check_seconds=1))


async def _start_held(stage: Stage, name: str) -> WorkflowHandle[Any, Any]:
    """Start a run of the approved query, and return when its job runs. The job does not end."""
    stage.cloud.pods.hold(name)
    handle = await _start(stage, name)
    await asyncio.to_thread(stage.cloud.pods.reached, name)
    # The ledger then has the entry of the submission, whose time depends on the machine.
    async with asyncio.timeout(300):
        while (await repeated(lambda: handle.query(STATUS, result_type=RunStatus))).state != "Running":
            await asyncio.sleep(0.05)
    # An activity that watches ends with the job, so its faults must happen before that.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WATCH_SECONDS):
            while stage.watches_wait():
                await asyncio.sleep(0.05)
    return handle


async def _run_left(stage: Stage, name: str, ids: Mapping[str, str]) -> Left:
    await stage.settle()
    pods = stage.cloud.pods
    started = await stage.events(runs_event_id("approved-0"), RUNS_SCOPE)
    entries = {step: await stage.events(event_id(name, step), event_scope(name)) for step in (*CLEAN_ROOM_STEPS, "QUERY_COMPLETED")}
    return {
        "open": await stage.open_workflows(ids),
        "sweeper": await stage.found_by_sweeper(name),
        "doctor": await repeated(stage.found_by_doctor),
        "applications": await asyncio.to_thread(stage.applications, name),
        "drivers": len(pods.started(name)),
        "grants": await stage.grants(),
        "secrets": await stage.secrets(name),
        "starts": sum(item["runId"] == name for item in started),
        "pinned": len(await stage.events(pinned_event_id(name), RUNS_SCOPE)),
        "closed": len(await stage.events(closed_event_id(name), RUNS_SCOPE)),
        "ledger": {step: len(versions) for step, versions in entries.items() if versions},
    }


SCENARIOS: dict[str, Scenario] = {
    item.name: item
    for item in (PublishAzure(), PublishS3(), ApprovedQuery(), RejectedQuery(), Run(), CancelledRun(), ConcludedRun(), SweptRun())
}
"""All scenarios by name."""
