"""The error taxonomy: the problem, the responsible party, and whether a retry can help.

Every error that the project raises on purpose is a :class:`CleanRoomError`. Each subclass is one *category*, with one exit code of the
command line::

    CleanRoomError         exit code
    ├── InvalidInput        2  the input is malformed or out of range; nothing was done
    ├── NotFound            3  the named thing does not exist
    ├── Refused             4  a policy, a verification, an approval or a consent denies the request
    ├── Conflict            5  it exists with other content, or a concurrent change won
    ├── PreconditionFailed  6  something that must hold first does not hold yet
    ├── Unavailable         7  a service did not answer, or asked to wait; retryable
    ├── TimedOut            8  a deadline of this project has passed
    └── Internal            1  a bug, or an answer that the protocol does not allow

The set of categories is closed: do not add subclasses. A new error gets a new *code* instead. Rules for codes:

* A code is a CamelCase literal, the first argument of the constructor (``QueryMissingApprovalsFromDatasetOwners``). It is stable: tests,
  operators and other programs match it. It never contains names or values, because Temporal stores it in plain text.
* A code of a real service keeps that service's spelling (``ForbiddenByRbac``, ``AADSTS700213``).
* ``NotFound`` means that the service itself reported it. A service that could not be reached is ``Unavailable``.

Choose ``Refused`` if a person or a policy must decide otherwise, and ``PreconditionFailed`` if the same request succeeds after another
step. Only ``Unavailable`` is retried by default; ``retryable`` overrides that for one error.

The message names the field, the value and the problem, and the hint what to do. Upstream's text goes into ``cause``. None of them may
contain secrets; :class:`cleanroom.secret.Secret` cannot be formatted, and :mod:`cleanroom.redaction` is the last guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CleanRoomError(Exception):
    """Base of the error categories; see the module's docstring.

    Args:
        code: The stable code in CamelCase.
        message: One or two sentences that name the field, the value and the problem.
        cause: The upstream service's text, without secrets.
        hint: What to do next, as a command or an instruction.
        party: The responsible party, which must act (``contosso``, ``operator``, ``analyst`` …), if known.
        details: Small JSON values, such as IDs, digests or both sides of a comparison.
        retryable: Overrides the category's default.
    """

    category: ClassVar[str] = "internal"
    """Name of the category in JSON output and in failure details."""
    exit_code: ClassVar[int] = 1
    """Exit code of the command line."""
    default_retryable: ClassVar[bool] = False
    """Whether errors of this category are retried unless ``retryable`` says otherwise."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        cause: str | None = None,
        hint: str | None = None,
        party: str | None = None,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.cause = cause
        self.hint = hint
        self.party = party
        self.details: dict[str, Any] = dict(details or {})
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return ``{code, message, cause, hint, party, category, retryable, details}``, which ``--output json`` prints."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "hint": self.hint,
            "party": self.party,
            "category": self.category,
            "retryable": self.retryable,
            "details": self.details,
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> CleanRoomError:
        """Rebuild an error from :meth:`to_dict`. An unknown category becomes :class:`Internal`."""
        kind = CATEGORIES.get(str(value.get("category")), Internal)
        return kind(
            str(value.get("code") or "InternalError"),
            str(value.get("message") or ""),
            cause=value.get("cause"),
            hint=value.get("hint"),
            party=value.get("party"),
            details=value.get("details") or {},
            retryable=value.get("retryable"),
        )


class InvalidInput(CleanRoomError):
    """The input is malformed or out of range. Nothing was done."""

    category = "invalid-input"
    exit_code = 2


class NotFound(CleanRoomError):
    """The named thing does not exist, as the responsible service reports."""

    category = "not-found"
    exit_code = 3


class Refused(CleanRoomError):
    """A policy, a verification, an approval or a consent denies the request."""

    category = "refused"
    exit_code = 4


class Conflict(CleanRoomError):
    """The thing exists with other content, or a concurrent change won."""

    category = "conflict"
    exit_code = 5


class PreconditionFailed(CleanRoomError):
    """Something that must hold first does not hold yet. The hint says how to establish it."""

    category = "precondition"
    exit_code = 6


class Unavailable(CleanRoomError):
    """A service did not answer, or asked to wait. Retryable by default."""

    category = "unavailable"
    exit_code = 7
    default_retryable = True


class TimedOut(CleanRoomError):
    """A deadline of this project has passed."""

    category = "timed-out"
    exit_code = 8


class Internal(CleanRoomError):
    """A bug, or an answer that the protocol does not allow."""

    category = "internal"
    exit_code = 1


CATEGORIES: dict[str, type[CleanRoomError]] = {
    kind.category: kind for kind in (InvalidInput, NotFound, Refused, Conflict, PreconditionFailed, Unavailable, TimedOut, Internal)
}
"""The error classes by category name."""
