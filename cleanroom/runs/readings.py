"""What the activities of one run have read from governance, so that they can share it.

The rules are in docs/decisions/008-what-a-release-reads-again.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from cleanroom.runs.ledger import PinnedRequest
from cleanroom.runs.reader import AcceptedDocument, Consent, GovernanceReader

T = TypeVar("T")

SHARED_SECONDS = 10.0
"""How old an answer may be that an activity takes over from another one of the same run. No answer after a write is taken over."""


@dataclass(frozen=True)
class _Answer:
    asked: float
    task: asyncio.Task[Any]


class RunReadings:
    """The answers that governance gave to the activities of one run.

    Args:
        reader: Reads governance.
        timer: A monotonic clock, in seconds.
    """

    def __init__(self, reader: GovernanceReader, timer: Callable[[], float]) -> None:
        self._reader = reader
        self._timer = timer
        self._answers: dict[tuple[str, str], _Answer] = {}
        self.recent: GovernanceReader = _View(self, reader, fresh=False)
        """Takes over answers that are at most :data:`SHARED_SECONDS` old, and accepted documents, which never change."""
        self.fresh: GovernanceReader = _View(self, reader, fresh=True)
        """Asks governance for everything, and keeps the answers for :attr:`recent`."""

    async def get(self, key: tuple[str, str], ask: Callable[[], Coroutine[Any, Any, T]], *, within: float) -> T:
        """Return an answer to a question that was asked at most ``within`` seconds ago, and ask if there is none."""
        now, known = self._timer(), self._answers.get(key)
        if known is None or now - known.asked >= within or (known.task.done() and _failed(known.task)):
            known = self._answers[key] = _Answer(now, asyncio.create_task(ask()))
            # Every caller may have been cancelled; asyncio warns about an exception that was never retrieved.
            known.task.add_done_callback(_failed)
        found: T = await asyncio.shield(known.task)
        return found


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


class _View:
    """A :class:`GovernanceReader` over :class:`RunReadings`."""

    def __init__(self, readings: RunReadings, reader: GovernanceReader, *, fresh: bool) -> None:
        self._readings = readings
        self._reader = reader
        self._within = 0.0 if fresh else SHARED_SECONDS
        self._within_document = 0.0 if fresh else float("inf")

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        ask = self._reader.accepted_document
        return await self._readings.get(("document", document_id), lambda: ask(document_id), within=self._within_document)

    async def consent(self, document_id: str) -> Consent:
        return await self._readings.get(("consent", document_id), lambda: self._reader.consent(document_id), within=self._within)

    async def active_users(self) -> frozenset[str]:
        return await self._readings.get(("users", ""), self._reader.active_users, within=self._within)

    async def run_closed(self, run_id: str) -> bool:
        return await self._readings.get(("closed", run_id), lambda: self._reader.run_closed(run_id), within=self._within)

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        return await self._readings.get(("pinned", run_id), lambda: self._reader.pinned_request(run_id), within=self._within)

    async def runs_started(self, query: str) -> frozenset[str]:
        # Runs of other requests count too, so this answer is never taken over.
        return await self._reader.runs_started(query)
