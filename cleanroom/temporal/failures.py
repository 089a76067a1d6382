"""The one translator between :class:`~cleanroom.errors.CleanRoomError` and Temporal failures, both ways.

======================  ===========================================================================================
CleanRoomError          ApplicationError
======================  ===========================================================================================
``code``                ``type`` (plain text in history, so codes never hold names or values)
``to_dict()``           ``details[0]``, redacted
``not retryable``       ``non_retryable``
``details.retryAfter``  ``next_retry_delay`` (seconds)
an expected wait        ``category=BENIGN``: a retryable ``PreconditionFailed`` ("not yet"); it is no alarm
======================  ===========================================================================================

Causes are cut off: an upstream exception may quote anything, and what may be told of it is in ``CleanRoomError.cause``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from temporalio.client import (
    RPCTimeoutOrCancelledError,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from cleanroom.errors import (
    CleanRoomError,
    Conflict,
    Internal,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Refused,
    TimedOut,
    Unavailable,
)
from cleanroom.redaction import redact, redact_details
from cleanroom.upstream import from_upstream

UNEXPECTED = "UnexpectedError"
UNEXPECTED_ATTEMPTS = 3
"""An exception that nobody foresaw is tried this often in all: a bug rarely heals, and must not hide behind retries."""


def application_error(error: CleanRoomError) -> ApplicationError:
    """The failure that a workflow sees, and history keeps, for ``error``."""
    value = redact_details(error.to_dict())
    delay = error.details.get("retryAfter")
    return ApplicationError(
        redact(error.message),
        value,
        type=error.code,
        non_retryable=not error.retryable,
        next_retry_delay=timedelta(seconds=float(delay))
        if isinstance(delay, int | float) and 0 < delay <= 3600 and error.retryable
        else None,
        category=ApplicationErrorCategory.BENIGN
        if error.retryable and isinstance(error, PreconditionFailed)
        else ApplicationErrorCategory.UNSPECIFIED,
    )


def clean_room_error(error: ApplicationError) -> CleanRoomError:
    """The reverse of :func:`application_error`; a failure that is not ours becomes :class:`Internal` with its type as the code."""
    details = error.details
    if details and isinstance(details[0], Mapping) and details[0].get("category"):
        return CleanRoomError.from_dict(details[0])
    return Internal(error.type or UNEXPECTED, redact(error.message), retryable=not error.non_retryable)


def translated(error: Exception, *, attempt: int = 1) -> Any:
    """The :class:`ApplicationError` for whatever an activity raised. Cancellation and Temporal's own failures pass unchanged."""
    if isinstance(error, CleanRoomError):
        return application_error(error)
    if isinstance(error, FailureError) or type(error).__name__ == "_CompleteAsyncError":
        return error
    known = from_upstream(error)
    if known is not None:
        return application_error(known)
    return ApplicationError(
        f"{type(error).__name__}: {redact(_text(error))}",
        type=UNEXPECTED,
        non_retryable=attempt >= UNEXPECTED_ATTEMPTS,
    )


def _text(error: BaseException) -> str:
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        # Its text quotes the input.
        kinds = sorted({item["type"] for item in error.errors(include_input=False)})
        return f"{error.error_count()} validation errors in {error.title}: {', '.join(kinds)}"
    return str(error)


_Handler = Callable[[Any], CleanRoomError]


def error_from_failure(error: BaseException) -> CleanRoomError:
    """What to show a person for anything that a Temporal call raised: the innermost cause that says something.

    Unwraps ``WorkflowFailureError``, ``WorkflowUpdateFailedError``, ``ActivityError``, ``ChildWorkflowError``, ``ApplicationError``,
    ``TimeoutError``,
    ``CancelledError``, ``TerminatedError``; maps ``RPCError`` by its status. Never raises.
    """
    seen = 0
    wrapper: BaseException | None = None
    while seen < 100:
        seen += 1
        if isinstance(error, CleanRoomError):
            return error
        if isinstance(error, ApplicationError):
            if error.cause is not None and not error.details and error.type in (None, UNEXPECTED, "RuntimeError") and seen < 100:
                wrapper, error = error, error.cause
                continue
            return clean_room_error(error)
        if (
            isinstance(error, WorkflowFailureError | WorkflowUpdateFailedError | ActivityError | ChildWorkflowError)
            and (cause := error.cause) is not None
        ):
            wrapper, error = error, cause
            continue
        break
    if isinstance(error, TimeoutError):
        return _timed_out(error, wrapper)
    if isinstance(error, CancelledError | asyncio.CancelledError):
        return Refused("Cancelled", _where(wrapper) + "was cancelled.", retryable=False)
    if isinstance(error, TerminatedError):
        return Refused("Terminated", _where(wrapper) + f"was terminated by an operator: {redact(str(error))}", party="operator")
    if isinstance(error, WorkflowAlreadyStartedError):
        return Conflict(
            "WorkflowAlreadyStarted",
            f"A workflow with the id {error.workflow_id} exists already.",
            details={"workflowId": error.workflow_id, "runId": error.run_id},
        )
    if isinstance(error, WorkflowQueryFailedError):
        return PreconditionFailed(
            "WorkflowCannotAnswer",
            "The workflow's worker runs and cannot answer for it.",
            cause=redact(str(error)),
            hint="Is it of another version than this command or than the workflow? Its log says why.",
            party="operator",
        )
    if isinstance(error, WorkflowQueryRejectedError):
        return PreconditionFailed("WorkflowClosed", "The workflow is closed and answers no more queries.")
    if isinstance(error, RPCTimeoutOrCancelledError):
        return Unavailable(
            "TemporalTimeout", "Temporal did not answer in time.", hint="Does the workflow's worker run? `cleanroom ps` shows it."
        )
    if isinstance(error, RPCError):
        return _rpc(error)
    if type(error).__name__ == "KeyringMissing":
        return PreconditionFailed("CodecKeyringMissing", f"{error}.".capitalize(), party="operator")
    known = from_upstream(error) if isinstance(error, Exception) else None
    return known or Internal(UNEXPECTED, f"{type(error).__name__}: {redact(_text(error))}")


def _where(wrapper: BaseException | None) -> str:
    if isinstance(wrapper, ActivityError):
        return f"The step {wrapper.activity_type} "
    if isinstance(wrapper, ChildWorkflowError):
        return f"The workflow {wrapper.workflow_id} "
    return "The workflow "


def _timed_out(error: TimeoutError, wrapper: BaseException | None) -> CleanRoomError:
    meaning = {
        TimeoutType.SCHEDULE_TO_START: ("NoWorker", "was not picked up by any worker in time.", "Start the worker of its task queue."),
        TimeoutType.HEARTBEAT: (
            "WorkerLost",
            "stopped reporting: its worker died or lost its connection.",
            "Look at the worker's log and start it again.",
        ),
        TimeoutType.START_TO_CLOSE: ("StepTimedOut", "took longer than one attempt may take.", None),
        TimeoutType.SCHEDULE_TO_CLOSE: ("StepTimedOut", "did not succeed within all the time that its attempts have.", None),
    }
    code, what, hint = meaning.get(error.type or TimeoutType.START_TO_CLOSE, ("WorkflowTimedOut", "did not finish in time.", None))
    if not isinstance(wrapper, ActivityError):
        code, what = ("WorkflowTimedOut", "did not finish in time.")
    cause = error.cause
    inner = error_from_failure(cause) if isinstance(cause, ApplicationError) else None
    return TimedOut(
        code,
        _where(wrapper) + what + (f" Its last error: {inner}" if inner else ""),
        hint=hint or (inner.hint if inner else None),
        party=inner.party if inner else "operator",
        details={"lastError": inner.to_dict()} if inner else None,
    )


def _rpc(error: RPCError) -> CleanRoomError:
    message = redact(error.message)
    status = error.status
    if status == RPCStatusCode.NOT_FOUND and message.startswith("Namespace "):
        return NotFound(
            "NamespaceNotFound",
            f"Temporal has no such namespace: {message}",
            hint="Check the namespace in the Temporal profile or TEMPORAL_NAMESPACE.",
        )
    if status == RPCStatusCode.NOT_FOUND:
        return NotFound("WorkflowNotFound", f"Temporal knows no such workflow or namespace: {message}")
    if status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return Refused("TemporalRefused", f"Temporal refused the call: {message}", party="operator")
    if status == RPCStatusCode.ALREADY_EXISTS:
        return Conflict("WorkflowAlreadyStarted", message)
    if status == RPCStatusCode.INVALID_ARGUMENT:
        return InvalidInput("TemporalInvalidArgument", message)
    if status == RPCStatusCode.FAILED_PRECONDITION and "no poller" in message:
        return Unavailable(
            "NoWorker",
            "No worker serves this workflow's task queue, so that it cannot be asked. It goes on as soon as one does.",
            cause=message,
            hint="`cleanroom ps` names the worker that has exited; `cleanroom worker BOUNDARY` starts it again.",
            party="operator",
        )
    if status == RPCStatusCode.FAILED_PRECONDITION:
        return PreconditionFailed("TemporalPrecondition", message)
    if status == RPCStatusCode.DEADLINE_EXCEEDED:
        return Unavailable(
            "TemporalTimeout",
            "Temporal did not answer in time.",
            cause=message,
            hint="Does the workflow's worker run? `cleanroom ps` shows it.",
        )
    return Unavailable(
        "TemporalUnavailable",
        "Temporal could not be reached.",
        cause=message,
        hint="Check the address in the Temporal profile; locally, `cleanroom ps` shows whether it runs.",
    )
