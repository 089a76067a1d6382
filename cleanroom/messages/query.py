"""Messages of the "Publish Query" diagram."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from cleanroom.documents.specs import QuerySpec
from cleanroom.identifiers import HexDigest, Name, Seen, SignedText, sha256_hex
from cleanroom.lifecycle.query import DEFAULT_APPROVAL_SECONDS
from cleanroom.messages.base import Message

QueryStage = Literal["Creating", "Draft", "Proposed", "Approved", "Withdrawn", "Expired", "Failed", "Cancelled"]
"""Stages of a query's workflow. :mod:`cleanroom.lifecycle.query` gives the state that people see. A rejection returns to ``Draft``."""


class Collaborator(Message):
    """A collaborator with its name in Temporal and its user ID in governance."""

    name: Name
    """Its worker polls the queue ``collaborator.<name>``."""
    user_id: str


class PublishQueryInput(Message):
    """Input of ``PublishQuery``. The ``carried`` members restore the state after continue-as-new."""

    collaboration: str
    proposer: Collaborator
    parties: tuple[Collaborator, ...]
    """All collaborators. An owner's vote is cast on the queue of the collaborator with the owner's user ID."""
    spec: QuerySpec
    authorisation: str
    """The proposer's signed authorisation to ``create-query``, over ``spec.digest()``."""
    approval_seconds: int = Field(default=DEFAULT_APPROVAL_SECONDS, ge=1)
    carried: QueryState | None = None
    carried_command: AuthorisedCommand | None = None
    """The command with which the open proposal was made."""
    carried_approvals_expire_at: AwareDatetime | None = None
    carried_notifications: tuple[PendingNotification, ...] = ()
    carried_messages: tuple[CarriedMessage, ...] = ()
    """Messages that the earlier history received and did not finish: votes that are verified but not cast yet, because the voters'
    workers are not running, and, if that history had grown too long to wait for them, commands."""
    seen: Seen = ""
    """What the sender has seen in governance; after continue-as-new, what the workflow has."""


class CarriedMessage(Message):
    """A message to a query that its next history handles: the signal's name and its argument."""

    kind: Literal["approve", "reject", "update", "propose", "withdraw"]
    message: dict[str, Any]


class AuthorisedCommand(Message):
    """A command on a query and its author's authorisation: part of every request to the author's worker."""

    party: Name
    """Name of the author; its worker polls the queue ``collaborator.<party>``."""
    collaboration: str
    query: Name
    spec: QuerySpec | None = None
    """The query's text, for commands that set it."""
    authorisation: str
    """Compact JWS of :class:`cleanroom.statements.Authorisation`."""
    seen: Seen = ""


class GenerateQueryRequest(Message):
    """Input of ``generate_query_document``."""

    collaboration: str
    spec: QuerySpec
    proposer_id: str
    seen: Seen = ""


class QueryDraft(Message):
    """A query document for governance, with the card that its approvers see."""

    document_id: Name
    data: str
    digest: HexDigest
    labels: dict[str, str]
    card: str
    """Column lineage, floors and receiver as deterministic text."""
    card_digest: HexDigest
    owners: tuple[str, ...]
    """User IDs of the approvers: the owners of every input and of the output."""


class DraftRequest(Message):
    """Input of ``create_document`` and ``update_document``."""

    command: AuthorisedCommand
    draft: QueryDraft


class DraftStored(Message):
    """The draft that governance holds now."""

    version: str
    digest: HexDigest
    seen: Seen = ""


class OwnersRequest(Message):
    """Input of ``determine_dataset_owners``."""

    collaboration: str
    query: Name
    seen: Seen = ""


class DatasetOwners(Message):
    """User IDs of the approvers, derived from governance, and the draft from which they were derived."""

    owners: tuple[str, ...]
    version: str
    digest: HexDigest
    seen: Seen = ""


class ProposeQueryRequest(Message):
    """Input of ``propose_query``. The authorisation in ``command`` names version and text."""

    command: AuthorisedCommand
    owners: tuple[str, ...]


class QueryProposed(Message):
    """The open proposal."""

    proposal_id: str
    version: str
    digest: HexDigest
    seen: Seen = ""


class VerifyDecisionRequest(Message):
    """Input of ``verify_decision``: a signed decision, and the proposal that it must be about."""

    collaboration: str
    query: Name
    proposal_id: str
    version: str
    digest: HexDigest
    owners: tuple[str, ...]
    token: str
    seen: Seen = ""


class VerifiedDecision(Message):
    """The claims of a decision whose signature and subject are verified."""

    approver_id: str
    decision: Literal["approve", "reject"]
    reason: str
    expires: AwareDatetime
    max_runs: int | None
    nonce: str
    deputy: str = ""
    """Name of the deputy who signed in the approver's name; empty if the approver did."""


class VoteRequest(Message):
    """Input of ``accept_query`` and ``reject_query``: ``token`` is the approver's signed decision."""

    collaboration: str
    query: Name
    proposal_id: str
    version: str
    digest: HexDigest
    token: str
    seen: Seen = ""


class WithdrawRequest(Message):
    """Input of ``withdraw_proposal``."""

    command: AuthorisedCommand
    proposal_id: str
    expired: bool = False
    """True if the deadline has passed. Then the authorisation that made the proposal is sufficient, even if it has expired."""


class ProposalWithdrawn(Message):
    """Result of ``withdraw_proposal``: the proposal is not open."""

    seen: Seen = ""


class BallotRecorded(Message):
    """State of the proposal after a vote; ``ballots`` by user ID."""

    proposal_state: Literal["Open", "Accepted", "Rejected", "Withdrawn"]
    ballots: dict[str, Literal["accepted", "rejected"]]
    seen: Seen = ""


class GovernanceQueryState(Message):
    """What governance holds of a query."""

    state: Literal["Missing", "Draft", "Proposed", "Accepted"]
    version: str = ""
    digest: str = ""
    proposal_id: str = ""
    proposal_state: Literal["", "Open", "Accepted", "Rejected", "Withdrawn"] = ""
    approvers: tuple[str, ...] = ()
    ballots: dict[str, Literal["accepted", "rejected"]] = {}
    seen: Seen = ""
    """The state is at least as recent as this transaction."""
    approvals: ApprovalsFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of an accepted query."""


class ApprovalsFound(Message):
    """What governance says about the approvals of an accepted query."""

    refusal: str = ""
    """The code with which a run would be refused; empty if it may begin."""
    expire: AwareDatetime | None = None
    """Earliest expiry of the signed decisions; None if there is none."""
    run_limit: int | None = None
    """The smallest limit of runs; None if no approval has one."""
    datasets: tuple[Name, ...] = ()


class WatchQueriesInput(Message):
    """Input of ``WatchQueries`` and of ``watch_queries``."""

    collaboration: str


class QueryChangeRequest(Message):
    """Input of ``find_query_change``, which returns what governance holds if that differs from ``known``."""

    collaboration: str
    query: Name
    known: GovernanceQueryState


ReminderKind = Literal["reminder", "escalation", "last-reminder", "renewal"]


class NotifyRequest(Message):
    """Input of ``notify``."""

    collaboration: str
    query: Name
    proposal_id: str
    kind: ReminderKind
    recipient: Name
    """Name of the collaborator, or ``operator``."""
    expires: AwareDatetime
    """When the proposal, or the first approval, expires."""
    seen: Seen = ""


class Notified(Message):
    """Whether ``notify`` posted a reminder, and the reason if it did not."""

    sent: bool
    reason: str = ""


class PendingNotification(Message):
    """A reminder of a proposal that a recipient does not have yet."""

    kind: ReminderKind
    recipient: Name
    proposal_id: str


class HistoryEntry(Message):
    """One event in the life of a query."""

    at: AwareDatetime
    event: str
    by: str = ""
    detail: str = ""


def decision_mark(token: str) -> str:
    """Return a short identifier of a signed decision: the first 16 hex digits of its SHA-256."""
    return sha256_hex(token.encode())[:16]


class RefusedMessage(Message):
    """A message that was refused, and the error."""

    at: AwareDatetime
    kind: str
    code: str
    message: str
    cause: str = ""
    hint: str = ""
    category: str = "refused"
    about: str = ""
    """For a vote, :func:`decision_mark` of its signed decision, so that the sender can find it."""


class QueryState(Message):
    """Answer of the Temporal query ``state``: the diagram's note boxes and more. Collaborators are given by name, owners by user ID."""

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
    seen: Seen = ""
    deputies: dict[str, str] = {}
    """The deputy who decided, by owner, for the owners whose deputy did."""
    since: AwareDatetime | None = None
    """When the current stage began."""
    reminded: tuple[ReminderKind, ...] = ()
    """Reminders that were sent in the current stage."""
    run_limit: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """The smallest limit of runs of the approvals; None if no approval has one."""
    refusal: str = Field(default="", exclude_if=lambda value: not value)
    """Of an approved query: the code with which a run would be refused, such as ``ApprovalRunsExhausted``; empty if it may begin."""


class DecisionMessage(Message):
    """Argument of ``approve`` and ``reject``: a signed decision."""

    decision: SignedText
    seen: Seen = ""


class AuthorMessage(Message):
    """Argument of ``update``, ``propose`` and ``withdraw``: who sends it, the signed authorisation, and for ``update`` the new text."""

    party: Name
    authorisation: SignedText
    spec: QuerySpec | None = None
    seen: Seen = ""


class CommandOutcome(Message):
    """Result of an update: the state of the query after the command."""

    stage: QueryStage
    version: str
    pending: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    detail: str = ""
    seen: Seen = ""


GovernanceQueryState.model_rebuild()
PublishQueryInput.model_rebuild()
