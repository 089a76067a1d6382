"""What the workflow of a query knows of governance, in the form of a search attribute.

With it, the watcher and `cleanroom query list` compare thousands of queries with governance without asking their workflows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import AwareDatetime

from cleanroom.identifiers import canonical_json, sha256_hex
from cleanroom.messages.base import Message
from cleanroom.messages.query import GovernanceQueryState

_WORD = re.compile(r"[A-Za-z0-9._]{1,100}")
"""Versions and proposal IDs that an attribute contains. Any user can make a proposal with others, so they count in the digest only."""
CLOCKS_DIFFER = timedelta(seconds=10)
"""By how much the clocks of workers and of Temporal may differ."""


class ApprovedTerms(NamedTuple):
    """What the search attributes of an approved query say about its approvals."""

    expires: datetime
    run_limit: int | None
    datasets: tuple[str, ...]


class Approved(NamedTuple):
    """What the workflow of an accepted query shows."""

    stage: str
    """Stage of a state in :mod:`cleanroom.lifecycle.query`."""
    terms: ApprovedTerms | None
    """None if the search attributes do not contain all of them."""


class KnownState(NamedTuple):
    """A state of a query in governance."""

    state: Literal["Draft", "Proposed", "Accepted"]
    version: str
    proposal_id: str
    """The proposal. Empty for a draft, and for an ID that the attribute cannot contain."""
    digest: str
    """The first digits of a digest: of the version and text of a draft, or of the ID and ballots of a proposal."""
    approved: Approved | None = None
    """Of an accepted query. It is in search attributes of its own."""

    def __str__(self) -> str:
        return " ".join(part or "-" for part in (self.state, self.version, self.proposal_id, self.digest))

    @staticmethod
    def parse(text: str | None) -> KnownState | None:
        """Read a search attribute; None for any other text."""
        match [part.removeprefix("-") for part in (text or "").split(" ")]:
            case [("Draft" | "Proposed" | "Accepted") as state, version, proposal_id, digest]:
                return KnownState(state, version, proposal_id, digest)
        return None

    @staticmethod
    def of(found: GovernanceQueryState) -> KnownState | None:
        """Return what distinguishes ``found`` from other states; None if governance has no document."""
        if found.state == "Missing":
            return None
        if found.state == "Draft":
            return KnownState("Draft", _word(found.version), "", _digest(found.version, found.digest))
        return KnownState(found.state, _word(found.version), _word(found.proposal_id), proposal_digest(found.proposal_id, found.ballots))

    def is_same(self, other: KnownState | None) -> bool:
        """Whether nothing has changed between two states. A draft and its proposal have different versions for one text."""
        return other is not None and (self.state, self.digest) == (other.state, other.digest)


class Compared(Message):
    """Heartbeat details of the watcher: all queries that were listed at a time are in step with governance at a position."""

    position: str
    listed: AwareDatetime

    def covers(self, position: str, since: datetime) -> bool:
        """Whether a query whose workflow shows its state since a time is in step with governance at ``position``."""
        return position == self.position and since + CLOCKS_DIFFER < self.listed


def proposal_digest(proposal_id: str, ballots: Mapping[str, str]) -> str:
    """Return the digest of a :class:`KnownState` for a proposal with these ballots by user ID."""
    return _digest(proposal_id, dict(ballots))


def _digest(*values: object) -> str:
    return sha256_hex(canonical_json(list(values)))[:16]


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else ""
