"""How a workflow tells its story to the Web UI: a checklist in its current details, the stage in its search attributes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import is_cancelled_exception

from cleanroom.errors import CleanRoomError
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.markdown import code, details, escape, prose

T = TypeVar("T")

# Of the fonts that every machine has: emoji are empty boxes where their font is missing.
_MARKS = {"waiting": "○", "running": "▶", "done": "✓", "failed": "✗", "skipped": "–"}


class Story:
    """Steps in the order of the diagram; each is waiting, running, done, failed or skipped."""

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
        """Await ``work`` as step ``key``; its outcome is shown whatever it is."""
        self._begin(key)
        try:
            result = await work
        except BaseException:
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
        if note:
            self._notes[key] = note
        self.show()

    def note(self, key: str, text: str) -> None:
        """A few words beside the step."""
        self._notes[key] = text
        self.show()

    def skip(self, key: str) -> None:
        self._state[key] = "skipped"

    def stage(self, name: str, *more: tuple[SearchAttributeKey[Any], Any]) -> None:
        """Set ``CrStage``, ``CrStageSince`` and ``more``; costs one event, so once a stage and not once a step."""
        self._stage = name
        pairs: list[tuple[SearchAttributeKey[Any], Any]] = [
            (attributes.STAGE, f"{self._kind}.{name}"),
            (attributes.STAGE_SINCE, workflow.now()),
            *more,
        ]
        workflow.upsert_search_attributes(attributes.updates(*pairs))

    def outcome(self, code: str) -> None:
        """Set ``CrOutcome`` at the end; what was not begun is not waited for any more."""
        self._state = {key: "skipped" if state == "waiting" else state for key, state in self._state.items()}
        workflow.upsert_search_attributes(attributes.updates((attributes.OUTCOME, code), (attributes.STAGE, f"{self._kind}.closed")))

    @asynccontextmanager
    async def report_outcome(self) -> AsyncIterator[None]:
        """Around the whole run: however it ends, ``CrOutcome`` says so."""
        try:
            yield
        except BaseException as error:
            if not is_cancelled_exception(error):
                known = error_from_failure(error)
                self.outcome(known.code)
                self.footer = failure_summary("FAILED", known)
            else:
                self.outcome("CANCELLED")
                self.footer = "**CANCELLED**"
            self.show()
            raise
        self.outcome("succeeded")
        self.footer = "**DONE**"
        self.show()

    @property
    def current_stage(self) -> str:
        return self._stage

    def lines(self) -> tuple[str, ...]:
        """The checklist as plain lines, for queries and terminals."""
        return tuple(f"{self._state[key]}: {label}{self._note(key)}" for key, label in self._labels.items())

    def _note(self, key: str) -> str:
        note = self._notes.get(key, "")
        seconds = self._seconds.get(key)
        timing = f" ({seconds:.1f} s)" if seconds is not None else ""
        return f" — {note}{timing}" if note else timing

    def show(self) -> None:
        """Write the checklist into the Web UI's current details."""
        rows = [f"- {_MARKS[self._state[key]]} {self._line(key)}" for key in self._labels]
        workflow.set_current_details(details(f"**{escape(self._title)}**", self.footer, "\n".join(rows)))

    def _line(self, key: str) -> str:
        line = escape(self._labels[key] + self._note(key))
        if self._state[key] == "running":
            # A query does not run the clock: the time since when tells a stuck step from a young one.
            return f"**{line}** — since {self._started[key]:%H:%M:%S} UTC"
        return line


def failure_summary(state: str, error: CleanRoomError) -> str:
    """How it ended, for who is woken up by it: what happened, who must act, what to do."""
    lines = [f"**{state}**: {code(error.code)} {prose(error.message, 600)}"]
    lines += [f"Who must act: **{escape(error.party)}**"] if error.party else []
    lines += [f"What to do: {prose(error.hint, 600)}"] if error.hint else []
    return "\n\n".join(lines)
