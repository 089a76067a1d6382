"""The error vocabulary: what went wrong, who must act, and whether trying again can help.

Tree (each class is one category, each category one exit code of the command line)::

    CleanRoomError
    ├── InvalidInput        2  the caller's own words are wrong; nothing was done
    ├── NotFound            3  the thing named does not exist (never used for "could not ask")
    ├── Refused             4  a policy, an approval or a consent says no
    ├── Conflict            5  it exists already with other content, or somebody was faster
    ├── PreconditionFailed  6  something that must hold first does not hold yet
    ├── Unavailable         7  the other side could not be asked, or asked to wait; retryable
    ├── TimedOut            8  a deadline that we set has passed
    └── Internal            1  a bug of ours

Every error carries a stable ``code`` (``QueryMissingApprovalsFromDatasetOwners``, ``HostDataMismatch``), a message
that names the field, the value and the remedy, and optionally the upstream text as ``cause``. Codes that a real
service uses keep that service's spelling. Messages never hold secrets: a type that holds one redacts itself
(:mod:`cleanroom.secret`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CleanRoomError(Exception):
    """Base of everything this project raises on purpose.

    Args:
        code: Stable, machine-readable, CamelCase.
        message: One or two sentences: the field, the value, the remedy.
        cause: Upstream's own text, kept verbatim (already free of secrets).
        hint: What to do next, as a command or an instruction.
        party: Who must act (``contosso``, ``operator``, ``analyst`` …), when that is known.
        details: Small JSON-able facts (ids, digests, both sides of a comparison).
        retryable: Overrides the category's default.
    """

    category: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1
    default_retryable: ClassVar[bool] = False

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
        """The error as ``{code, message, cause, hint, party, category, retryable, details}``; what ``--output json`` prints."""
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
        """Rebuild an error from :meth:`to_dict`; an unknown category becomes :class:`Internal`."""
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
    """The caller's input is malformed or out of range; nothing was done."""

    category = "invalid-input"
    exit_code = 2


class NotFound(CleanRoomError):
    """The named thing does not exist. Never raised because a service could not be reached."""

    category = "not-found"
    exit_code = 3


class Refused(CleanRoomError):
    """A policy, an attestation verdict, an approval or a consent says no."""

    category = "refused"
    exit_code = 4


class Conflict(CleanRoomError):
    """It exists already with other content, or a concurrent change won."""

    category = "conflict"
    exit_code = 5


class PreconditionFailed(CleanRoomError):
    """Something that must hold first does not hold; the hint says how to make it hold."""

    category = "precondition"
    exit_code = 6


class Unavailable(CleanRoomError):
    """The other side could not be asked, or asked us to wait. Retryable by default."""

    category = "unavailable"
    exit_code = 7
    default_retryable = True


class TimedOut(CleanRoomError):
    """A deadline of ours has passed."""

    category = "timed-out"
    exit_code = 8


class Internal(CleanRoomError):
    """A bug of ours, or an answer that the protocol does not allow."""

    category = "internal"
    exit_code = 1


CATEGORIES: dict[str, type[CleanRoomError]] = {
    kind.category: kind for kind in (InvalidInput, NotFound, Refused, Conflict, PreconditionFailed, Unavailable, TimedOut, Internal)
}
