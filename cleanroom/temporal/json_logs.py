"""Logs of a worker as JSON, one object per line, with what the log line is about.

::

    {"time": "2026-01-31T12:00:00.000Z", "level": "INFO", "logger": "temporalio.activity", "message": "...", "boundary": "clean-room",
     "collaboration": "...", "query": "q6", "run": "r-1", "workflow": "cr/.../run/r-1", "activity": "revoke_grants", "attempt": 2,
     "trace_id": "...", "span_id": "...", "error": {"type": "...", "frames": ["file.py:12 function", ...]}}

Members that do not apply are absent. A message passes :func:`cleanroom.redaction.redact`, and an exception appears as its type and its
frames only, because its text may quote a secret.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from cleanroom.identifiers import workflow_subject
from cleanroom.redaction import redact
from cleanroom.temporal.attributes import QUERY

_MAX_FRAMES: Final = 30
_SUBJECTS: Final = {
    "collaboration": "collaboration",
    "query": "query",
    "run_id": "run",
    "contract_id": "collaboration",
    "query_id": "query",
}
"""Member of a message to member of a log line."""
_subject: ContextVar[dict[str, str] | None] = ContextVar("cleanroom_log_subject", default=None)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    Args:
        boundary: The trust boundary of this process.
    """

    def __init__(self, boundary: str) -> None:
        super().__init__()
        self._boundary = boundary

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "boundary": self._boundary,
            **_work(),
            **_span(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-_MAX_FRAMES:]
            line["error"] = {
                "type": record.exc_info[0].__name__,
                "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            }
        return json.dumps(line, ensure_ascii=False, default=str)


def _work() -> dict[str, Any]:
    """Return what the current activity or workflow is about."""
    if activity.in_activity():
        info = activity.info()
        place: dict[str, Any] = {"workflow": info.workflow_id, "activity": info.activity_type, "attempt": info.attempt}
        return workflow_subject(info.workflow_id or "") | (_subject.get() or {}) | place
    if workflow.in_workflow():
        current = workflow.info()
        query = current.typed_search_attributes.get(QUERY)
        subject = {"query": query} if query else {}
        return subject | workflow_subject(current.workflow_id) | {"workflow": current.workflow_id}
    return {}


def _span() -> dict[str, str]:
    """Return the IDs of the current span. OpenTelemetry is not imported for it: without a span nothing has imported it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}


class LogSubject(Interceptor):
    """Worker interceptor that takes collaboration, query and run from an activity's message, for its log lines."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap the activity; called by the SDK."""
        return _WithSubject(next)


class _WithSubject(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        token = _subject.set(dict(pair for argument in input.args for pair in _members(argument)))
        try:
            return await self.next.execute_activity(input)
        finally:
            _subject.reset(token)


def _members(argument: Any) -> Iterator[tuple[str, str]]:
    """Yield the subject that a message names itself or in one of its members, such as its ticket."""
    if not isinstance(argument, BaseModel):
        return
    for name in type(argument).model_fields:
        value = getattr(argument, name)
        if isinstance(value, str) and name in _SUBJECTS:
            yield _SUBJECTS[name], value
        elif isinstance(value, BaseModel):
            yield from _members(value)


def configure_json_logging(boundary: str) -> None:
    """Send all log records to standard error as JSON, also those of the SDK, without the texts that it appends to messages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(boundary))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    activity.logger.activity_info_on_message = False
    workflow.logger.workflow_info_on_message = False
