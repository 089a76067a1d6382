"""Watches one SparkApplication until it ends, or until it is clear that it cannot start."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from cleanroom.bulkheads import bulkhead
from cleanroom.errors import CleanRoomError, NotFound, Unavailable
from cleanroom.spark.deadlines import Deadlines, deadline_outcome, seconds_since, seconds_until_deadline
from cleanroom.spark.failure_rules import PERMANENT_PULL_FAILURES, FailureCode
from cleanroom.spark.kubernetes import KubernetesClient
from cleanroom.spark.kubernetes_stream import ReconnectPauses, StopSignal
from cleanroom.spark.outcome import Outcome, failed_outcome, outcome_of
from cleanroom.spark.status import KNOWN_STATES, JobStatus

_log = logging.getLogger(__name__)


class ApplicationWatch:
    """One watch of one application.

    Two threads follow the Kubernetes API for changes to the application and its pods. After each change the event
    loop reads the whole status and decides, so a lost or repeated change is harmless.

    Args:
        client: The cluster.
        name: The application's name.
        on_progress: Called on this event loop with every reading, and again after ``beat_seconds`` without a change.
        deadlines: Time limits.
        uid: The application's UID, or None to accept any object with this name.
        beat_seconds: The longest time between two calls of ``on_progress``.
    """

    def __init__(
        self,
        client: KubernetesClient,
        name: str,
        on_progress: Callable[[JobStatus], None],
        deadlines: Deadlines,
        *,
        uid: str | None,
        beat_seconds: float,
    ) -> None:
        self._client, self._name, self._on_progress = client, name, on_progress
        self._deadlines, self._uid, self._beat = deadlines, uid, beat_seconds
        self._changed = asyncio.Event()
        self._stop = StopSignal()
        self._loop = asyncio.get_running_loop()
        self._last: JobStatus | None = None
        self._logged_states: set[str] = set()
        self._unreachable_since: float | None = None

    async def run(self) -> Outcome:
        """Return the application's outcome.

        Raises:
            Unavailable: The Kubernetes API was unreachable for ``unreachable_seconds``.
            Refused: The API denied access.
        """
        threads = [
            threading.Thread(target=self._repeat, args=(follow,), daemon=True, name=f"watch-{self._name}")
            for follow in (self._follow_application, self._follow_pods)
        ]
        for thread in threads:
            thread.start()
        try:
            while True:
                self._changed.clear()
                outcome = await self._read()
                if outcome is not None:
                    return outcome
                try:
                    async with asyncio.timeout(self._seconds_until_next_read()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._stop.set()
            await asyncio.gather(*(asyncio.to_thread(thread.join, 5) for thread in threads))

    # --- threads

    def _repeat(self, follow: Callable[[], None]) -> None:
        pauses = ReconnectPauses()
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                follow()
            except CleanRoomError as error:
                # The next read reports the same error to the caller; here it only delays the watch.
                _log.info("watch of %s: %s", self._name, error.code)
                pauses.wait(started, self._stop)
            self._notify()

    def _notify(self) -> None:
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _follow_application(self) -> None:
        for change in self._client.changes(self._name, seconds=30, stop=self._stop):
            self._notify()
            if change.object is None:
                self._stop.wait(1.0)

    def _follow_pods(self) -> None:
        version: str | None = None
        while not self._stop.is_set():
            before = version
            version = self._client.await_pod_change(self._name, 30, version, stop=self._stop)
            if version != before:
                self._notify()

    # --- decisions

    async def _read(self) -> Outcome | None:
        try:
            status = await bulkhead("kubernetes").run(self._client.status, self._name)
        except NotFound:
            return self._lost("the SparkApplication was deleted while the run waited for it", FailureCode.DELETED)
        except Unavailable:
            if self._unreachable_too_long():
                raise
            if self._last is not None:
                self._on_progress(self._last)
            await asyncio.sleep(min(1.0, self._beat))
            self._changed.set()
            return None
        self._unreachable_since = None
        if self._uid is not None and status.uid != self._uid:
            return self._lost("another SparkApplication has taken the name", FailureCode.REPLACED)
        if status.state not in KNOWN_STATES and status.state not in self._logged_states:
            self._logged_states.add(status.state)
            _log.warning("%s is in the unknown state %r; continuing to wait", self._name, status.state)
        self._last = status
        self._on_progress(status)
        outcome = outcome_of(status)
        if outcome is not None and not self._may_recover(outcome, status):
            return outcome
        return deadline_outcome(status, self._deadlines)

    def _unreachable_too_long(self) -> bool:
        now = self._loop.time()
        self._unreachable_since = self._unreachable_since or now
        return now - self._unreachable_since >= self._deadlines.unreachable_seconds

    def _may_recover(self, outcome: Outcome, status: JobStatus) -> bool:
        if outcome.code is not FailureCode.IMAGE_PULL or any(phrase in outcome.message for phrase in PERMANENT_PULL_FAILURES):
            return False
        return seconds_since(status.created_at) < self._deadlines.image_pull_seconds

    def _lost(self, message: str, code: FailureCode) -> Outcome:
        status = self._last or JobStatus(tracking_id=self._name, uid=self._uid or "")
        return failed_outcome(status, code, message)

    def _seconds_until_next_read(self) -> float:
        due = [self._beat]
        if self._last is not None:
            due += seconds_until_deadline(self._last, self._deadlines)
        return max(0.05, min(seconds for seconds in due if seconds > 0))
