"""The events of a workflow's history that a diagram can show."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import WorkflowSerializationContext

from cleanroom.temporal.attributes import APPROVED_BY, DIGEST, PENDING_FOR, STAGE
from cleanroom.temporal.codec import PayloadCodec
from tests.histories import recorded_history, recorded_keyring


@dataclass(frozen=True)
class Event:
    """An activity with its task queue; ``start``, ``child``, ``update`` or ``signal`` with a name; or a state of a query."""

    what: str
    queue: str = ""
    item: str = ""
    """Which item of a loop an activity is for: a dataset."""

    def plain(self) -> Event:
        """The event without its item."""
        return Event(self.what, self.queue)

    def __str__(self) -> str:
        return f"{self.what}{f' on {self.queue}' if self.queue else ''}{f' for {self.item}' if self.item else ''}"


async def recorded_events(name: str) -> list[Event]:
    """Return the events of a recorded history."""
    return await events_of(recorded_history(name), PayloadCodec(recorded_keyring()), "default")


async def events_of(history: WorkflowHistory, codec: PayloadCodec, namespace: str) -> list[Event]:
    """Return the events in the order in which the workflow caused or received them."""
    bound = codec.with_context(WorkflowSerializationContext(namespace=namespace, workflow_id=history.workflow_id))
    found: list[Event] = []
    shown: dict[str, Any] = {}
    for item in history.events:
        if item.HasField("upsert_workflow_search_attributes_event_attributes"):
            before, shown = shown, shown | _search_attributes(item)
            if PENDING_FOR.name in shown and any(before.get(name) != shown[name] for name in _STATE):
                found.append(_state(shown))
        elif (event := await _event(item, bound)) is not None:
            found.append(event)
    return found


async def _event(event: HistoryEvent, codec: PayloadCodec) -> Event | None:
    match event.WhichOneof("attributes"):
        case "workflow_execution_started_event_attributes":
            return Event(f"start {event.workflow_execution_started_event_attributes.workflow_type.name}")
        case "start_child_workflow_execution_initiated_event_attributes":
            return Event(f"child {event.start_child_workflow_execution_initiated_event_attributes.workflow_type.name}")
        case "workflow_execution_signaled_event_attributes":
            return Event(f"signal {event.workflow_execution_signaled_event_attributes.signal_name}")
        case "workflow_execution_update_accepted_event_attributes":
            return Event(f"update {event.workflow_execution_update_accepted_event_attributes.accepted_request.input.name}")
        case "activity_task_scheduled_event_attributes":
            scheduled = event.activity_task_scheduled_event_attributes
            (payload,) = await codec.decode(list(scheduled.input.payloads))
            return Event(scheduled.activity_type.name, scheduled.task_queue.name, _item(json.loads(payload.data)))
    return None


_STATE = (STAGE.name, DIGEST.name, PENDING_FOR.name, APPROVED_BY.name)


def _search_attributes(event: HistoryEvent) -> dict[str, Any]:
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    return {name: json.loads(payload.data) if payload.data else None for name, payload in fields.items()}


def _state(attributes: dict[str, Any]) -> Event:
    """The state of a query, as its search attributes show it."""
    pending, accepted = (", ".join(attributes[name] or ()) for name in (PENDING_FOR.name, APPROVED_BY.name))
    return Event(f"{attributes[STAGE.name]}, pending: {pending}; accepted: {accepted}")


def _item(input: dict[str, Any]) -> str:
    """The dataset whose secrets an activity of the Prepare Phase is for."""
    names = {item.get("dataset") for item in (input, *input.get("secrets", ())) if isinstance(item.get("dataset"), str)}
    return ", ".join(sorted(names))
