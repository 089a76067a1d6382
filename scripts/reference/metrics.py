"""The reference of metrics: the table of :mod:`cleanroom.temporal.metrics`."""

from __future__ import annotations

from cleanroom.temporal.metrics import METRICS
from scripts.reference.markdown import code, header, page, prose, table


def render() -> str:
    """The page ``docs/reference/metrics.md``."""
    rows = []
    for metric in METRICS:
        labels = ", ".join(code(label) for label in metric.labels) or "—"
        rows.append((code(metric.name), metric.kind, labels, metric.workers, prose(f"{metric.meaning}.")))
    lines = header(
        "Metrics",
        "cleanroom/temporal/metrics.py",
        "A worker with `--metrics-port` serves these metrics, and those of Temporal's SDK (`temporal_…`), at `GET /metrics`. Every metric "
        "also has the label `boundary`, and those of workflows and activities have `namespace`, `task_queue`, `workflow_type` or "
        "`activity_type`.",
        "No label names a query, a run, a dataset or a person. [Observability](../guides/observability.md) explains how to use them.",
    )
    return page([*lines, *table(("Metric", "Type", "Labels", "Workers", "Meaning"), rows)])
