"""Workflows that send a text on every path that payloads take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from cleanroom.errors import Refused
    from cleanroom.temporal.retries import STANDARD
    from tests.codec_models import Note


@activity.defn
async def echo(note: Note) -> Note:
    """Send a heartbeat, then return the note with its number increased."""
    activity.heartbeat(note)
    return Note(text=note.text, number=note.number + 1)


@activity.defn
async def refuse(note: Note) -> None:
    """Fail with the text in every member of the error."""
    try:
        raise ValueError(note.text)
    except ValueError as error:
        raise Refused("NoteRefused", f"refused: {note.text}", cause=note.text, details={"note": note.text}) from error


@activity.defn
async def resume(note: Note) -> list[Any]:
    """Send a heartbeat and fail at the first attempt; return its details at the second."""
    if activity.info().attempt == 1:
        activity.heartbeat(note)
        raise ApplicationError("once", type="Once", next_retry_delay=timedelta(milliseconds=1))
    return list(activity.info().heartbeat_details)


@workflow.defn
class Child:
    """Waits for one signal and returns it with its input."""

    def __init__(self) -> None:
        self.heard: Note | None = None

    @workflow.run
    async def run(self, note: Note) -> list[Note]:
        await workflow.wait_condition(lambda: self.heard is not None)
        assert self.heard is not None
        return [note, self.heard]

    @workflow.signal
    def hear(self, note: Note) -> None:
        self.heard = note


@workflow.defn
class Everything:
    """Uses every path: input, signal, update, query, memo, summaries, details, activities, heartbeat details, children, continue-as-new."""

    @workflow.init
    def __init__(self, note: Note) -> None:
        self.notes: list[Note] = []
        self.done = False

    @workflow.run
    async def run(self, note: Note) -> dict[str, Any]:
        workflow.set_current_details(f"details {note.text}")
        workflow.upsert_memo({"later": note.text})
        if note.number == 0:
            echoed = await workflow.execute_activity(echo, note, **STANDARD.config(f"summary {note.text}"))
            await workflow.sleep(0.001, summary=f"timer {note.text}")
            await workflow.wait_condition(lambda: self.done)
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(Note(text=note.text, number=echoed.number))
        local = await workflow.execute_local_activity(echo, note, start_to_close_timeout=timedelta(seconds=5))
        resumed = await workflow.execute_activity(resume, note, **STANDARD.config())
        child = await workflow.start_child_workflow(
            Child.run, note, id=f"{workflow.info().workflow_id}-child", static_summary=f"child {note.text}", memo={"child": note.text}
        )
        await child.signal(Child.hear, Note(text=note.text, number=7))
        heard = await child
        return {
            "memo": workflow.memo_value("later", type_hint=str),
            "started": workflow.memo_value("started", type_hint=str),
            "local": local.number,
            "resumed": resumed,
            "heard": [item.model_dump() for item in heard],
        }

    @workflow.signal
    def note(self, note: Note) -> None:
        self.notes.append(note)

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.update
    async def add(self, note: Note) -> int:
        self.notes.append(note)
        return len(self.notes)

    @add.validator
    def _check(self, note: Note) -> None:
        if note.number < 0:
            raise Refused("NoteRefused", f"negative: {note.text}")

    @workflow.query
    def all_notes(self, note: Note) -> list[Note]:
        return [note, *self.notes]


@workflow.defn
class Failing:
    """Fails with the error of an activity, or of the workflow."""

    @workflow.run
    async def run(self, note: Note) -> None:
        if note.number == 0:
            await workflow.execute_activity(refuse, note, **STANDARD.config())
        if note.number == 1:
            raise Refused("NoteRefused", f"own: {note.text}", details={"note": note.text})
        if note.number == 2:
            await workflow.execute_child_workflow(Failing.run, Note(text=note.text), id=f"{workflow.info().workflow_id}-child")


@workflow.defn
class Waiting:
    """Calls a step whose result another client tries to forge, and waits for signals."""

    @workflow.init
    def __init__(self, note: Note) -> None:
        self.heard: list[Note] = []

    @workflow.run
    async def run(self, note: Note) -> list[Note]:
        await workflow.wait_condition(lambda: len(self.heard) >= note.number)
        return self.heard

    @workflow.signal
    def hear(self, note: Note) -> None:
        if note.number < 0:
            raise Refused("NoteRefused", "negative")
        self.heard.append(note)

    @workflow.update
    async def tell(self, note: Note) -> int:
        self.heard.append(note)
        return len(self.heard)

    @workflow.query
    def count(self) -> int:
        return len(self.heard)


WORKFLOWS = [Everything, Child, Failing, Waiting]
ACTIVITIES = [echo, refuse, resume]
