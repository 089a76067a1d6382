"""Messages of the query-approval life cycle."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from cleanroom.documents.specs import QuerySpec
from cleanroom.identifiers import HexDigest, Name, sha256_hex
from cleanroom.messages.base import Message

QueryStage = Literal["Creating", "Draft", "Proposed", "Approved", "Withdrawn", "Expired", "Failed"]
"""Stages of a query. ``Proposed`` is the diagram's "Not Approved"; a rejection leads back to ``Draft``."""

DEFAULT_APPROVAL_SECONDS = 14 * 24 * 3600


class Party(Message):
    """A collaborator as governance and Temporal know them."""

    name: Name
    """Names the task queue ``collaborator.<name>``."""
    user_id: str


class PublishQueryInput(Message):
    """Start of ``PublishQuery``."""

    collaboration: str
    proposer: Party
    parties: tuple[Party, ...]
    """Everybody who may own a dataset: where an owner's vote is cast."""
    spec: QuerySpec
    authorisation: str
    """JWS of ``create-query`` by the proposer over ``spec.digest()``."""
    approval_seconds: int = Field(default=DEFAULT_APPROVAL_SECONDS, ge=1)
    reconcile_seconds: int = Field(default=60, ge=1)
    carried: QueryState | None = None
    """State handed over by continue-as-new, with the order under which the open proposal was made."""
    carried_order: ProposerOrder | None = None
    carried_acknowledged: str = ""
    """Digest of the draft that may be proposed without being looked at again."""
    carried_good_until: AwareDatetime | None = None
    """When the first of the approvals counted so far ends."""
    carried_votes: tuple[CarriedVote, ...] = ()
    """Votes that were taken and not cast yet: their voters' workers are away."""


class CarriedVote(Message):
    """A decision on its way to its voter's worker."""

    kind: Literal["approve", "reject", "decide"]
    decision: str


class AuthorOrder(Message):
    """What an activity on a collaborator's queue needs to know that its own user wants this done to a query."""

    collaboration: str
    query: Name
    spec: QuerySpec | None = None
    authorisation: str


class ProposerOrder(Message):
    """Who proposed, and on what order: lets their own worker withdraw the proposal when its time is over."""

    party: Name
    order: AuthorOrder


class GenerateQueryRequest(Message):
    collaboration: str
    spec: QuerySpec
    proposer_id: str


class QueryDraft(Message):
    """A query document ready for governance, with what the approvers will see."""

    document_id: Name
    data: str
    digest: HexDigest
    labels: dict[str, str]
    card: str
    """Column lineage, floors and receiver as deterministic text."""
    card_digest: HexDigest
    owners: tuple[str, ...]
    """User ids of the owners of every input and of the output: who must approve."""


class DraftOrder(Message):
    order: AuthorOrder
    draft: QueryDraft
    version: str = ""
    """Version that the update replaces; empty on creation."""


class DraftStored(Message):
    version: str
    digest: HexDigest


class OwnersRequest(Message):
    collaboration: str
    query: Name


class DatasetOwners(Message):
    """The approvers, derived from governance and from nothing else."""

    owners: tuple[str, ...]
    version: str
    digest: HexDigest


class ProposeQueryOrder(Message):
    order: AuthorOrder
    owners: tuple[str, ...]
    version: str
    digest: HexDigest


class QueryProposed(Message):
    proposal_id: str
    version: str
    digest: HexDigest


class VerifyDecisionRequest(Message):
    collaboration: str
    query: Name
    proposal_id: str
    version: str
    digest: HexDigest
    owners: tuple[str, ...]
    token: str


class VerifiedDecision(Message):
    approver_id: str
    decision: Literal["approve", "reject"]
    reason: str
    expires: AwareDatetime
    max_runs: int | None
    nonce: str


class VoteOrder(Message):
    """Cast the ballot that ``token`` (the approver's signed decision) orders."""

    collaboration: str
    query: Name
    proposal_id: str
    version: str
    digest: HexDigest
    token: str


class WithdrawOrder(Message):
    order: AuthorOrder
    proposal_id: str
    expired: bool = False
    """The deadline has passed: the order under which it was proposed is enough."""


class BallotRecorded(Message):
    proposal_state: Literal["Open", "Accepted", "Rejected", "Withdrawn"]
    ballots: dict[str, Literal["accepted", "rejected"]]


class GovernanceQueryState(Message):
    """What CGS holds of a query right now."""

    state: Literal["Missing", "Draft", "Proposed", "Accepted"]
    version: str = ""
    digest: str = ""
    proposal_id: str = ""
    proposal_state: Literal["", "Open", "Accepted", "Rejected", "Withdrawn"] = ""
    approvers: tuple[str, ...] = ()
    ballots: dict[str, Literal["accepted", "rejected"]] = {}


class QueryChangeRequest(Message):
    """Wait until governance shows something else than ``known``."""

    collaboration: str
    query: Name
    known: GovernanceQueryState


class HistoryEntry(Message):
    at: AwareDatetime
    event: str
    by: str = ""
    detail: str = ""


def decision_mark(token: str) -> str:
    """By what a signed decision is found among the messages that were not counted."""
    return sha256_hex(token.encode())[:16]


class RefusedMessage(Message):
    """A message that was not counted, and why."""

    at: AwareDatetime
    kind: str
    code: str
    message: str
    cause: str = ""
    hint: str = ""
    category: str = "refused"
    about: str = ""
    """Of a vote: the first 16 hex digits of the SHA-256 of its signed decision, by which its sender finds it."""


class QueryState(Message):
    """Answer of the query ``state``: the diagram's note boxes."""

    query: str
    stage: QueryStage
    version: str = ""
    digest: str = ""
    proposal_id: str = ""
    pending: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    expires: AwareDatetime | None = None
    card: str = ""
    owners: tuple[str, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    refused: tuple[RefusedMessage, ...] = ()
    spec: QuerySpec | None = None


class DecisionMessage(Message):
    """Argument of ``approve`` and ``reject``: a signed decision, nothing else."""

    decision: str


class AuthorMessage(Message):
    """Argument of ``update``, ``propose`` and ``withdraw``."""

    party: Name
    authorisation: str
    spec: QuerySpec | None = None


class CommandOutcome(Message):
    """What became of a message."""

    stage: QueryStage
    version: str
    pending: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    detail: str = ""


PublishQueryInput.model_rebuild()
