"""One activity that answers every activity of the product by its name, for workers that run the real workflows on a real server."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from temporalio import activity
from temporalio.common import RawValue

from cleanroom.temporal.converter import CleanRoomPayloadConverter

LATER: Final = "answered later by the test"
"""An answer that the test gives with an asynchronous activity handle. Such an activity sends no heartbeats."""
UNTIL_CANCELLED: Final = "runs until its cancellation"
"""An answer of an activity that runs until its cancellation is requested, and then ends as cancelled."""


def plain(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return answers as JSON values, for workers of another release."""
    convert = CleanRoomPayloadConverter().to_payload
    return {name: json.loads(convert(value).data) if isinstance(value, BaseModel) else value for name, value in answers.items()}


def answering(answers: Mapping[str, Any], types: Mapping[tuple[str, bool], Any] | None = None) -> Callable[..., Any]:
    """Return the activity.

    Args:
        answers: By name of an activity: its result, an exception to raise, :data:`LATER`, :data:`UNTIL_CANCELLED`, a function of the
            argument that may be asynchronous, or a list of these for one call after another, whose last one stays.
        types: Type of the argument of each activity, and whether it runs on a collaborator's queue; without it, arguments are JSON.
    """
    left = {name: list(value) if isinstance(value, list) else [value] for name, value in answers.items()}

    @activity.defn(dynamic=True)
    async def answer(arguments: Sequence[RawValue]) -> Any:
        queue = left[activity.info().activity_type]
        found = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(found):
            info = activity.info()
            own = info.task_queue.startswith("collaborator.")
            hint = (types or {}).get((info.activity_type, own)) or (types or {}).get((info.activity_type, False))
            found = found(activity.payload_converter().from_payload(arguments[0].payload, hint))
        if inspect.isawaitable(found):
            found = await found
        if found == LATER:
            activity.raise_complete_async()
        if found == UNTIL_CANCELLED:
            await activity.wait_for_cancelled()
            raise asyncio.CancelledError
        if isinstance(found, BaseException):
            raise found
        return found

    return answer
