"""Workflow that wakes the queries of a collaboration when governance changes. It is not in the diagrams.

The frontend's worker starts it. There is one per collaboration, however many queries are open
(docs/decisions/017-one-watcher-of-queries.md).
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.query_watch import Watcher
    from cleanroom.identifiers import FRONTEND_QUEUE
    from cleanroom.messages.query import WatchQueriesInput
    from cleanroom.temporal.retries import WATCH

WITHOUT_WORKER = timedelta(days=366)
"""How long the watcher waits for a worker. Queries that change in the meantime are found afterwards."""


@workflow.defn(name="WatchQueries", versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class WatchQueries:
    """Watches until it is terminated. Each history has one activity; the next one may run on a newer version of the worker."""

    @workflow.run
    async def run(self, input: WatchQueriesInput) -> None:
        """Watch for a while, then continue as new."""
        workflow.set_current_details("Compares the open queries with governance, and wakes those that have changed there.")
        await workflow.execute_activity_method(
            Watcher.watch_queries,
            input,
            **WATCH.within(WITHOUT_WORKER).config("changes of open queries in governance", task_queue=FRONTEND_QUEUE),
        )
        workflow.continue_as_new(input)
