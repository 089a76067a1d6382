"""The metrics of the workers: names, labels and units in one table, and how workflows and activities record them.

Workflows record with ``workflow.metric_meter()``, which is silent during a replay, and activities with ``activity.metric_meter()``. The
SDK's runtime exports them, with its own metrics, at the worker's Prometheus endpoint (:mod:`cleanroom.temporal.telemetry`).

A label has few values: kinds, steps, stages, error codes, collaborators. It is never the name of a query or run, an ID, or a text that
a sender of messages chooses (:func:`bounded`). A metric never contains a row count of a dataset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from temporalio.common import MetricMeter

Kind = Literal["counter", "gauge", "histogram"]
_MAX_VALUES: Final = 400
"""Most values that one process reports per label. The error codes of this project are about 300."""
OTHER: Final = "other"
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True)
class Metric:
    """One metric, as a scrape shows it except for the suffixes ``_bucket``, ``_sum`` and ``_count`` of a histogram."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    workers: str
    """The workers that export it."""
    meaning: str
    buckets: Sequence[float] = ()

    @property
    def recorded_name(self) -> str:
        """The name without the suffix that the exporter adds to a counter."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    def add(self, meter: MetricMeter, value: int = 1, **labels: str) -> None:
        """Increase a counter."""
        meter.create_counter(self.recorded_name, self.meaning).add(value, self._labels(labels))

    def set(self, meter: MetricMeter, value: float, **labels: str) -> None:
        """Set a gauge."""
        meter.create_gauge_float(self.recorded_name, self.meaning).set(value, self._labels(labels))

    def record(self, meter: MetricMeter, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        meter.create_histogram_float(self.recorded_name, self.meaning).record(value, self._labels(labels))

    def _labels(self, labels: dict[str, str]) -> dict[str, str]:
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {sorted(labels)}")
        return labels


STEP_SECONDS: Final = Metric(
    "cleanroom_step_seconds",
    "histogram",
    ("kind", "step", "result"),
    "frontend, clean-room",
    "Duration of a step of a workflow in seconds",
    (0.1, 0.5, 1, 2.5, 5, 10, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 6 * _HOUR),
)
PROPOSAL_SECONDS: Final = Metric(
    "cleanroom_proposal_seconds",
    "histogram",
    ("result",),
    "frontend",
    "Time from the proposal of a query to its approval or to another end, in seconds",
    (_MINUTE, 10 * _MINUTE, _HOUR, 4 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY),
)
WORKFLOWS_CLOSED: Final = Metric(
    "cleanroom_workflows_closed_total",
    "counter",
    ("kind", "outcome"),
    "frontend, clean-room",
    "Workflows that ended, by success or the code of the error",
)
ACTIVITY_FAILURES: Final = Metric(
    "cleanroom_activity_failures_total",
    "counter",
    ("code",),
    "all",
    "Attempts of activities that failed, by the code of the error; without expected waits",
)
CLEANUP_FAILURES: Final = Metric(
    "cleanroom_cleanup_failures_total",
    "counter",
    ("code",),
    "clean-room",
    "Steps of the end of a run that failed: access may be left behind",
)
CONSENT_WITHDRAWN: Final = Metric(
    "cleanroom_consent_withdrawn_total",
    "counter",
    (),
    "clean-room",
    "Runs that were stopped because an approver withdrew consent",
)
KEY_RELEASES: Final = Metric(
    "cleanroom_key_releases_total",
    "counter",
    ("source",),
    "clean-room",
    "Dataset secrets that were released to the clean room, from key-vault or governance",
)
GRANTS: Final = Metric(
    "cleanroom_grants_total",
    "counter",
    ("change",),
    "clean-room",
    "Grants to pods of runs that the clean room made or revoked in governance",
)
GOVERNANCE_WAIT_SECONDS: Final = Metric(
    "cleanroom_governance_wait_seconds",
    "histogram",
    (),
    "all",
    "Time in seconds until governance showed this worker what another worker had seen",
    (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)
APPROVALS_PENDING: Final = Metric(
    "cleanroom_approvals_pending",
    "gauge",
    ("approver", "age"),
    "frontend",
    "Proposed queries that wait for an approver, by the time since the proposal",
)
OLDEST_APPROVAL_SECONDS: Final = Metric(
    "cleanroom_approvals_oldest_seconds",
    "gauge",
    ("approver",),
    "frontend",
    "Age in seconds of the oldest proposal that waits for an approver; 0 if none does",
)
RUNS_OPEN: Final = Metric("cleanroom_runs_open", "gauge", ("stage",), "frontend", "Runs that have not ended, by stage")
RUNS_STUCK: Final = Metric(
    "cleanroom_runs_stuck", "gauge", ("stage",), "frontend", "Runs that have been in their stage for longer than the stage can take"
)
GRANTS_OUTSTANDING: Final = Metric(
    "cleanroom_grants_outstanding",
    "gauge",
    ("run",),
    "clean-room",
    "Grants to pods in governance after the latest cleanup: of open runs, of ended ones, and of no known run",
)
RUNS_NOT_CONCLUDED: Final = Metric(
    "cleanroom_runs_not_concluded",
    "gauge",
    (),
    "frontend",
    "Runs that ended without revoking their grants (terminated, timed out, failed cleanup) and were not concluded since",
)
VISIBILITY_AGE_SECONDS: Final = Metric(
    "cleanroom_visibility_age_seconds",
    "gauge",
    (),
    "frontend",
    "Time in seconds since approvals and runs were last read from Temporal's visibility store",
)

METRICS: Final = (
    STEP_SECONDS,
    PROPOSAL_SECONDS,
    WORKFLOWS_CLOSED,
    ACTIVITY_FAILURES,
    CLEANUP_FAILURES,
    CONSENT_WITHDRAWN,
    KEY_RELEASES,
    GRANTS,
    GOVERNANCE_WAIT_SECONDS,
    APPROVALS_PENDING,
    OLDEST_APPROVAL_SECONDS,
    RUNS_OPEN,
    RUNS_STUCK,
    GRANTS_OUTSTANDING,
    RUNS_NOT_CONCLUDED,
    VISIBILITY_AGE_SECONDS,
)
"""All metrics of this project. docs/guides/observability.md shows the same table."""

_seen: dict[str, set[str]] = {}


def bounded(label: str, value: str) -> str:
    """Return ``value``, or ``other`` if it is not a code or this process has reported too many values of the label.

    Codes come from error messages that other processes send, so their number is not bounded by this project's code.
    """
    known = _seen.setdefault(label, set())
    if value in known:
        return value
    if len(known) >= _MAX_VALUES or not _CODE.fullmatch(value):
        return OTHER
    known.add(value)
    return value
