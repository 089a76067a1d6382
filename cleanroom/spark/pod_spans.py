"""Spans of a run's driver, which leave the pod as lines of its standard output.

The pod opens no connection for telemetry and has no OpenTelemetry code: its network reaches governance and storage only, and its image is
measured. It prints when each step began and ended, which its progress lines show to the cluster anyway. The Spark service reads the
lines after the job has ended and exports them, if it traces::

    span {"name":"write result","traceparent":"00-<trace>-<span>-01","parent":"<span>","start":<ns>,"end":<ns>,"code":null}

The cluster's operator can write such lines too, so :func:`read_spans` accepts only listed names, the run's trace and plausible times.
Nothing depends on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cleanroom.identifiers import TraceIds, run_trace

PREFIX = "span "
POD_STEPS = (
    "pod",
    "check the query",
    "check consent",
    "open datasets",
    "wait for Spark",
    "load datasets",
    "run segments",
    "compute result",
    "write result",
    "record result",
)
"""Names of the spans, in the order of the steps."""
MAX_SPANS = 64
_HEX16 = re.compile(r"[0-9a-f]{16}")
_CODE = re.compile(r"[A-Z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class PodSpan:
    """One step of the driver."""

    name: str
    span_id: int
    parent_id: int
    start: int
    """Nanoseconds since the epoch."""
    end: int
    code: str | None = None
    """The error with which the run ended. Only the span ``pod`` has one."""

    def line(self, ids: TraceIds) -> str:
        """Return the line that the pod prints."""
        value = {
            "name": self.name,
            "traceparent": f"00-{ids.trace_id:032x}-{self.span_id:016x}-01",
            "parent": f"{self.parent_id:016x}",
            "start": self.start,
            "end": self.end,
            "code": self.code,
        }
        return PREFIX + json.dumps(value, separators=(",", ":"))


def read_spans(log: str, collaboration: str, run_id: str, *, between: tuple[int, int]) -> Iterator[PodSpan]:
    """Yield the spans in a driver's log that can be those of this run.

    Args:
        log: The log.
        collaboration: ID of the collaboration.
        run_id: ID of the run.
        between: Earliest start and latest end, in nanoseconds since the epoch.
    """
    ids, found = run_trace(collaboration, run_id), 0
    for line in log.splitlines():
        span = _parse(line, ids) if line.startswith(PREFIX) else None
        if span is not None and found < MAX_SPANS and between[0] <= span.start <= span.end <= between[1]:
            found += 1
            yield span


def _parse(line: str, ids: TraceIds) -> PodSpan | None:
    try:
        value = json.loads(line.removeprefix(PREFIX))
        _, trace, span, _ = str(value["traceparent"]).split("-")
        parent, code, times = str(value["parent"]), value["code"], (value["start"], value["end"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    valid = (
        trace == f"{ids.trace_id:032x}"
        and _HEX16.fullmatch(span) is not None
        and _HEX16.fullmatch(parent) is not None
        and value["name"] in POD_STEPS
        and all(type(time) is int for time in times)
        and (code is None or (isinstance(code, str) and _CODE.fullmatch(code) is not None))
    )
    return PodSpan(value["name"], int(span, 16), int(parent, 16), *times, code) if valid else None
