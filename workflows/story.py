"""Shows a workflow's progress in the Temporal Web UI: a checklist as current details, the stage as search attributes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import is_cancelled_exception

from cleanroom.errors import CleanRoomError
from cleanroom.spark.causes import MEANINGS, cause_of
from cleanroom.temporal import attributes, metrics
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.markdown import code, details, escape, prose
from workflows.cancellation import ENDS

T = TypeVar("T")

# Characters that all common fonts contain. An emoji is an empty box on machines without an emoji font.
_MARKS = {"waiting": "○", "running": "▶", "done": "✓", "failed": "✗", "skipped": "–"}


class Story:
    """The steps of a workflow, in the order of its diagram. Each is waiting, running, done, failed or skipped.

    Args:
        title: Heading of the checklist.
        steps: Key and label of each step.
        kind: Prefix of the stage in the search attributes, such as ``run``.
    """

    def __init__(self, title: str, steps: dict[str, str], *, kind: str) -> None:
        self._title = title
        self._labels = dict(steps)
        self._state = dict.fromkeys(steps, "waiting")
        self._notes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._started: dict[str, datetime] = {}
        self._kind = kind
        self._stage = ""
        self.footer = ""

    async def step(self, key: str, work: Awaitable[T], *, note: str = "") -> T:
        """Await ``work`` as step ``key`` and show its outcome."""
        self._begin(key)
        try:
            result = await work
        except ENDS:
            self._end(key, "failed")
            raise
        self._end(key, "done", note)
        return result

    def _begin(self, key: str) -> None:
        self._state[key] = "running"
        self._started[key] = workflow.now()
        self.show()

    def _end(self, key: str, state: str, note: str = "") -> None:
        self._state[key] = state
        self._seconds[key] = (workflow.now() - self._started[key]).total_seconds()
        metrics.STEP_SECONDS.record(workflow.metric_meter(), self._seconds[key], kind=self._kind, step=key, result=state)
        if note:
            self._notes[key] = note
        self.show()

    def note(self, key: str, text: str) -> None:
        """Show ``text`` next to the step, from the next change of a step on."""
        self._notes[key] = text

    def skip(self, key: str) -> None:
        """Mark a step as skipped."""
        self._state[key] = "skipped"

    def stage(self, name: str, *more: tuple[SearchAttributeKey[Any], Any]) -> None:
        """Set the search attributes ``CrStage``, ``CrStageSince`` and ``more``.

        Each call adds an event to the history, so call it once per stage, not once per step.
        """
        self._stage = name
        pairs: list[tuple[SearchAttributeKey[Any], Any]] = [
            (attributes.STAGE, f"{self._kind}.{name}"),
            (attributes.STAGE_SINCE, workflow.now()),
            *more,
        ]
        workflow.upsert_search_attributes(attributes.updates(*pairs))

    def outcome(self, code: str) -> None:
        """Set the search attribute ``CrOutcome`` at the end. Steps that did not start become skipped."""
        self._state = {key: "skipped" if state == "waiting" else state for key, state in self._state.items()}
        workflow.upsert_search_attributes(attributes.updates((attributes.OUTCOME, code), (attributes.STAGE, f"{self._kind}.closed")))
        metrics.WORKFLOWS_CLOSED.add(workflow.metric_meter(), kind=self._kind, outcome=metrics.bounded("outcome", code))

    @asynccontextmanager
    async def report_outcome(self) -> AsyncIterator[None]:
        """Wrap the whole run: when the block ends or raises, set ``CrOutcome`` and the footer."""
        try:
            yield
        except ENDS as error:
            if is_cancelled_exception(error):
                self.outcome("CANCELLED")
                self.footer = "**CANCELLED**"
            else:
                known = error_from_failure(error)
                self.outcome(known.code)
                self.footer = failure_summary("FAILED", known)
            self.show()
            raise
        self.outcome("succeeded")
        self.footer = "**DONE**"
        self.show()

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each step that has ended."""
        return self._seconds

    @property
    def current_stage(self) -> str:
        """The stage that was set last."""
        return self._stage

    def lines(self) -> tuple[str, ...]:
        """Return the checklist as plain lines, for workflow queries and terminals."""
        return tuple(f"{self._state[key]}: {label}{self._note(key)}" for key, label in self._labels.items())

    def _note(self, key: str) -> str:
        note = self._notes.get(key, "")
        seconds = self._seconds.get(key)
        timing = f" ({seconds:.1f} s)" if seconds is not None else ""
        return f" — {note}{timing}" if note else timing

    def show(self) -> None:
        """Write the checklist and the footer to the workflow's current details."""
        rows = [f"- {_MARKS[self._state[key]]} {self._line(key)}" for key in self._labels]
        workflow.set_current_details(details(f"**{escape(self._title)}**", self.footer, "\n".join(rows)))

    def _line(self, key: str) -> str:
        line = escape(self._labels[key] + self._note(key))
        if self._state[key] == "running":
            # Current details are not updated while a step runs, so show its start time instead of its duration.
            return f"**{line}** — since {self._started[key]:%H:%M:%S} UTC"
        return line


def failure_summary(state: str, error: CleanRoomError) -> str:
    """Return the final summary of a failed workflow as Markdown: the error, its cause, the responsible party, the next step."""
    lines = [f"**{state}**: {code(error.code)} {prose(error.message, 600)}"]
    if cause := cause_of(error.code):
        lines.append(f"Cause: **{escape(cause.value)}**. {escape(MEANINGS[cause])}")
    lines += [f"Responsible: **{escape(error.party)}**"] if error.party else []
    lines += [f"Next step: {prose(error.hint, 600)}"] if error.hint else []
    return "\n\n".join(lines)
