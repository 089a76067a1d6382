"""One timeline of a run: workflow, activities, Kubernetes events, pod log and ledger, and a sentence that says what to do.

Each source is read alone. One that does not answer is named, and the others are shown.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import EventType
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.config_file import config_path, load_tables
from cleanroom.errors import CleanRoomError, NotFound, PreconditionFailed
from cleanroom.identifiers import prepare_workflow_id, run_workflow_id
from cleanroom.settings import KubernetesSettings, load_settings
from cleanroom.temporal.failures import error_from_failure
from starters.operations.audit import list_events
from starters.operations.runs import show_run
from starters.operations.session import Session
from starters.terminal.output import with_names

if TYPE_CHECKING:
    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import Client
    from temporalio.converter import DataConverter

LOG_LINES = 40
_ACTIVITY_ENDS = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("activity_task_completed_event_attributes", "done"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("activity_task_failed_event_attributes", "failed"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("activity_task_timed_out_event_attributes", "timed out"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("activity_task_canceled_event_attributes", "cancelled"),
}
_WORKFLOW = "EVENT_TYPE_WORKFLOW_EXECUTION_"


@dataclass(frozen=True)
class Entry:
    """A line of the timeline."""

    at: dt.datetime
    source: str
    text: str


@dataclass
class Timeline:
    """What the sources said, and which of them did not answer."""

    entries: list[Entry] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    async def read(self, source: str, work: Awaitable[Iterable[Entry]]) -> None:
        """Add the entries of a source, or say why there are none."""
        try:
            self.entries += await work
        except CleanRoomError as error:
            self.missing[source] = str(error)
        except RPCError as error:
            self.missing[source] = "not found" if error.status is RPCStatusCode.NOT_FOUND else str(error.message)


async def explain_run(session: Session, run_id: str, cluster: KubernetesSettings | None) -> dict[str, Any]:
    """Return the timeline of a run, the end of its pod's log, the sources that did not answer, and a conclusion.

    Args:
        session: Session of any collaborator.
        run_id: ID of the run.
        cluster: The cluster that ran it; None if the caller has no access.

    Raises:
        NotFound: ``WorkflowNotFound`` if neither Temporal nor the ledger knows the run.
    """
    timeline, record, cause = Timeline(), None, None
    try:
        record = await show_run(session, run_id)
        client = await session.temporal()
        for name, workflow_id in (("run", run_workflow_id), ("preparation", prepare_workflow_id)):
            await timeline.read(name, _history(client, workflow_id(session.collaboration, run_id), name))
    except CleanRoomError as error:
        cause = error
        timeline.missing["Temporal"] = str(error)
    await timeline.read("ledger", _ledger(session, run_id))
    if record is None:
        from starters.operations.ledger_run import show_run_from_ledger  # imports what reads the ledger: a tenth of a second

        try:
            record = await show_run_from_ledger(session, run_id)
        except CleanRoomError:
            raise cause or PreconditionFailed("RunUnknown", f"nothing is known about run {run_id!r}.") from None
    if cluster is None:
        timeline.missing["Kubernetes"] = "no profile with the boundary spark-service in cleanroom.toml; the operator has one"
    else:
        await timeline.read("Kubernetes", asyncio.to_thread(_cluster, cluster, run_id, timeline.log))
    ordered = sorted(timeline.entries, key=lambda entry: entry.at)
    return {
        "run_id": run_id,
        "state": record["state"],
        "timeline": [
            {"at": entry.at.isoformat(timespec="milliseconds"), "source": entry.source, "what": with_names(entry.text)} for entry in ordered
        ],
        "log": timeline.log,
        "missing": {source: with_names(why) for source, why in timeline.missing.items()},
        "conclusion": conclusion(record),
    }


def conclusion(record: dict[str, Any]) -> str:
    """Say in one sentence what happened to a run and what to do, from its record (``cleanroom run show``)."""
    subject = f"Run {record['run_id']} of query {record['query']}" if record.get("query") else f"Run {record['run_id']}"
    command = f"; next: `{record['next']}`" if record.get("next") else ""
    failure = record.get("failure")
    if failure:
        meaning = f" ({failure['meaning']})" if failure.get("meaning") else ""
        act = f"; {failure['party']} must act" if failure.get("party") else ""
        hint = f": {failure['hint'].rstrip('.')}" if failure.get("hint") else ""
        return f"{subject} ended as {record['state']} with {failure['code']}: {failure['message'].rstrip('.')}{meaning}{act}{hint}{command}"
    if retrying := record.get("retrying"):
        step, error = next(iter(retrying.items()))
        return f"{subject} is {record['state']}: step {step} is repeated because of {error}{command}"
    rows = f" with {record['rows']:,} rows" if record.get("rows") is not None else ""
    return f"{subject} is {record['state']}{rows}{command}."


async def _history(client: Client, workflow_id: str, source: str) -> list[Entry]:
    events = [event async for event in client.get_workflow_handle(workflow_id).fetch_history_events()]
    converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
    return await history_entries(events, converter, source)


async def history_entries(events: Iterable[HistoryEvent], converter: DataConverter, source: str) -> list[Entry]:
    """Return start and end of a workflow and of its activities, with the failures decoded."""
    names: dict[int, str] = {}
    attempts: dict[int, int] = {}
    found: list[Entry] = []
    for event in events:
        at, kind = event.event_time.ToDatetime(dt.UTC), event.event_type
        if kind == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            found.append(Entry(at, source, f"{names[event.event_id]}: scheduled"))
        elif kind == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started = event.activity_task_started_event_attributes
            attempts[started.scheduled_event_id] = started.attempt
        elif kind in _ACTIVITY_ENDS:
            member, word = _ACTIVITY_ENDS[kind]
            attributes = getattr(event, member)
            attempt = attempts.get(attributes.scheduled_event_id, 1)
            more = f", attempt {attempt}" if attempt > 1 else ""
            why = await _failure_text(attributes, converter)
            found.append(Entry(at, source, f"{names.get(attributes.scheduled_event_id, 'activity')}: {word}{more}{why}"))
        elif (name := EventType.Name(kind)).startswith(_WORKFLOW) and not name.endswith("_SIGNALED"):
            word = name.removeprefix(_WORKFLOW).lower().replace("_", " ")
            attributes = event.workflow_execution_failed_event_attributes if word == "failed" else None
            found.append(Entry(at, source, f"workflow {word}{await _failure_text(attributes, converter)}"))
    return found


async def _failure_text(attributes: Any, converter: DataConverter) -> str:
    if attributes is None or "failure" not in attributes.DESCRIPTOR.fields_by_name or not attributes.HasField("failure"):
        return ""
    return f": {error_from_failure(await converter.decode_failure(attributes.failure))}"


async def _ledger(session: Session, run_id: str) -> list[Entry]:
    found = []
    for event in await list_events(session, run=run_id):
        data = event.data if isinstance(event.data, dict) else {}
        text = " ".join(str(part) for part in (data.get("name", event.id), data.get("message", "")) if part)
        found.append(Entry(event.at, "ledger", text))
    return found


def _cluster(settings: KubernetesSettings, run_id: str, log: list[str]) -> list[Entry]:
    """Return the events of a run's application and pods; add the end of the driver's log, without its spans, to ``log``."""
    from cleanroom.spark.kubernetes import KubernetesClient
    from cleanroom.spark.pod_spans import PREFIX

    with closing(KubernetesClient.connect(settings)) as client:
        status = client.status(_application(client, run_id))
        if status.driver_pod is not None:
            log += [line for line in _driver_log(client, status.driver_pod, LOG_LINES) if not line.startswith(PREFIX)]
        events = client.events(status.tracking_id)
    return [
        Entry(event.last_seen, "Kubernetes", f"{event.object}: {event.reason} {event.message}".strip())
        for event in events
        if event.last_seen is not None
    ]


def run_log(settings: KubernetesSettings, run_id: str, lines: int) -> list[str]:
    """Return the last lines of the log of a run's driver.

    Raises:
        NotFound: ``PodLogGone`` if the run has no job or no driver pod, or they are deleted.
    """
    from cleanroom.spark.kubernetes import KubernetesClient

    with closing(KubernetesClient.connect(settings)) as client:
        pod = client.status(_application(client, run_id)).driver_pod
        if pod is None:
            raise NotFound(
                "PodLogGone", f"run {run_id!r} has no driver pod, or it is deleted.", hint=f"See `cleanroom run explain {run_id}`."
            )
        return _driver_log(client, pod, lines)


def _application(client: Any, run_id: str) -> str:
    from cleanroom.spark.application import RUN_LABEL

    found = client.applications(f"{RUN_LABEL}={run_id}")
    if not found:
        raise NotFound(
            "PodLogGone",
            f"the cluster has no job of run {run_id!r}, or it is deleted.",
            hint=f"See `cleanroom run explain {run_id}`. `cleanroom run list` shows the runs, and `cleanroom ps` the services.",
        )
    return str(found[0]["metadata"]["name"])


def _driver_log(client: Any, pod: str, lines: int) -> list[str]:
    text = client.logs(pod, tail=lines)
    return ["".join(char for char in line if char == "\t" or char.isprintable()) for line in text.splitlines()]


def cluster_settings(config: str | None) -> KubernetesSettings | None:
    """Return the cluster of the first profile with the boundary ``spark-service``; None without one."""
    file = config_path(Path(config) if config else None)
    profiles = load_tables(file).get("profile", {}) if file is not None else {}
    name = next((name for name, values in profiles.items() if values.get("boundary") == "spark-service"), None)
    return load_settings(name, path=file).kubernetes if name is not None else None
