"""What the benchmarks of growth share: counted requests, and a server for each."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from cleanroom.governance.http import HttpChannel
from tests.temporal_env import TEST_KEYRING, client_with, server_options

FEW, MANY = 200, 1000
"""Open queries."""


@asynccontextmanager
async def query_server() -> AsyncIterator[tuple[Client, Path]]:
    """Start a Temporal server for queries, and create a folder."""
    async with await WorkflowEnvironment.start_local(**server_options()) as env:
        with tempfile.TemporaryDirectory() as folder:
            yield await client_with(env, TEST_KEYRING, accept_unbound=True), Path(folder)


class Requests:
    """Counts the requests of this process to governance."""

    def __init__(self) -> None:
        self.total = 0

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count from zero during the block."""
        send, self.total = HttpChannel._exchange, 0

        async def exchange(channel: HttpChannel, *arguments: Any, **options: Any) -> Any:
            self.total += 1
            return await send(channel, *arguments, **options)

        with mock.patch.object(HttpChannel, "_exchange", exchange):
            yield
