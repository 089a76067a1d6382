"""What the benchmarks of growth share: numbers of queries, and counted requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from cleanroom.governance.http import HttpChannel

FEW, MANY = 200, 1000
"""Open queries."""


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
