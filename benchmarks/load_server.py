"""The Temporal server of the benchmarks with many queries or runs, and the workflow tasks that failed on it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from benchmarks.framework import Benchmark
from localcloud.launcher.processes import free_ports
from tests.load_world import HARMLESS, failed_workflow_tasks
from tests.temporal_env import TEST_KEYRING, client_with, server_options

WORKER_MIB = 600
"""Largest resident memory of the workflows' worker, which caches at most 1,000 workflows."""
FAILED = "causes of failed workflow tasks"


@dataclass(frozen=True)
class LoadServer:
    """A server that measures itself."""

    client: Client
    folder: Path
    metrics: str
    """URL of the server's metrics."""

    def unexpected_failures(self) -> set[str]:
        """Return the causes of failed workflow tasks other than messages that arrived in the meantime."""
        return set(failed_workflow_tasks(self.metrics)) - HARMLESS


@asynccontextmanager
async def load_server() -> AsyncIterator[LoadServer]:
    """Start a server in memory."""
    [port] = free_ports(1)
    options = server_options()
    options["dev_server_extra_args"] += ["--metrics-port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        async with await WorkflowEnvironment.start_local(**options) as env:
            client = await client_with(env, TEST_KEYRING, accept_unbound=True)
            yield LoadServer(client, Path(folder), f"http://127.0.0.1:{port}")


def measured(benchmark: Benchmark, found: Mapping[str, Any]) -> dict[str, float]:
    """Print what happened, and return the figures of ``benchmark``. That of :data:`FAILED` is their number."""
    print(json.dumps(found, indent=2))
    return {figure.name: found[figure.name] for figure in benchmark.figures} | {FAILED: len(found[FAILED])}
