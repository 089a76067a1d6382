"""The checks that make up a verdict: each has a name, the expected and the actual value, and a reason if it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cleanroom.attestation.reasons import AttestationRejected, Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``id`` is stable; ``expected`` and ``actual`` are for readers; ``reason`` and ``message`` are set if it failed.

    A dataclass rather than a pydantic model, because a verdict creates thirty of them. Pydantic models can hold and serialise it.
    """

    id: str
    passed: bool
    expected: str
    actual: str
    reason: Reason | None = None
    message: str = ""


_MAX_CACHED = 512
"""Longest text that is cached. Texts may come from an attacker, so longer ones must not fill the cache."""


@lru_cache(maxsize=1024)
def _cached(check_id: str, expected: str, actual: str) -> Check:
    # Most verdicts share most of their passed checks, and a look-up takes a fifth of the time of creating one.
    return Check(check_id, True, _printable(expected), _printable(actual))


def _passed(check_id: str, expected: str, actual: str) -> Check:
    if len(actual) > _MAX_CACHED:
        return Check(check_id, True, _printable(expected), _printable(actual))
    return _cached(check_id, expected, actual)


class Stop(Exception):
    """Ends a verification: no later check has a meaning after the one that failed."""


class Checklist:
    """Collects checks in the order in which they are made."""

    def __init__(self, checks: Iterable[Check] = ()) -> None:
        self.checks: list[Check] = list(checks)

    @property
    def ok(self) -> bool:
        """Whether at least one check was made and none failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def record(self, check_id: str, passed: bool, *, expected: str, actual: str, reason: Reason, message: str = "") -> bool:
        """Add one check and return ``passed``."""
        if passed:
            self.checks.append(_passed(check_id, expected, actual))
        else:
            expected, actual = _printable(expected), _printable(actual)
            message = _printable(message) or f"The check {check_id} expected {expected} and found {actual}."
            self.checks.append(Check(check_id, False, expected, actual, reason, message))
        return passed

    def require(self, check_id: str, passed: bool, *, expected: str, actual: str, reason: Reason, message: str = "") -> None:
        """Add one check. Raises :class:`Stop` if it failed."""
        if not self.record(check_id, passed, expected=expected, actual=actual, reason=reason, message=message):
            raise Stop

    def reject(self, check_id: str, error: AttestationRejected) -> None:
        """Note that a check failed by raising."""
        self.record(
            check_id,
            False,
            expected=error.expected,
            actual=error.actual or error.message,
            reason=error.reason,
            message=error.message,
        )

    def run(self, check_id: str, step: Callable[[], T], *, expected: str, show: Callable[[T], str]) -> T:
        """Run a step, add a passed check, and return the step's value.

        Raises:
            Stop: The step raised :class:`AttestationRejected`, which is added as a failed check.
        """
        try:
            value = step()
        except AttestationRejected as error:
            self.reject(check_id, error)
            raise Stop from error
        self.checks.append(_passed(check_id, expected, show(value)))
        return value

    def stop_if_failed(self) -> None:
        """Raise :class:`Stop` if any check failed; called at the end of a group of checks."""
        if not self.ok:
            raise Stop


def _printable(text: str) -> str:
    # Names in certificates and endorsements may come from an attacker, and they reach terminals and logs.
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
