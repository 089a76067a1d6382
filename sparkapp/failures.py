"""Failures of the payload: typed codes, exit codes, the termination message, and nothing that could show a value of a dataset.

Spark quotes values in its errors (a failed cast shows what it could not cast) and logs them. So every error that crosses a process
is made anew from names and types, and an error that nobody expected keeps its class and loses its text.
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
"""What the kubelet keeps of a termination message."""

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
"""Exit code for each category of :mod:`cleanroom.errors`, clear of those of shells, Python and Spark."""

_MARK = "cleanroom-failure:"
_MARKED = re.compile(_MARK + r"([A-Za-z0-9+/=]+):")
_FRAMES = re.compile(r"\s+")

T = TypeVar("T")


def failure_code(code: str) -> str:
    """The code as the pod reports it: ``SchemaMismatch`` becomes ``SCHEMA_MISMATCH``; codes in capitals stay."""
    if re.fullmatch(r"[A-Z0-9_]+", code):
        return code
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", code).upper()


class TaskFailed(Exception):
    """How a typed failure leaves a Python worker of Spark: only text survives, so the error travels as text."""


def redact_task_errors(steps: Iterator[T]) -> Iterator[T]:
    """``steps``, with every error replaced by a :class:`TaskFailed` that holds no data: Spark logs a task's traceback."""
    try:
        yield from steps
    except CleanRoomError as error:
        raise TaskFailed(_encode(error)) from None
    except GeneratorExit:
        raise
    except Exception as error:
        raise TaskFailed(_encode(_unexpected(error))) from None


def redact_error(error: BaseException) -> CleanRoomError:
    """``error`` as one of ours, without any value of a dataset in it.

    Errors of our own pass. A typed failure that a task raised is found in Spark's text. Of Spark's own errors the error condition is
    kept, and the text only where it speaks of the approved SQL and its schema. Anything else keeps its class name.
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
        f"The query failed while it ran: {condition}. Its text is withheld, because Spark quotes values.",
        hint="Make the SQL robust against such values (try_cast, try_divide …), then propose it again.",
        details={"condition": condition},
    )


def redact_for_floors(error: BaseException, job: JobConfig) -> CleanRoomError:
    """Redact ``error`` further if an owner set a privacy floor: of a failing query, only the fact that it failed remains.

    A query's author can write an expression whose error depends on the value of one row, so the kind of error would disclose the value.
    """
    failure = redact_error(error)
    if failure.code != "QueryFailed" or not job.has_floors():
        return failure
    return InvalidInput(
        "QueryFailed",
        "The query failed while it ran. Why is withheld, because an owner of its rows has set a privacy floor.",
        hint="Make the SQL robust against any value (try_cast, try_divide …), try it on rows of your own, then propose it again.",
    )


def _unexpected(error: BaseException) -> CleanRoomError:
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    where = " < ".join(reversed(places[-4:]))
    return Internal("PayloadError", f"The payload failed with {type(error).__name__} at {where}. Its text is withheld.")


def _encode(error: CleanRoomError) -> str:
    return f"{_MARK}{base64.b64encode(json.dumps(error.to_dict()).encode()).decode()}:"


def retry_transient(seconds: float, call: Callable[[], T]) -> T:
    """``call``, repeated with growing pauses while it fails with a retryable error of ours, for at most ``seconds``."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, CleanRoomError) and error.retryable),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
        stop=tenacity.stop_after_delay(seconds),
        reraise=True,
    )(call)


def report_failure(error: CleanRoomError, facts: dict[str, Any]) -> int:
    """Write the termination message and return the exit code.

    The message is the JSON of :meth:`CleanRoomError.to_dict` with the pod's spelling of the code, and ``facts`` among its details.
    """
    value = {**error.to_dict(), "code": failure_code(error.code), "details": {**error.details, **facts}}
    write_termination(value)
    return EXIT_CODES.get(error.category, EXIT_CODES["internal"])


def write_termination(value: dict[str, Any]) -> None:
    """Write a termination message, shortened member by member until the kubelet keeps all of it. Not writing it fails nothing."""
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
