"""Failures of the payload: codes, exit codes, the termination message, and the redaction of values.

Spark's errors quote values (a failed cast shows the value), and Spark logs them. Therefore every error that leaves
a process is rebuilt from names and types. An unexpected error keeps its class and loses its text.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from cleanroom.errors import CleanRoomError, Internal, InvalidInput
from cleanroom.spark.job import JobConfig

TERMINATION_LOG_VARIABLE = "CLEANROOM_TERMINATION_LOG"
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
TERMINATION_BYTES = 4096
"""The kubelet keeps this many bytes of a termination message."""

EXIT_CODES = {
    "invalid-input": 10,
    "not-found": 11,
    "refused": 12,
    "conflict": 13,
    "precondition": 14,
    "unavailable": 15,
    "timed-out": 16,
    "internal": 17,
}
"""Exit code per category of :mod:`cleanroom.errors`. Shells, Python and Spark use other codes."""

_MARK = "cleanroom-failure:"
_MARKED = re.compile(_MARK + r"([A-Za-z0-9+/=]+):")
_FRAMES = re.compile(r"\s+")

T = TypeVar("T")


def failure_code(code: str) -> str:
    """Return the code in the pod's notation: ``SchemaMismatch`` becomes ``SCHEMA_MISMATCH``. Upper-case codes stay."""
    if re.fullmatch(r"[A-Z0-9_]+", code):
        return code
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", code).upper()


class TaskFailed(Exception):
    """A typed failure that leaves a Python worker of Spark. Only text survives, so the message contains the encoded error."""


def redact_task_errors(steps: Iterator[T], *, dataset: str | None = None) -> Iterator[T]:
    """Yield ``steps``; replace every error by a :class:`TaskFailed` without data, because Spark logs a task's traceback.

    Args:
        steps: The task's work.
        dataset: The dataset that the task reads, if any; see :func:`unread_dataset`.
    """
    try:
        yield from steps
    except Exception as error:
        raise TaskFailed(encode_failure(error, dataset=dataset)) from None


def unread_dataset(error: BaseException) -> str | None:
    """Return the name of the dataset that a task failed to read, or None if ``error`` is another failure."""
    marked = _MARKED.search(str(error))
    return json.loads(base64.b64decode(marked[1])).get("dataset") if marked else None


def redact_error(error: BaseException) -> CleanRoomError:
    """Return ``error`` as a :class:`CleanRoomError` without any value of a dataset.

    A :class:`CleanRoomError` is returned unchanged. A typed failure of a task is decoded from Spark's text. Of
    Spark's own errors, the error condition remains, and the text only if it is about the approved SQL and its
    schema. Of other errors, the class name remains.
    """
    if isinstance(error, CleanRoomError):
        return error
    text = str(error)
    if marked := _MARKED.search(text):
        return CleanRoomError.from_dict(json.loads(base64.b64decode(marked[1])))
    return _spark_error(error) or _unexpected(error)


def _spark_error(error: BaseException) -> CleanRoomError | None:
    from pyspark.errors import AnalysisException, ParseException, PySparkException

    if not isinstance(error, PySparkException):
        return None
    condition = error.getCondition() or type(error).__name__
    if isinstance(error, AnalysisException | ParseException):
        first = _FRAMES.sub(" ", str(error).split(";")[0].split("\n")[0])[:400]
        return InvalidInput("QueryInvalid", f"Spark refused the query: {first}", details={"condition": condition})
    return InvalidInput(
        "QueryFailed",
        f"The query failed at run time: {condition}. The message is withheld, because Spark quotes values.",
        hint="Make the SQL robust against such values (try_cast, try_divide ...), then propose the query again.",
        details={"condition": condition},
    )


def redact_for_floors(error: BaseException, job: JobConfig) -> CleanRoomError:
    """Redact ``error`` further if an owner set a privacy floor: of a failing query, only the fact that it failed remains.

    A query's author can write an expression whose error depends on the value of one row, so the kind of error would
    disclose the value.
    """
    failure = redact_error(error)
    if failure.code != "QueryFailed" or not job.has_floors():
        return failure
    return InvalidInput(
        "QueryFailed",
        "The query failed at run time. The reason is withheld, because an owner has set a privacy floor.",
        hint="Make the SQL robust against any value (try_cast, try_divide ...), test it on your own rows, then propose the query again.",
    )


def _unexpected(error: BaseException) -> CleanRoomError:
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    where = " < ".join(reversed(places[-4:]))
    return Internal("PayloadError", f"The payload failed with {type(error).__name__} at {where}. The message is withheld.")


def encode_failure(error: Exception, *, dataset: str | None) -> str:
    """Return ``error`` without data as text, from which :func:`redact_error` restores it. See :func:`redact_task_errors`."""
    failure = error if isinstance(error, CleanRoomError) else _unexpected(error)
    value = {**failure.to_dict(), "dataset": dataset}
    return f"{_MARK}{base64.b64encode(json.dumps(value).encode()).decode()}:"


def retry_transient(seconds: float, call: Callable[[], T]) -> T:
    """Call ``call`` and retry retryable errors with exponential backoff, for at most ``seconds``.

    A service that asks to wait longer than the backoff is asked again after that time, and not at all if it exceeds ``seconds``.
    """
    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=15)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, CleanRoomError) and error.retryable),
        wait=lambda state: max(backoff(state), _asked_wait(state)),
        stop=lambda state: tenacity.stop_after_delay(seconds)(state) or _asked_wait(state) > seconds,
        reraise=True,
    )(call)


def _asked_wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds of ``Retry-After`` in the last error, or 0."""
    error = state.outcome.exception() if state.outcome else None
    wait = error.details.get("retryAfter") if isinstance(error, CleanRoomError) else None
    return float(wait) if isinstance(wait, int | float) else 0.0


def report_failure(error: CleanRoomError, facts: dict[str, Any]) -> int:
    """Write the termination message and return the exit code.

    Args:
        error: The failure, already redacted. Its code is written in the pod's notation.
        facts: Added to the error's details.
    """
    value = {**error.to_dict(), "code": failure_code(error.code), "details": {**error.details, **facts}}
    write_termination(value)
    return EXIT_CODES.get(error.category, EXIT_CODES["internal"])


def write_termination(value: dict[str, Any]) -> None:
    """Write ``value`` as the termination message. A failure to write it is ignored.

    Members are shortened one by one until the kubelet keeps the whole message.
    """
    shorten: list[Callable[[dict[str, Any]], object]] = [
        lambda item: item.pop("cause", None),
        lambda item: item.update(objects=[]) if "objects" in item else None,
        lambda item: item.pop("details", None),
        lambda item: item.update(message=str(item.get("message", ""))[:1000]),
    ]
    text = json.dumps(value, ensure_ascii=False)
    for step in shorten:
        if len(text.encode()) <= TERMINATION_BYTES:
            break
        step(value)
        text = json.dumps(value, ensure_ascii=False)
    with contextlib.suppress(OSError):
        Path(os.environ.get(TERMINATION_LOG_VARIABLE) or DEFAULT_TERMINATION_LOG).write_text(text, "utf-8")
