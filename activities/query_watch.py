"""The watcher of a collaboration's open queries: one activity that runs all the time.

It only wakes workflows. Each workflow reads governance itself, so a wrong wake-up has no effect.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.governance import observed_transactions
from cleanroom.identifiers import is_name, query_workflow_id
from cleanroom.messages.known import Compared, KnownState
from cleanroom.messages.query import WatchQueriesInput
from cleanroom.publishing.query_states import is_current, shown_state
from cleanroom.publishing.query_watch import QueryWatch
from cleanroom.publishing.user_documents import UserDocuments
from cleanroom.runs.owner_decisions import SharedConsents
from cleanroom.temporal import attributes
from cleanroom.temporal.heartbeat import Heartbeater

LOOK_SECONDS: Final = 1.0
"""Time between two looks at governance. A look at a ledger that has not grown is one request."""
WATCH_SECONDS: Final = 3600.0
"""After this time the activity returns, so that the workflow continues on the current version of the worker."""
LOOK: Final = "look"
"""The signal of ``PublishQuery``."""


class OpenWorkflows:
    """The open workflows of a collaboration's queries, in Temporal's visibility store."""

    def __init__(self, client: Client, collaboration: str) -> None:
        self._client, self._collaboration = client, collaboration

    async def list(self) -> Mapping[str, KnownState]:
        """See :class:`cleanroom.publishing.query_watch.OpenQueries`."""
        found: dict[str, KnownState] = {}
        async for workflow in self._client.list_workflows(
            f'CrCollab = "{self._collaboration}" AND CrKind = "query" AND ExecutionStatus = "Running"'
        ):
            values = workflow.typed_search_attributes
            name, known = values.get(attributes.QUERY), shown_state(values)
            # Anyone who reaches Temporal can start a workflow with any attributes.
            if name and is_name(name) and known is not None and workflow.id == query_workflow_id(self._collaboration, name):
                found[name] = known
        return found

    async def known(self, query: str) -> KnownState | None:
        """See :class:`cleanroom.publishing.query_watch.OpenQueries`."""
        with _unless_closed():
            found = await self._handle(query).describe()
            if found.status is WorkflowExecutionStatus.RUNNING:
                return shown_state(found.typed_search_attributes)
        return None

    async def wake(self, query: str) -> None:
        """See :class:`cleanroom.publishing.query_watch.OpenQueries`."""
        with _unless_closed():
            await self._handle(query).signal(LOOK)

    def _handle(self, query: str) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(query_workflow_id(self._collaboration, query))


@contextmanager
def _unless_closed() -> Iterator[None]:
    """Tolerate that a workflow has ended since it was listed."""
    try:
        yield
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


class GovernanceLedger:
    """Governance as the watcher reads it."""

    def __init__(self, documents: UserDocuments, collaboration: str) -> None:
        self._documents = documents
        self._reader = SharedConsents(documents.client, collaboration)

    async def position(self) -> str:
        """See :class:`cleanroom.publishing.query_watch.WatchedGovernance`."""
        self._reader.forget()
        with observed_transactions() as seen:
            await self._documents.client.oidc_issuer_info()
        return str(seen[-1]) if seen else ""

    async def is_current(self, query: str, known: KnownState) -> bool:
        """See :class:`cleanroom.publishing.query_watch.WatchedGovernance`."""
        return await is_current(self._documents, self._reader, query, known, dt.datetime.now(dt.UTC))


class Watcher:
    """Watches the queries of one collaboration.

    Args:
        documents: The collaboration's documents, as the frontend reads them.
        collaboration: ID of the collaboration.
        seconds: How long one activity watches.
        interval: Seconds between two looks.
    """

    def __init__(
        self, documents: UserDocuments, collaboration: str, *, seconds: float = WATCH_SECONDS, interval: float = LOOK_SECONDS
    ) -> None:
        self._documents, self._collaboration, self._seconds, self._interval = documents, collaboration, seconds, interval

    @activity.defn
    async def watch_queries(self, request: WatchQueriesInput) -> None:
        """Wake the workflow of each query that changes in governance. Returns after a while, or when the worker shuts down.

        It needs no position to resume from: a new one compares every open query with governance.

        Raises:
            Refused: ``CollaborationMismatch``.
        """
        if request.collaboration != self._collaboration:
            raise Refused(
                "CollaborationMismatch",
                f"the request is for collaboration {request.collaboration!r}; this frontend serves {self._collaboration!r}.",
            )
        client = activity.client()
        queries, governance = OpenWorkflows(client, self._collaboration), GovernanceLedger(self._documents, self._collaboration)
        watch = QueryWatch(queries, governance, time.monotonic, self._interval)
        until = time.monotonic() + self._seconds
        shutdown = asyncio.create_task(activity.wait_for_worker_shutdown())
        try:
            async with Heartbeater(Compared) as heartbeat:
                while not shutdown.done() and time.monotonic() < until:
                    began = time.monotonic()
                    await _look(watch)
                    heartbeat.details = watch.compared
                    await asyncio.wait([shutdown], timeout=max(0.05, began + self._interval - time.monotonic()))
        finally:
            shutdown.cancel()


async def _look(watch: QueryWatch) -> None:
    try:
        await watch.look()
    except (CleanRoomError, RPCError) as error:
        # Governance or Temporal does not answer, or refuses to. What has changed in the meantime is found when they do.
        activity.logger.warning("queries are not compared with governance: %s", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(activity.wait_for_worker_shutdown(), 5)
