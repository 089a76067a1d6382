"""Workflow that finds and undoes what ended runs have left: grants, staged secrets, SparkApplications.

It is not in the diagrams. An operator or a Temporal Schedule starts it. Each trust boundary looks at what it can undo, and undoes it:
the clean room in governance, the Spark service in Kubernetes.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.clean_room_cleanup import CleanRoomCleanup
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
    from cleanroom.messages.cleanup import (
        CleanupInput,
        CleanupReport,
        HeldFound,
        HeldRequest,
        JobsFound,
        JobsRequest,
        Leftover,
        RunHeld,
        RunJob,
        StatesFound,
        StatesRequest,
        UnpinnedJob,
    )
    from cleanroom.runs.leftovers import Verdict, still_held, verdict
    from cleanroom.temporal import metrics
    from cleanroom.temporal.failures import error_from_failure
    from cleanroom.temporal.retries import STANDARD, SWEEP
    from workflows.conclude_run import undo_run
    from workflows.story import Story

T = TypeVar("T")

STEPS = {
    "look": "Look at SparkApplications, secrets and grants",
    "workflows": "Ask Temporal which of their runs are open",
    "again": "Look again at the runs that are not",
    "undo": "Undo what they have left",
}
CONCURRENT_RUNS = 4
"""How many runs are undone at the same time."""
BATCH = 50
"""How many runs are undone before the workflow continues as new."""
REPORTED = 500
"""How many runs a report lists."""


@workflow.defn(name="Cleanup", versioning_behavior=VersioningBehavior.PINNED)
class Cleanup:
    """Compare what runs hold with the open runs; undo what belongs to none, if asked to. Idempotent."""

    @workflow.init
    def __init__(self, input: CleanupInput) -> None:
        self._input = input
        title = "Clean up after ended runs" if input.apply else "List what ended runs have left"
        self._story = Story(f"{title} of {input.collaboration}", STEPS, kind="cleanup")
        self._unchecked: dict[str, str] = {}
        self._running: dict[str, RunJob] = {}
        """Applications by run, as of the latest look."""
        self._undone = 0

    @workflow.run
    async def run(self, input: CleanupInput) -> CleanupReport:
        """Look, ask Temporal, look again, undo."""
        async with self._story.report_outcome():
            return await self._sweep(input)

    async def _sweep(self, input: CleanupInput) -> CleanupReport:
        story = self._story
        story.stage("look")
        found = await story.step("look", self._look())
        states = await story.step("workflows", self._states([run.run_id for run in found.runs]))
        verdicts = {run.run_id: self._verdict(run, found.read_at, states) for run in found.runs}
        suspects = [run for run in found.runs if verdicts[run.run_id].kind == "left"]
        left, again = await story.step("again", self._look_again(suspects))
        kept = [self._row(run, found.read_at, verdicts[run.run_id]) for run in found.runs if verdicts[run.run_id].kind == "kept"]
        now = left[:BATCH] if input.apply else left
        rows = [self._row(run, again, verdicts[run.run_id]) for run in now]
        if input.apply and now:
            story.stage("undo")
            rows = await story.step("undo", self._undo(now, rows), note=f"{len(now)} runs")
        else:
            story.skip("undo")
        left_over = {row.run_id for row in rows if row.outcome != "undone"} | {run.run_id for run in left[len(now) :]}
        _report_grants(found, {run.run_id for run in left}, left_over)
        before = input.carried.left if input.carried else ()
        report = CleanupReport(
            collaboration=input.collaboration,
            applied=input.apply,
            left=(*before, *rows)[:REPORTED],
            kept=tuple(kept[:REPORTED]),
            open_runs=sum(each.kind == "open" for each in verdicts.values()),
            unattributed=found.unattributed,
            unchecked=self._unchecked,
            more=found.more or len(left) > len(now),
        )
        if input.apply and report.more and any(row.outcome == "undone" for row in rows):
            # Without progress, the rest would be found again and again. The next cleanup tries it again.
            workflow.continue_as_new(input.model_copy(update={"carried": report}))
        return report

    # ------------------------------------------------------------------ look

    async def _look(self) -> HeldFound:
        """Read the applications by run, and then what runs hold and the ledger says about them."""
        self._running = {job.run_id: job for job in (await self._jobs()).jobs}
        found = await self._held(None, list(self._running))
        return found.model_copy(update={"runs": tuple(_with_job(run, self._running) for run in found.runs)})

    async def _look_again(self, suspects: list[RunHeld]) -> tuple[list[RunHeld], datetime]:
        """Return what the suspects still hold, and when that was read."""
        if not suspects:
            return [], workflow.now()
        names = [run.run_id for run in suspects]
        if any(name in self._running for name in names):
            self._running = {job.run_id: job for job in (await self._jobs()).jobs}
        present = self._running
        found = await self._held(names, [name for name in names if name in present])
        second = {run.run_id: _with_job(run, present) for run in found.runs}
        left = [still_held(run, second[run.run_id]) for run in suspects if run.run_id in second]
        return [run for run in left if run.held], found.read_at

    async def _held(self, runs: list[str] | None, jobs: list[str]) -> HeldFound:
        return await workflow.execute_activity_method(
            CleanRoomCleanup.find_held,
            HeldRequest(collaboration=self._input.collaboration, runs=None if runs is None else tuple(runs), jobs=tuple(jobs)),
            **SWEEP.config("secrets and grants of runs", task_queue=CLEAN_ROOM_QUEUE),
        )

    async def _jobs(self) -> JobsFound:
        """List the applications. Without the Spark service, the cleanup goes on: grants are more urgent than pods that can read nothing."""
        try:
            return await workflow.execute_activity_method(
                SparkServiceActivities.list_jobs,
                JobsRequest(collaboration=self._input.collaboration),
                **STANDARD.config("SparkApplications of runs", task_queue=SPARK_SERVICE_QUEUE),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._unchecked["SparkApplications"] = error_from_failure(error).code
            return JobsFound()

    async def _states(self, runs: list[str]) -> StatesFound:
        if not runs:
            return StatesFound(namespace_id="", states={})
        return await workflow.execute_activity_method(
            CleanRoomCleanup.describe_runs,
            StatesRequest(collaboration=self._input.collaboration, runs=tuple(runs), lost=self._input.lost),
            **SWEEP.config(f"workflows of {len(runs)} runs", task_queue=CLEAN_ROOM_QUEUE),
        )

    def _verdict(self, run: RunHeld, read_at: datetime, states: StatesFound) -> Verdict:
        return verdict(
            run,
            states.states[run.run_id],
            read_at=read_at,
            namespace_id=states.namespace_id,
            grace=timedelta(seconds=self._input.grace_seconds),
            lost=self._input.lost,
        )

    @staticmethod
    def _row(run: RunHeld, read_at: datetime, found: Verdict) -> Leftover:
        age = max(0, int((read_at - run.pinned_at).total_seconds())) if run.pinned_at else None
        return Leftover(run_id=run.run_id, query=run.query, held=run.held, age_seconds=age, reason=found.reason)

    # ------------------------------------------------------------------ undo

    async def _undo(self, runs: list[RunHeld], rows: list[Leftover]) -> list[Leftover]:
        slots = asyncio.Semaphore(CONCURRENT_RUNS)

        async def one(run: RunHeld, row: Leftover) -> Leftover:
            async with slots:
                outcome = await self._undo_run(run)
            self._undone += outcome == "undone"
            self._story.note("undo", f"{self._undone} of {len(runs)} runs")
            self._story.show()
            return row.model_copy(update={"outcome": outcome})

        return list(await asyncio.gather(*(one(run, row) for run, row in zip(runs, rows, strict=True))))

    async def _undo_run(self, run: RunHeld) -> str:
        """Undo one run; return ``undone`` or the code of the error. One run that fails does not stop the others."""
        try:
            if run.ticket is None:
                return await self._delete_unpinned(run)
            undone = await undo_run(run.ticket, timing=STANDARD, stop_job="application" in run.held)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return error_from_failure(error).code
        return "undone" if undone.revoked.closed else "RunNotPinned"

    async def _delete_unpinned(self, run: RunHeld) -> str:
        """Delete the application of a run that the ledger does not know. Its secrets, if it has some, are not this product's."""
        job = self._running.get(run.run_id)
        if job is None or run.held.keys() != {"application"}:
            return "RunNotPinned"
        await workflow.execute_activity_method(
            SparkServiceActivities.delete_unpinned_job,
            UnpinnedJob(collaboration=self._input.collaboration, job=job),
            **STANDARD.config(f"stop the job of {run.run_id}, which the ledger does not know", task_queue=SPARK_SERVICE_QUEUE),
        )
        return "undone"

    @workflow.query(description="The steps and the state of each.")
    def timeline(self) -> tuple[str, ...]:
        """Return the steps as lines."""
        return self._story.lines()


def _report_grants(found: HeldFound, ended: set[str], left_over: set[str]) -> None:
    """Set the gauge of outstanding grants: all runs that hold grants, less those that were undone."""
    meter = workflow.metric_meter()
    grants = {run.run_id: sum(number for kind, number in run.held.items() if kind.endswith("grants")) for run in found.runs}
    metrics.GRANTS_OUTSTANDING.set(meter, sum(number for run, number in grants.items() if run not in ended), run="open")
    metrics.GRANTS_OUTSTANDING.set(meter, sum(number for run, number in grants.items() if run in left_over), run="ended")
    metrics.GRANTS_OUTSTANDING.set(meter, found.unattributed, run="unknown")


def _with_job(run: RunHeld, jobs: dict[str, RunJob]) -> RunHeld:
    return run.model_copy(update={"held": {**run.held, "application": 1}}) if run.run_id in jobs else run
