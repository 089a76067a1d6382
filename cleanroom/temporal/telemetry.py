"""The SDK runtime of a process: the Prometheus endpoint of a worker, and the logs of the SDK's core."""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from temporalio.runtime import LogForwardingConfig, LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter

from cleanroom.errors import PreconditionFailed
from cleanroom.temporal.metrics import METRICS

BOUNDARY_LABEL: Final = "boundary"
"""Label of every metric of a worker, also of the SDK's: the trust boundary."""


@cache
def command_runtime() -> Runtime:
    """Return the runtime of commands. The SDK's core logs nothing, because commands print the errors of requests themselves."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


def worker_runtime(boundary: str, *, metrics_address: str | None = None, forward_logs: bool = False) -> Runtime:
    """Create the runtime of a worker process.

    Args:
        boundary: The trust boundary, such as ``frontend``; a label of every metric.
        metrics_address: ``HOST:PORT`` at which the runtime serves ``GET /metrics``. Without it, no metric is recorded.
        forward_logs: Send the logs of the SDK's core to Python's ``logging``, so that they have the format of the other logs.

    Raises:
        PreconditionFailed: ``MetricsAddressUnavailable``.
    """
    metrics = None
    if metrics_address is not None:
        metrics = PrometheusConfig(
            bind_address=metrics_address,
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
            histogram_bucket_overrides={metric.recorded_name: metric.buckets for metric in METRICS if metric.buckets},
        )
    logs = LoggingConfig.default
    if forward_logs:
        logs = LoggingConfig(
            filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
            forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio.core"), append_target_to_name=False),
        )
    try:
        return Runtime(
            telemetry=TelemetryConfig(logging=logs, metrics=metrics, global_tags={BOUNDARY_LABEL: boundary}, attach_service_name=False)
        )
    except (RuntimeError, ValueError) as error:
        raise PreconditionFailed(
            "MetricsAddressUnavailable",
            f"metrics: cannot listen at {metrics_address}.",
            cause=str(error),
            hint="Choose another address with --metrics-host and --metrics-port.",
            party="operator",
        ) from None
