"""Waits until writes are committed. Concurrent waits share their polls, and several writes can be awaited together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import TransactionId

P = ParamSpec("P")
T = TypeVar("T")

COMMIT_SECONDS: Final = 10.0
"""A commit that takes longer is reported as unknown. Governance commits about once per second."""
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.1


@dataclass
class _Batch:
    """The writes of one :func:`commit_together`."""

    writes: list[tuple[CommitWatch, TransactionId]] = field(default_factory=list)
    open: bool = True
    """False when the block has ended. A task that it started, and that still runs, then waits for its own commits."""

    def commits(self) -> list[Coroutine[Any, Any, None]]:
        """Return the waits for all writes, and for those that earlier blocks have left to this one."""
        writes = list(self.writes)
        for watch in {id(watch): watch for watch, _ in writes}.values():
            writes += [(watch, transaction) for transaction in watch.deferred]
            watch.deferred.clear()
        return [watch.wait(transaction) for watch, transaction in writes]


_batch: ContextVar[_Batch | None] = ContextVar("cleanroom_governance_batch", default=None)


class CommitWatch:
    """The transactions of one channel whose commit is awaited. One task polls for all of them.

    A commit covers everything before it in the same view, so a poll of the newest transaction answers for the others
    (<https://microsoft.github.io/CCF/main/use_apps/verify_tx.html>).

    Args:
        status: Reads the status of a transaction from governance.
    """

    def __init__(self, status: Callable[[TransactionId], Awaitable[str]]) -> None:
        self._status = status
        self._waiting: dict[TransactionId, asyncio.Future[str]] = {}
        self._last: dict[TransactionId, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE
        self.deferred: list[TransactionId] = []
        """Writes whose commit the next write of this channel waits for."""

    async def wait(self, transaction: TransactionId, *, within: float = COMMIT_SECONDS) -> None:
        """Wait until ``transaction`` is committed.

        Raises:
            Unavailable: ``TransactionLost`` if a new primary rolled it back; the caller may repeat the write.
                ``TransactionNotCommitted`` if it is still pending after ``within`` seconds; its effect is unknown.
        """
        future = self._waiting.get(transaction)
        if future is None:
            future = self._waiting[transaction] = asyncio.get_running_loop().create_future()
            self._pause = _FIRST_PAUSE
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        done, _ = await asyncio.wait([future], timeout=within)
        if not done:
            self._waiting.pop(transaction, None)
            raise Unavailable(
                "TransactionNotCommitted",
                f"Transaction {transaction} is {self._last.pop(transaction, 'Unknown')} after {within:g} s; "
                "whether it took effect is unknown.",
                hint="Read the resource again before you repeat the write.",
            )
        if future.result() == "Invalid":
            raise Unavailable("TransactionLost", f"The governance network rolled back transaction {transaction}.", hint="Repeat the write.")

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _poll(self) -> None:
        while self._waiting:
            order = sorted(self._waiting, key=lambda item: (item.view, item.seqno))
            # The newest answers for all. Under a stream of writes it is always pending, so the oldest is polled as well.
            if not await self._resolve(order[-1]) and len(order) > 1:
                await self._resolve(order[0])
            if self._waiting:
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _resolve(self, transaction: TransactionId) -> bool:
        """Poll one transaction. Return whether its status is final."""
        try:
            status = await self._status(transaction)
        except CleanRoomError as error:
            # The write succeeded. Only its status could not be read.
            status = error.code
        if status not in ("Committed", "Invalid"):
            self._last[transaction] = status
            return False
        for other in list(self._waiting):
            covered = status == "Committed" and other.view == transaction.view and other.seqno <= transaction.seqno
            if other == transaction or covered:
                self._last.pop(other, None)
                future = self._waiting.pop(other)
                if not future.done():
                    future.set_result(status)
        return True


@contextlib.asynccontextmanager
async def commit_together() -> AsyncIterator[None]:
    """Send the writes of a block without waiting for each commit, and wait for all of them at the end of the block.

    Reads inside of the block see its writes. A block that raises waits too, because its last writes may undo the others; its own error
    is raised. Only a cancelled block does not wait. Blocks may be nested: the outermost one waits.

    Raises:
        Unavailable: ``TransactionLost``, ``TransactionNotCommitted``.
    """
    enclosing = _batch.get()
    if enclosing is not None and enclosing.open:
        yield
        return
    batch = _Batch()
    token = _batch.set(batch)
    try:
        yield
    except Exception:
        batch.open = False
        await asyncio.gather(*batch.commits(), return_exceptions=True)
        raise
    finally:
        batch.open = False
        _batch.reset(token)
    await asyncio.gather(*batch.commits())


def committed_together(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorator: run the function inside of :func:`commit_together`."""

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async with commit_together():
            return await function(*args, **kwargs)

    return run


def committed_later(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorator: leave the waiting for the function's commits to the next write of the same client.

    For writes whose loss is harmless: the next write commits them too, unless the primary changes between both.
    """

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        batch = _Batch()
        token = _batch.set(batch)
        try:
            return await function(*args, **kwargs)
        finally:
            batch.open = False
            _batch.reset(token)
            for watch, transaction in batch.writes:
                watch.deferred.append(transaction)

    return run


async def await_commit(watch: CommitWatch, transaction: TransactionId) -> None:
    """Wait for a write's commit, or leave that to the enclosing :func:`commit_together`."""
    batch = _batch.get()
    if batch is not None and batch.open:
        batch.writes.append((watch, transaction))
        return
    deferred, watch.deferred = watch.deferred, []
    await asyncio.gather(watch.wait(transaction), *(watch.wait(earlier) for earlier in deferred))
