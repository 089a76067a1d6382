"""A verdict is made of checks: each with its name, what was expected, what was found, and the reason when it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cleanroom.attestation.reasons import AttestationRejected, Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``id`` is stable; ``expected`` and ``actual`` are for people; ``reason`` and ``message`` are set when it failed.

    A dataclass and no pydantic model, since a verdict makes thirty of them; pydantic models hold and serialise it all the same.
    """

    id: str
    passed: bool
    expected: str
    actual: str
    reason: Reason | None = None
    message: str = ""


class Stop(Exception):
    """The checks so far make everything after them meaningless."""


class Checklist:
    """Collects checks in the order in which they were made."""

    def __init__(self, checks: Iterable[Check] = ()) -> None:
        self.checks: list[Check] = list(checks)

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def record(self, check_id: str, passed: bool, *, expected: str, actual: str, reason: Reason, message: str = "") -> bool:
        """Note one check; returns ``passed``."""
        self.checks.append(
            Check(
                id=check_id,
                passed=passed,
                expected=expected,
                actual=actual,
                reason=None if passed else reason,
                message="" if passed else message or f"The check {check_id} expected {expected} and found {actual}.",
            )
        )
        return passed

    def require(self, check_id: str, passed: bool, *, expected: str, actual: str, reason: Reason, message: str = "") -> None:
        """Note one check and stop when it failed."""
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
        """Run a step that either returns a value (noted as passed) or raises :class:`AttestationRejected` (noted as failed, then stop)."""
        try:
            value = step()
        except AttestationRejected as error:
            self.reject(check_id, error)
            raise Stop from error
        self.checks.append(Check(id=check_id, passed=True, expected=expected, actual=show(value), reason=None, message=""))
        return value

    def stop_if_failed(self) -> None:
        """Stop at the end of a group in which something failed."""
        if not self.ok:
            raise Stop
