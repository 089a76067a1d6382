"""Shares one governance request among the activities that need the same answer at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cleanroom.runs.ledger import PinnedRequest
from cleanroom.runs.reader import AcceptedDocument, Consent, GovernanceReader

T = TypeVar("T")

PREVIOUS_SECONDS = 1.0
"""A waiting request does not wait longer than this for the previous request of the same thing."""


class SharedReader:
    """A :class:`GovernanceReader` for concurrent activities. It never returns an answer that is older than the question.

    A request is sent only after every caller that receives its answer has asked. A caller that finds a request in flight
    therefore cannot use it; it waits for the next one, together with all others that ask in the meantime. So there are at
    most two requests for the same thing: one in flight and one waiting.
    """

    def __init__(self, reader: GovernanceReader) -> None:
        self._reader = reader
        self._waiting: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._in_flight: dict[tuple[str, str], asyncio.Task[Any]] = {}

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """See :meth:`GovernanceReader.accepted_document`."""
        return await self._share(("document", document_id), lambda: self._reader.accepted_document(document_id))

    async def consent(self, document_id: str) -> Consent:
        """See :meth:`GovernanceReader.consent`."""
        return await self._share(("consent", document_id), lambda: self._reader.consent(document_id))

    async def active_users(self) -> frozenset[str]:
        """See :meth:`GovernanceReader.active_users`."""
        return await self._share(("users", ""), self._reader.active_users)

    async def runs_started(self, query: str) -> frozenset[str]:
        """See :meth:`GovernanceReader.runs_started`."""
        return await self._share(("started", query), lambda: self._reader.runs_started(query))

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        """See :meth:`GovernanceReader.pinned_request`."""
        return await self._share(("pinned", run_id), lambda: self._reader.pinned_request(run_id))

    async def run_closed(self, run_id: str) -> bool:
        """See :meth:`GovernanceReader.run_closed`."""
        return await self._share(("closed", run_id), lambda: self._reader.run_closed(run_id))

    async def _share(self, key: tuple[str, str], send: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task: asyncio.Task[T] | None = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._send_next(key, send))
            # Every caller may have been cancelled; asyncio warns about an exception that was never retrieved.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A cancelled caller must not cancel the request of the others.
        return await asyncio.shield(task)

    async def _send_next(self, key: tuple[str, str], send: Callable[[], Coroutine[Any, Any, T]]) -> T:
        previous = self._in_flight.get(key)
        if previous is not None:
            await asyncio.wait([previous], timeout=PREVIOUS_SECONDS)
        task = self._waiting.pop(key)
        self._in_flight[key] = task
        try:
            return await send()
        finally:
            if self._in_flight.get(key) is task:
                del self._in_flight[key]
