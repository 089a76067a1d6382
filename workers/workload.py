"""Gauges about the workload of a collaboration, read from Temporal's visibility store: pending approvals, open, stuck and unconcluded runs.

They do not need a query's or a run's worker: a run whose worker is gone is exactly what the gauges must show. Every replica of the
frontend's worker exports the same values, so a query over them takes the maximum.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.client import Client, WorkflowExecution
from temporalio.common import MetricMeter
from temporalio.service import RPCError

from cleanroom.settings import Settings
from cleanroom.temporal import metrics
from cleanroom.temporal.attributes import PENDING_FOR, STAGE, STAGE_SINCE
from workers.background import BackgroundTask

logger = logging.getLogger("cleanroom.worker")

INTERVAL_SECONDS: Final = 15.0
"""Pause between two readings. One reading is three list requests, whatever the number of workflows up to a page of 1,000."""
AGES: Final = (("1h", timedelta(hours=1)), ("1d", timedelta(days=1)), ("7d", timedelta(days=7)))
"""Label and upper limit of an approval's age. Older ones have the label ``older``."""
OLDER: Final = "older"
_SHORT: Final = timedelta(minutes=15)
RUN_STAGES: Final = ("run.prepare", "run.submit", "run.watch", "run.conclude", "run.cleanup")
OTHER: Final = metrics.OTHER


class Workload(BackgroundTask):
    """Reads the gauges periodically while its context is open.

    Args:
        client: The client of the frontend's worker.
        settings: The frontend's profile: the collaboration, its collaborators, and the longest run.
        meter: Where the gauges are set.
        interval: Seconds between two readings.
        now: Returns the time.
    """

    task_name = "workload-metrics"

    def __init__(
        self,
        client: Client,
        settings: Settings,
        meter: MetricMeter,
        *,
        interval: float = INTERVAL_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._meter = meter
        self._now = now
        self._collaboration = settings.collaboration
        self._approvers = sorted(settings.parties)
        self._interval = interval
        self._limits = dict.fromkeys(RUN_STAGES, _SHORT) | {
            # Preparation waits for propagated roles, up to 15 minutes.
            "run.prepare": timedelta(minutes=30),
            "run.watch": timedelta(seconds=settings.spark.run_seconds + settings.spark.driver_start_seconds) + _SHORT,
        }
        self._read_at = now()

    async def _repeat(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval)

    async def refresh(self) -> None:
        """Set every gauge if Temporal answers, and in any case how old they are."""
        try:
            await self.read()
        except RPCError as error:
            logger.warning("the workload's metrics are not current: %s", error.status.name)
        metrics.VISIBILITY_AGE_SECONDS.set(self._meter, (self._now() - self._read_at).total_seconds())

    async def read(self) -> None:
        """Read the visibility store once and set every gauge."""
        now = self._now()
        mine = f"CrCollab = '{self._collaboration}'"
        proposed = [
            found async for found in self._client.list_workflows(f"{mine} AND ExecutionStatus = 'Running' AND CrStage = 'query.proposed'")
        ]
        runs = [found async for found in self._client.list_workflows(f"{mine} AND ExecutionStatus = 'Running' AND CrKind = 'run'")]
        self._set_approvals(proposed, now)
        self._set_runs(runs, now)
        metrics.RUNS_NOT_CONCLUDED.set(self._meter, await self._not_concluded(mine))
        self._read_at = now

    def _set_approvals(self, proposed: Iterable[WorkflowExecution], now: datetime) -> None:
        pending: Counter[tuple[str, str]] = Counter()
        oldest: dict[str, float] = {}
        for query in proposed:
            age = now - (query.typed_search_attributes.get(STAGE_SINCE) or query.start_time)
            label = next((label for label, limit in AGES if age < limit), OLDER)
            for name in query.typed_search_attributes.get(PENDING_FOR) or ():
                approver = name if name in self._approvers else OTHER
                pending[approver, label] += 1
                oldest[approver] = max(oldest.get(approver, 0.0), age.total_seconds())
        for approver in (*self._approvers, OTHER):
            metrics.OLDEST_APPROVAL_SECONDS.set(self._meter, oldest.get(approver, 0.0), approver=approver)
            for label in (*(label for label, _ in AGES), OLDER):
                metrics.APPROVALS_PENDING.set(self._meter, pending[approver, label], approver=approver, age=label)

    def _set_runs(self, runs: Iterable[WorkflowExecution], now: datetime) -> None:
        opened, stuck = Counter[str](), Counter[str]()
        for run in runs:
            found = run.typed_search_attributes.get(STAGE) or ""
            # A run that no worker has taken has no stage. It must be prepared.
            stage = found if found in RUN_STAGES else "run.prepare"
            opened[stage] += 1
            stuck[stage] += now - (run.typed_search_attributes.get(STAGE_SINCE) or run.start_time) > self._limits[stage]
        for stage in RUN_STAGES:
            metrics.RUNS_OPEN.set(self._meter, opened[stage], stage=stage)
            metrics.RUNS_STUCK.set(self._meter, stuck[stage], stage=stage)

    async def _not_concluded(self, mine: str) -> int:
        """Count the runs that ended without revoking, which no other workflow has concluded since."""
        cut = f"{mine} AND CrKind = 'run' AND (ExecutionStatus IN ('Terminated', 'TimedOut') OR CrOutcome = 'CleanupFailed')"
        ended = {found.id async for found in self._client.list_workflows(cut)}
        if not ended:
            return 0
        done = f"{mine} AND CrKind = 'conclude' AND ExecutionStatus = 'Completed'"
        concluded = {found.id.removesuffix("/conclude") async for found in self._client.list_workflows(done)}
        return len(ended - concluded)
