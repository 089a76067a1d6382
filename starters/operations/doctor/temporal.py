"""Checks of Temporal: connection, search attributes, workers, versions, and workflows whose tasks fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import PreconditionFailed, Unavailable
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, FRONTEND_QUEUE, SPARK_SERVICE_QUEUE, collaborator_queue
from cleanroom.settings import Settings
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.markdown import plain
from cleanroom.temporal.versions import Deployment, current_build
from starters.operations.doctor.checks import Check, NotApplicable
from starters.operations.session import Session
from starters.operations.worker_queries import ACTIVITIES, polls, start_worker_hint

CONNECTION = "connection to Temporal"
DEPLOYMENTS: tuple[Deployment, ...] = ("frontend", "clean-room")
FAILING = "ExecutionStatus = 'Running' AND TemporalReportedProblems IS NOT NULL"
"""The server flags a workflow after two failed workflow tasks, until one succeeds (https://temporal.io/change-log/task-issues)."""
SHOWN = 5
QUEUES = {FRONTEND_QUEUE: None, CLEAN_ROOM_QUEUE: None, SPARK_SERVICE_QUEUE: ACTIVITIES}
"""Task queues, and the kind of tasks by which a worker of the queue is recognised: workflow tasks by default."""


def temporal_checks(session: Session) -> Iterator[Check]:
    """Yield the checks of Temporal."""
    settings = session.settings
    connected: list[Client] = []

    async def connection() -> str:
        client = await session.temporal()
        connected.append(client)
        try:
            await client.count_workflows('WorkflowType = "PublishQuery"')
        except RPCError as error:
            raise error_from_failure(error) from error
        return f"{client.service_client.config.target_host}, namespace {client.namespace}"

    async def search_attributes() -> str:
        return await _require_attributes(connected[0])

    async def progress() -> str:
        return await _require_progress(connected[0])

    yield Check("temporal", CONNECTION, connection)
    yield Check("temporal", "search attributes", search_attributes, (CONNECTION,))
    yield Check("temporal", "workflow tasks", progress, (CONNECTION,))
    for queue, kind in _queues(settings).items():

        async def worker(queue: str = queue, kind: Any = kind) -> str:
            client = connected[0]
            if not await (polls(client, queue) if kind is None else polls(client, queue, kind)):
                raise Unavailable("NoWorker", f"no worker polls task queue {queue!r}.", hint=start_worker_hint(queue), party="operator")
            return f"polls task queue {queue}"

        yield Check("temporal", f"worker of {queue}", worker, (CONNECTION,))
    for deployment in DEPLOYMENTS:

        async def version(deployment: Deployment = deployment) -> str:
            build = await current_build(connected[0], deployment)
            return f"build {build} is current" if build else "not versioned"

        yield Check("temporal", f"version of {deployment}", version, (CONNECTION,))


def _queues(settings: Settings) -> dict[str, Any]:
    """Return the task queues that the profile depends on. A collaborator sees whether the others' workers run, too."""
    parties = {collaborator_queue(party): ACTIVITIES for party in sorted(settings.parties)}
    return QUEUES | parties


async def _require_attributes(client: Client) -> str:
    found = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    names = {name: IndexedValueType.Name(kind) for name, kind in found.custom_attributes.items()}
    missing = [key.name for key in attributes.ALL if key.name not in names]
    if missing:
        raise PreconditionFailed(
            "SearchAttributesMissing",
            f"namespace {client.namespace!r} lacks the search attributes {', '.join(missing)}.",
            hint="Register them: temporal operator search-attribute create --name NAME --type TYPE (docs/reference/search-attributes.md).",
            party="operator",
        )
    return f"all {len(attributes.ALL)} are registered"


async def _require_progress(client: Client) -> str:
    try:
        names = [plain(item.id, 200) async for item in client.list_workflows(FAILING, limit=SHOWN)]
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise NotApplicable("this server does not flag workflows whose tasks fail") from None
        raise error_from_failure(error) from error
    if names:
        raise Unavailable(
            "WorkflowTasksFail",
            f"workflow tasks fail again and again: {', '.join(names)}{' …' if len(names) == SHOWN else ''}.",
            hint="The last WorkflowTaskFailed event in the Web UI names the reason: docs/guides/runbook.md#cleanroomworkflowtasksfail.",
            party="operator",
        )
    return "no workflow waits for a worker that can execute it"
