"""Translates between :class:`~cleanroom.errors.CleanRoomError` and Temporal failures, in both directions.

======================  ===========================================================================================
CleanRoomError          ApplicationError
======================  ===========================================================================================
``code``                ``type`` (plain text in history, so codes never contain names or values)
``to_dict()``           ``details[0]``, redacted
``not retryable``       ``non_retryable``
``details.retryAfter``  ``next_retry_delay`` (seconds)
an expected wait        ``category=BENIGN``, so that a retryable ``PreconditionFailed`` ("not yet") raises no alarm
======================  ===========================================================================================

The Python cause is dropped: an upstream exception may quote secrets. ``CleanRoomError.cause`` has the part that may be shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import pydantic
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

from cleanroom.display_names import error_with_names
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
from cleanroom.temporal.keyring import CodecKeyUnknown, KeyringMissing
from cleanroom.upstream import from_upstream

SERVER: ContextVar[str] = ContextVar("SERVER", default="")
"""Address of the server to which this context has connected last, for errors of the connection."""
AGAIN: Final = "Then run the command again: what it has already done is not done twice."
"""End of hints for commands that lost Temporal. `tests/scenario/test_repeated_commands.py` repeats each of them."""
UNEXPECTED: Final = "UnexpectedError"
UNEXPECTED_ATTEMPTS: Final = 3
"""Attempts of an activity that raises an exception of an unknown type. Few, because retries rarely heal a bug and would hide it."""
_LONGEST_RETRY_AFTER: Final = 3600


def application_error(error: CleanRoomError) -> ApplicationError:
    """Return the failure that a workflow sees, and that history keeps, for ``error``."""
    seconds = error.details.get("retryAfter")
    delay = timedelta(seconds=seconds) if isinstance(seconds, int | float) and 0 < seconds <= _LONGEST_RETRY_AFTER else None
    expected_wait = error.retryable and isinstance(error, PreconditionFailed)
    return ApplicationError(
        redact(error.message),
        redact_details(error.to_dict()),
        type=error.code,
        non_retryable=not error.retryable,
        next_retry_delay=delay if error.retryable else None,
        category=ApplicationErrorCategory.BENIGN if expected_wait else ApplicationErrorCategory.UNSPECIFIED,
    )


def clean_room_error(error: ApplicationError) -> CleanRoomError:
    """Reverse :func:`application_error`. A failure from elsewhere becomes :class:`Internal` with its type as the code."""
    details = error.details
    if details and isinstance(details[0], Mapping) and details[0].get("category"):
        return CleanRoomError.from_dict(details[0])
    return Internal(error.type or UNEXPECTED, redact(error.message), retryable=not error.non_retryable)


def translated(error: Exception, *, attempt: int = 1, names: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return the :class:`ApplicationError` for an exception of an activity. Temporal's own failures are returned unchanged.

    Args:
        error: The exception.
        attempt: The activity's attempt. An unknown exception is not retried after :data:`UNEXPECTED_ATTEMPTS`.
        names: Names of collaborators by user ID, which people see instead.
    """
    if isinstance(error, CleanRoomError):
        return application_error(error_with_names(error, names))
    if isinstance(error, FailureError):
        return error
    known = from_upstream(error)
    if known is not None:
        return application_error(error_with_names(known, names))
    return ApplicationError(_describe(error), type=UNEXPECTED, non_retryable=attempt >= UNEXPECTED_ATTEMPTS)


def _describe(error: BaseException) -> str:
    if isinstance(error, pydantic.ValidationError):
        # Its text quotes the input.
        kinds = sorted({item["type"] for item in error.errors(include_input=False)})
        text = f"{error.error_count()} validation errors in {error.title}: {', '.join(kinds)}"
    else:
        text = str(error)
    return f"{type(error).__name__}: {redact(text)}"


def error_from_failure(error: BaseException, *, step: str = "") -> CleanRoomError:
    """Return what to show a person for anything that a Temporal call raised. Never raises.

    Wrappers such as ``WorkflowFailureError``, ``ActivityError`` and ``ChildWorkflowError`` are removed first.

    Args:
        error: The exception.
        step: Name of the activity whose failure this is, for a failure without its wrapper.
    """
    innermost, wrapper = _unwrap(error)
    wrapper = wrapper or (_activity_error(step) if step else None)
    if isinstance(innermost, CleanRoomError):
        return innermost
    for kind, mapper in _MAPPERS:
        if isinstance(innermost, kind):
            return mapper(innermost, wrapper)
    known = from_upstream(innermost) if isinstance(innermost, Exception) else None
    return known or Internal(UNEXPECTED, _describe(innermost))


def _activity_error(step: str) -> ActivityError:
    """Return the wrapper that a failure of a pending activity does not have yet."""
    return ActivityError("", scheduled_event_id=0, started_event_id=0, identity="", activity_type=step, activity_id="", retry_state=None)


def _unwrap(error: BaseException) -> tuple[BaseException, BaseException | None]:
    """Remove wrappers, and return the failure inside and its last wrapper."""
    wrapper: BaseException | None = None
    visited: set[int] = set()
    while id(error) not in visited:
        visited.add(id(error))
        cause = _wrapped(error)
        if cause is None:
            break
        wrapper, error = error, cause
    return error, wrapper


def _wrapped(error: BaseException) -> BaseException | None:
    """Return the cause of a failure that only wraps it."""
    if isinstance(error, WorkflowFailureError | WorkflowUpdateFailedError | ActivityError | ChildWorkflowError):
        return error.cause
    if isinstance(error, ApplicationError) and not error.details and error.type in (None, UNEXPECTED, "RuntimeError"):
        return error.cause
    return None


def _subject(wrapper: BaseException | None) -> str:
    if isinstance(wrapper, ActivityError):
        return f"The step {wrapper.activity_type}"
    if isinstance(wrapper, ChildWorkflowError):
        return f"The workflow {wrapper.workflow_id}"
    return "The workflow"


_TIMEOUTS: Final[Mapping[TimeoutType, tuple[str, str, str | None]]] = {
    TimeoutType.SCHEDULE_TO_START: ("NoWorker", "was not picked up by a worker in time.", "Start the worker of its task queue."),
    TimeoutType.HEARTBEAT: (
        "WorkerLost",
        "stopped sending heartbeats: its worker died or lost its connection.",
        "`cleanroom ps` shows which worker has exited; `cleanroom worker BOUNDARY` starts it again. Its log says why it died.",
    ),
    TimeoutType.START_TO_CLOSE: ("StepTimedOut", "exceeded the time limit of one attempt.", None),
    TimeoutType.SCHEDULE_TO_CLOSE: ("StepTimedOut", "did not succeed within the time limit of all attempts.", None),
}


def _timed_out(error: TimeoutError, wrapper: BaseException | None) -> CleanRoomError:
    kind = error.type or TimeoutType.START_TO_CLOSE
    code, what, hint = _TIMEOUTS[kind]
    subject = _subject(wrapper)
    if not isinstance(wrapper, ActivityError):
        # Only activities send heartbeats and wait for a worker. A failure without its wrapper still says so.
        subject = "A step"
        if kind in (TimeoutType.START_TO_CLOSE, TimeoutType.SCHEDULE_TO_CLOSE):
            code, subject, what = "WorkflowTimedOut", _subject(wrapper), "did not finish in time."
    last = error_from_failure(error.cause) if isinstance(error.cause, ApplicationError | TimeoutError) else None
    if isinstance(last, TimedOut) and last.code == "WorkerLost" and code == "StepTimedOut":
        # The last attempt ended because its worker died. That is what somebody must repair.
        code, hint = last.code, last.hint
    return TimedOut(
        code,
        f"{subject} {what}" + (f" Its last error: {last}" if last else ""),
        hint=hint or (last.hint if last else None),
        party=last.party if last else "operator",
        details={"lastError": last.to_dict()} if last else None,
    )


def _cancelled(error: BaseException, wrapper: BaseException | None) -> CleanRoomError:
    return Refused("Cancelled", f"{_subject(wrapper)} was cancelled.", retryable=False)


def _terminated(error: TerminatedError, wrapper: BaseException | None) -> CleanRoomError:
    return Refused("Terminated", f"{_subject(wrapper)} was terminated by an operator: {redact(str(error))}", party="operator")


def _already_started(error: WorkflowAlreadyStartedError, wrapper: BaseException | None) -> CleanRoomError:
    return Conflict(
        "WorkflowAlreadyStarted",
        f"A workflow with the ID {error.workflow_id} already exists.",
        details={"workflowId": error.workflow_id, "runId": error.run_id},
    )


def _query_failed(error: WorkflowQueryFailedError, wrapper: BaseException | None) -> CleanRoomError:
    return PreconditionFailed(
        "WorkflowCannotAnswer",
        "The workflow's worker runs, but cannot answer the query.",
        cause=redact(str(error)),
        hint="Check the worker's log. Its version may differ from the version of this command or of the workflow.",
        party="operator",
    )


def _query_rejected(error: WorkflowQueryRejectedError, wrapper: BaseException | None) -> CleanRoomError:
    return PreconditionFailed("WorkflowClosed", "The workflow has ended and does not answer queries.", hint="Read its result instead.")


def _temporal_timeout(cause: str | None = None) -> CleanRoomError:
    hint = f"Check with `cleanroom ps` that the workflow's worker runs. {AGAIN}"
    return Unavailable("TemporalTimeout", f"Temporal{_at_address()} did not answer in time.", cause=cause, hint=hint)


def _at_address() -> str:
    return f" at {address}" if (address := SERVER.get()) else ""


def _rpc(error: RPCError, wrapper: BaseException | None) -> CleanRoomError:
    message, status = redact(error.message), error.status
    match status:
        case RPCStatusCode.NOT_FOUND if message.startswith("Namespace "):
            hint = "Check the namespace in the Temporal profile or TEMPORAL_NAMESPACE."
            return NotFound("NamespaceNotFound", f"The Temporal namespace does not exist: {message}", hint=hint)
        case RPCStatusCode.NOT_FOUND:
            return NotFound("WorkflowNotFound", f"The workflow or namespace does not exist: {message}")
        case RPCStatusCode.PERMISSION_DENIED | RPCStatusCode.UNAUTHENTICATED:
            return Refused(
                "TemporalRefused",
                f"Temporal denied the request: {message}",
                hint="Check the credentials in the Temporal profile.",
                party="operator",
            )
        case RPCStatusCode.ALREADY_EXISTS:
            return Conflict("WorkflowAlreadyStarted", message)
        case RPCStatusCode.INVALID_ARGUMENT:
            return InvalidInput("TemporalInvalidArgument", message)
        case RPCStatusCode.FAILED_PRECONDITION if "no poller" in message:
            return Unavailable(
                "NoWorker",
                "No worker polls the workflow's task queue, so it cannot answer. The workflow continues when a worker starts.",
                cause=message,
                hint="`cleanroom ps` shows which worker has exited; `cleanroom worker BOUNDARY` starts it again.",
                party="operator",
            )
        case RPCStatusCode.FAILED_PRECONDITION if "in failed state" in message:
            return PreconditionFailed(
                "WorkflowCannotAnswer",
                "The workflow's tasks fail again and again, so it cannot answer.",
                cause=message,
                hint="`cleanroom doctor` names such workflows. The log of the workflow's worker says why.",
                party="operator",
            )
        case RPCStatusCode.FAILED_PRECONDITION:
            return PreconditionFailed("TemporalPrecondition", message)
        case RPCStatusCode.DEADLINE_EXCEEDED:
            return _temporal_timeout(message)
        case RPCStatusCode.RESOURCE_EXHAUSTED:
            return Unavailable(
                "TemporalBusy", f"Temporal{_at_address()} limits the rate of requests.", cause=message, hint=f"Wait a moment. {AGAIN}"
            )
        case _:
            return Unavailable(
                "TemporalUnavailable",
                f"Temporal{_at_address()} cannot be reached, or the connection to it broke.",
                cause=message,
                hint=f"Start the server, or check the address in the Temporal profile (locally: `cleanroom ps`). {AGAIN}",
                party="operator",
            )


def _key_unknown(error: CodecKeyUnknown, wrapper: BaseException | None) -> CleanRoomError:
    message, hint = error.args
    return PreconditionFailed("CodecKeyUnknown", message, hint=hint, party="operator", retryable=True)


def _keyring_missing(error: KeyringMissing, wrapper: BaseException | None) -> CleanRoomError:
    return PreconditionFailed(
        "CodecKeyringMissing",
        "A payload is encrypted, and this process has no codec keyring.",
        hint="Set temporal.keyring_file in the profile.",
        party="operator",
    )


_Kinds = type[BaseException] | tuple[type[BaseException], ...]
_Mapper = Callable[[Any, BaseException | None], CleanRoomError]
_MAPPERS: Final[tuple[tuple[_Kinds, _Mapper], ...]] = (
    (ApplicationError, lambda error, wrapper: clean_room_error(error)),
    (TimeoutError, _timed_out),
    ((CancelledError, asyncio.CancelledError), _cancelled),
    (TerminatedError, _terminated),
    (WorkflowAlreadyStartedError, _already_started),
    (WorkflowQueryFailedError, _query_failed),
    (WorkflowQueryRejectedError, _query_rejected),
    (RPCTimeoutOrCancelledError, lambda error, wrapper: _temporal_timeout()),
    (RPCError, _rpc),
    (CodecKeyUnknown, _key_unknown),
    (KeyringMissing, _keyring_missing),
)
"""The first matching row applies: some of these types are subclasses of later ones."""
