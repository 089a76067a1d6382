"""Starts the cleanup after ended runs by hand, and schedules it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from temporalio.client import (
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import NotFound, Unavailable
from cleanroom.identifiers import CLEAN_ROOM_QUEUE, cleanup_schedule_id, cleanup_workflow_id
from cleanroom.messages.cleanup import DEFAULT_GRACE_SECONDS, CleanupInput, CleanupReport, Leftover
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details
from starters.operations.session import Session
from starters.operations.worker_queries import STARTING_SECONDS, require_worker
from starters.operations.workflow_names import CLEANUP
from starters.operations.workflow_progress import follow_timeline

LONGEST = dt.timedelta(hours=6)
"""Execution timeout of a cleanup. All its steps together take less while their workers run."""
CATCH_UP = dt.timedelta(minutes=10)
"""A scheduled cleanup that is later than this, because Temporal was down, is left out. The next one finds the same."""


async def run_cleanup(
    session: Session, *, apply: bool, grace_seconds: int = DEFAULT_GRACE_SECONDS, lost: Sequence[str] = ()
) -> CleanupReport:
    """Find what ended runs have left, and undo it with ``apply``. Waits for the report. A cleanup that runs already is joined.

    Args:
        session: Session of any profile.
        apply: Whether to undo what is found.
        grace_seconds: How long a run that Temporal does not know is left alone.
        lost: IDs of Temporal namespaces that no longer exist.

    Raises:
        Unavailable: ``TemporalUnavailable``, ``NoWorker``. Nothing is undone then.
        Refused: ``NamespaceNotLost``.
    """
    session.require_encryption()
    client = await session.temporal()
    try:
        await require_worker(client, CLEAN_ROOM_QUEUE, seconds=STARTING_SECONDS)
    except Unavailable as error:
        # A cleanup that begins hours later would surprise its operator.
        error.message = f"No worker polls task queue {CLEAN_ROOM_QUEUE!r}, so no cleanup was started."
        raise
    mode = "apply" if apply else "dry-run"
    handle = await client.start_workflow(
        CLEANUP,
        CleanupInput(collaboration=session.collaboration, apply=apply, grace_seconds=grace_seconds, lost=tuple(lost)),
        result_type=CleanupReport,
        id=cleanup_workflow_id(session.collaboration, mode),
        task_queue=CLEAN_ROOM_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        execution_timeout=LONGEST,
        static_summary=f"cleanup ({mode})",
        static_details=_details(apply=apply),
        search_attributes=start_attributes(collaboration=session.collaboration, kind="cleanup", proposer=session.settings.profile),
    )
    report: CleanupReport = await follow_timeline(client, handle, f"cleanup ({mode})")
    return report


def _details(*, apply: bool) -> str:
    return details(
        "Compares the secrets and grants in governance and the SparkApplications with the open runs in Temporal, twice.",
        "What belongs to no open run is undone." if apply else "Nothing is undone.",
        f"Start it with {code('cleanroom cleanup')}.",
    )


def leftover_rows(report: CleanupReport, found: Sequence[Leftover]) -> list[dict[str, Any]]:
    """Return the rows of a table of leftovers."""
    return [
        {
            "run": item.run_id,
            "collaboration": report.collaboration,
            "query": item.query,
            "what": [f"{count} {kind}" if kind != "not closed" else kind for kind, count in item.held.items()],
            "age": _age(item.age_seconds),
            "reason": item.reason,
            "outcome": item.outcome,
        }
        for item in found
    ]


def _age(seconds: int | None) -> str:
    if seconds is None:
        return "unknown"
    return str(dt.timedelta(seconds=seconds))


# ---------------------------------------------------------------------- schedule


async def schedule_cleanup(session: Session, every: dt.timedelta, *, grace_seconds: int = DEFAULT_GRACE_SECONDS) -> dict[str, Any]:
    """Create the collaboration's schedule, or change its interval; return its record.

    A cleanup that still runs is not started a second time, and cleanups that were missed for long are left out.
    """
    session.require_encryption()
    client = await session.temporal(scope="schedule")
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            CLEANUP,
            CleanupInput(collaboration=session.collaboration, apply=True, grace_seconds=grace_seconds),
            id=cleanup_workflow_id(session.collaboration, "scheduled"),
            task_queue=CLEAN_ROOM_QUEUE,
            execution_timeout=LONGEST,
            static_summary="cleanup (scheduled)",
            static_details=_details(apply=True),
            typed_search_attributes=start_attributes(collaboration=session.collaboration, kind="cleanup"),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
    )
    try:
        await client.create_schedule(cleanup_schedule_id(session.collaboration), wanted)
    except ScheduleAlreadyRunningError:

        async def change(found: ScheduleUpdateInput) -> ScheduleUpdate:
            wanted.state = found.description.schedule.state
            return ScheduleUpdate(schedule=wanted)

        await client.get_schedule_handle(cleanup_schedule_id(session.collaboration)).update(change)
    return await show_schedule(session)


async def show_schedule(session: Session) -> dict[str, Any]:
    """Return the collaboration's schedule: interval, next start, latest cleanups.

    Raises:
        NotFound: ``ScheduleNotFound``.
    """
    _, described = await _find_schedule(session)
    info, spec = described.info, described.schedule.spec
    every = spec.intervals[0].every if spec.intervals else None
    return {
        "schedule": described.id,
        "every": str(every) if every is not None else "",
        "paused": described.schedule.state.paused,
        "next": info.next_action_times[0].isoformat(timespec="seconds") if info.next_action_times else None,
        "running": [_workflow_id(action) for action in info.running_actions],
        "latest": [f"{result.started_at:%Y-%m-%d %H:%M:%S} {_workflow_id(result.action)}" for result in reversed(info.recent_actions[-5:])],
        "skipped": info.num_actions_skipped_overlap + info.num_actions_missed_catchup_window,
    }


def _workflow_id(action: object) -> str:
    return action.workflow_id if isinstance(action, ScheduleActionExecutionStartWorkflow) else ""


async def unschedule_cleanup(session: Session) -> str:
    """Delete the collaboration's schedule, and return its ID. A cleanup that runs is not stopped.

    Raises:
        NotFound: ``ScheduleNotFound``.
    """
    handle, described = await _find_schedule(session)
    await handle.delete()
    return described.id


async def _find_schedule(session: Session) -> tuple[ScheduleHandle, ScheduleDescription]:
    client = await session.temporal(scope="schedule")
    handle = client.get_schedule_handle(cleanup_schedule_id(session.collaboration))
    try:
        return handle, await handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND and not error.message.startswith("Namespace "):
            raise NotFound(
                "ScheduleNotFound",
                f"collaboration {session.collaboration!r} has no scheduled cleanup.",
                hint="Create it with `cleanroom cleanup --schedule 1h`.",
            ) from error
        raise
