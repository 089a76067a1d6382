"""When the launcher starts a crashed service again: after a delay that doubles, and no more than a limit in a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Limit and delays.

    Attributes:
        limit: Starts after crashes in a row; 0 leaves a crashed service ended.
        first_seconds: Delay after the first crash. It doubles with each further crash in a row.
        longest_seconds: The longest delay.
        stable_seconds: A service that has been ready for so long has recovered: its next crash is the first one again.
    """

    limit: int = 0
    first_seconds: float = 1.0
    longest_seconds: float = 30.0
    stable_seconds: float = 60.0


class Crashes:
    """The crashes of one service in a row."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._ready_since: float | None = None
        self._due = 0.0
        self._row = 0
        self.restarts = 0
        """How often the service was started after a crash."""

    @property
    def attempt(self) -> int:
        """The number of the next start in a row."""
        return self._row

    def ready(self, now: float) -> None:
        """Note that the service is ready."""
        self._ready_since = now

    def crash(self, now: float) -> float | None:
        """Note a crash. Return the delay in seconds before the next start, or None if the limit is reached."""
        if self._ready_since is not None and now - self._ready_since >= self._policy.stable_seconds:
            self._row = 0
        self._ready_since = None
        if self._row >= self._policy.limit:
            return None
        delay = min(self._policy.first_seconds * 2.0**self._row, self._policy.longest_seconds)
        self._row += 1
        self._due = now + delay
        return delay

    def due(self, now: float) -> bool:
        """Return whether the delay has passed."""
        return now >= self._due

    def forget(self) -> None:
        """Begin to count again: a person has asked for the start."""
        self._row = 0
