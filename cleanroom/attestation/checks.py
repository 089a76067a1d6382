"""A verdict is made of checks: each with its name, what was expected, what was found, and the reason when it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
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


_KEPT = 512
"""Characters of the longest text that is kept; some hold an adversary's words."""


@lru_cache(maxsize=1024)
def _kept(check_id: str, expected: str, actual: str) -> Check:
    """Most verdicts share most of their passed checks, and to look one up takes a fifth of making it."""
    return Check(check_id, True, _printable(expected), _printable(actual))


def _passed(check_id: str, expected: str, actual: str) -> Check:
    if len(actual) > _KEPT:
        return Check(check_id, True, _printable(expected), _printable(actual))
    return _kept(check_id, expected, actual)


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
        if passed:
            self.checks.append(_passed(check_id, expected, actual))
        else:
            expected, actual = _printable(expected), _printable(actual)
            message = _printable(message) or f"The check {check_id} expected {expected} and found {actual}."
            self.checks.append(Check(check_id, False, expected, actual, reason, message))
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
        self.checks.append(_passed(check_id, expected, show(value)))
        return value

    def stop_if_failed(self) -> None:
        """Stop at the end of a group in which something failed."""
        if not self.ok:
            raise Stop


def _printable(text: str) -> str:
    """``text`` without control characters: names in certificates and endorsements may be an adversary's, and reach terminals and logs."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
