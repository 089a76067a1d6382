"""The Temporal server of the benchmarks that put load on it, and the workflow tasks that failed on it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from localcloud.launcher.processes import free_ports
from tests.load_world import HARMLESS, failed_workflow_tasks
from tests.temporal_env import server_options

WORKER_MIB = 600
"""Largest resident memory of the workflows' worker, which caches at most 1,000 workflows."""


@dataclass(frozen=True)
class LoadServer:
    """A server that measures itself."""

    client: Client
    folder: Path
    failed: Callable[[], Counter[str]]
    """Returns the failed workflow tasks by cause."""

    def unexpected_failures(self) -> set[str]:
        """Return the causes of failed workflow tasks other than messages that arrived in the meantime."""
        return set(self.failed()) - HARMLESS


@asynccontextmanager
async def load_server() -> AsyncIterator[LoadServer]:
    """Start a server in memory."""
    [port] = free_ports(1)
    options = server_options()
    options["dev_server_extra_args"] += ["--metrics-port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        async with await WorkflowEnvironment.start_local(**options) as env:
            yield LoadServer(env.client, Path(folder), lambda: failed_workflow_tasks(f"http://127.0.0.1:{port}"))
