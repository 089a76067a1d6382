"""Does the same for many items, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CONCURRENT_READS: Final = 8
"""Reads of one task that are on their way at the same time. It stays well below the connections of a client, which others share."""


async def gather_limited(work: Callable[[T], Awaitable[R]], items: Iterable[T], limit: int = CONCURRENT_READS) -> list[R]:
    """Return the results of ``work`` in the order of ``items``. At most ``limit`` are on their way at the same time.

    The first error cancels the others, and is raised when they have ended.
    """
    slots = asyncio.Semaphore(limit)

    async def one(item: T) -> R:
        async with slots:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
