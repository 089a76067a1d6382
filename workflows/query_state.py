"""The states of a query and the transitions between them. Independent of Temporal.

::

    Creating -> Draft <-> Proposed -> Approved
       |          |           |          |
       v          v           v          v
     Failed   Withdrawn    Expired    Expired
    Cancelled  Expired    Cancelled
              Cancelled

A proposal returns to Draft when an owner rejects it, when its author withdraws it, or when governance holds a draft again. People see
the states of :mod:`cleanroom.lifecycle.query`: an Approved query is Exhausted for them when its runs are used up.

The class is deterministic: the caller passes the time as ``now`` and the answers of governance as messages.
:mod:`workflows.publish_query` handles commands and schedules activities, :mod:`workflows.query_status_page` renders the Web UI page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cleanroom.display_names import error_with_names, with_names
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError
from cleanroom.identifiers import is_older_transaction, latest_transaction
from cleanroom.lifecycle.query import APPROVED
from cleanroom.messages.known import KnownState
from cleanroom.messages.query import (
    ApprovalsFound,
    AuthorisedCommand,
    BallotRecorded,
    DraftStored,
    GovernanceQueryState,
    HistoryEntry,
    PublishQueryInput,
    QueryDraft,
    QueryProposed,
    QueryStage,
    QueryState,
    RefusedMessage,
    ReminderKind,
    VerifiedDecision,
)
from workflows.query_errors import QueryErrors

MAX_REFUSED = 50
MAX_HISTORY = 200
CLOSED: tuple[QueryStage, ...] = ("Withdrawn", "Expired", "Failed", "Cancelled")
NO_CARD = (
    "The text was changed in governance, outside of this workflow, so this page has no card for it. Read the document before you decide."
)
SEEN = "seen in governance"


class QueryStateMachine(QueryErrors):
    """State of one query. Votes are kept by user ID; collaborators are shown by name."""

    def __init__(self, input: PublishQueryInput) -> None:
        carried = input.carried
        self.name = input.spec.name
        self.stage = carried.stage if carried else "Creating"
        self.version = carried.version if carried else ""
        self.digest = carried.digest if carried else ""
        self.proposal_id = carried.proposal_id if carried else ""
        self.owners: tuple[str, ...] = carried.owners if carried else ()
        self.ballots: dict[str, str] = {}
        self.deputies: dict[str, str] = {}
        """The deputy who decided, by user ID, for the owners whose deputy did."""
        self.expires: datetime | None = carried.expires if carried else None
        self.since: datetime | None = carried.since if carried else None
        """When the current stage began; reminders count from there."""
        self.reminded: tuple[ReminderKind, ...] = carried.reminded if carried else ()
        self.card = carried.card if carried else ""
        self.history: deque[HistoryEntry] = deque(carried.history if carried else (), MAX_HISTORY)
        self.refused: deque[RefusedMessage] = deque(carried.refused if carried else (), MAX_REFUSED)
        self.seen = latest_transaction(input.seen, carried.seen if carried else "")
        """The latest transaction of governance that this query depends on. Older answers are not news."""
        self.spec = (carried.spec if carried else None) or input.spec
        self.proposal_command: AuthorisedCommand | None = input.carried_command
        """The command with which the open proposal was made. It authorises the withdrawal at the deadline."""
        self.approvals_expire_at: datetime | None = input.carried_approvals_expire_at
        """Earliest expiry of the approvals that were cast through this workflow."""
        self.run_limit: int | None = carried.run_limit if carried else None
        """The smallest limit of runs of the approvals that were cast through this workflow."""
        self.refusal = carried.refusal if carried else ""
        """Of an approved query: the code with which a run would be refused, as far as this workflow knows."""
        self.accepted = self.stage == "Approved"
        """Whether governance has accepted the query, also after this workflow has closed it."""
        self.datasets = _datasets(self.spec)
        self.read_approvals = bool(carried and carried.accepted)
        """Whether approvals were cast that this workflow has not verified, so that it must read their terms in governance."""
        self._approval_period = timedelta(seconds=input.approval_seconds)
        self._names = {party.user_id: party.name for party in input.parties}
        if carried:
            ids = {party.name: party.user_id for party in input.parties}
            self.ballots = {ids.get(name, name): "accepted" for name in carried.accepted}
            self.ballots |= {ids.get(name, name): "rejected" for name in carried.rejected}
            self.deputies = {ids.get(name, name): deputy for name, deputy in carried.deputies.items()}

    # ------------------------------------------------------------------ reading

    @property
    def closed(self) -> bool:
        """Whether the query has ended. An approved query has not: it ends when its approvals expire."""
        return self.stage in CLOSED

    @property
    def shown_expiry(self) -> datetime | None:
        """When the draft, the proposal or the first approval expires; None for a query that is accepted without a valid approval."""
        return None if self.accepted and self.approvals_expire_at is None else self.expires

    def display_name(self, user_id: str) -> str:
        """Return the collaborator's name, or the user ID of an unknown user."""
        return self._names.get(user_id, user_id)

    def display_text(self, text: str) -> str:
        """Replace user IDs by names of collaborators. Statements, documents and errors of governance contain user IDs."""
        return with_names(text, self._names)

    def with_display_names(self, error: CleanRoomError) -> CleanRoomError:
        """Return a copy of ``error`` with names of collaborators instead of user IDs."""
        return error_with_names(error, self._names)

    def voters(self, ballot: str) -> tuple[str, ...]:
        """Return the names of the owners whose ballot is ``accepted`` or ``rejected``."""
        return tuple(sorted(self.display_name(user) for user, value in self.ballots.items() if value == ballot))

    def pending(self) -> tuple[str, ...]:
        """Return the names of the owners who have not voted on the open proposal."""
        if self.stage != "Proposed":
            return ()
        return tuple(sorted(self.display_name(owner) for owner in self.owners if owner not in self.ballots))

    def is_open(self, proposal_id: str) -> bool:
        """Whether this proposal is still open. Check again after every await."""
        return self.stage == "Proposed" and self.proposal_id == proposal_id

    def start_period(self, now: datetime) -> None:
        """Set the deadline of the current stage if it has none."""
        if self.expires is None:
            self._begin_stage(now, now + self._approval_period)

    def expected_governance_state(self) -> GovernanceQueryState:
        """Return the state of the query in governance as long as nothing changes there."""
        if self.stage == "Approved":
            return GovernanceQueryState(
                state="Accepted",
                version=self.version,
                digest=self.digest,
                proposal_id=self.proposal_id,
                ballots=self.ballots,
                seen=self.seen,
                approvals=ApprovalsFound(
                    refusal=self.refusal, expire=self.approvals_expire_at, run_limit=self.run_limit, datasets=self.datasets
                ),
            )
        draft = self.stage == "Draft"
        return GovernanceQueryState(
            state="Draft" if draft else "Proposed",
            version=self.version,
            digest=self.digest,
            proposal_id=self.proposal_id,
            proposal_state="" if draft else "Open",
            approvers=self.owners,
            ballots={} if draft else self.ballots,
            seen=self.seen,
        )

    def known(self) -> KnownState | None:
        """Return what this query knows of governance; None before there is a draft, and of a closed query."""
        if self.stage == "Approved":
            return KnownState.of(
                GovernanceQueryState(state="Accepted", version=self.version, proposal_id=self.proposal_id, ballots=self.ballots)
            )
        return KnownState.of(self.expected_governance_state()) if self.stage in ("Draft", "Proposed") else None

    def snapshot(self) -> QueryState:
        """Return the whole state as a message, for the Temporal query ``state`` and for continue-as-new."""
        return QueryState(
            query=self.name,
            stage=self.stage,
            version=self.version,
            digest=self.digest,
            proposal_id=self.proposal_id,
            pending=self.pending(),
            accepted=self.voters("accepted"),
            rejected=self.voters("rejected"),
            expires=self.expires,
            card=self.card,
            owners=self.owners,
            history=tuple(self.history),
            refused=tuple(self.refused),
            spec=self.spec,
            seen=self.seen,
            since=self.since,
            reminded=self.reminded,
            run_limit=self.run_limit,
            refusal=self.refusal,
            deputies={self.display_name(user): deputy for user, deputy in sorted(self.deputies.items()) if user in self.ballots},
        )

    def carried_members(self) -> dict[str, Any]:
        """Return the members of :class:`PublishQueryInput` that restore this state after continue-as-new."""
        return {
            "carried": self.snapshot(),
            "carried_command": self.proposal_command,
            "carried_approvals_expire_at": self.approvals_expire_at,
        }

    def saw(self, seen: str) -> None:
        """Take note of a transaction that a worker or the sender of a message has seen."""
        self.seen = latest_transaction(self.seen, seen)

    # ------------------------------------------------------------------ history

    def record(self, now: datetime, event: str, by: str = "", detail: str = "") -> None:
        """Add an event to the history that the Web UI shows."""
        self.history.append(HistoryEntry(at=now, event=event, by=by, detail=detail[:300]))

    def record_once(self, now: datetime, event: str, detail: str) -> None:
        """Add an event unless it is the latest one, so that a lasting condition does not displace other events."""
        if not self.history or (self.history[-1].event, self.history[-1].detail) != (event, detail):
            self.record(now, event, "", detail)

    def record_reminder(self, now: datetime, kinds: Sequence[ReminderKind]) -> None:
        """Take note that the last of ``kinds`` was sent, and that the others are not needed any longer."""
        self.reminded = (*self.reminded, *kinds)
        self.record(now, kinds[-1], "", ", ".join(self.pending()))

    def _begin_stage(self, now: datetime, expires: datetime) -> None:
        self.since, self.expires, self.reminded = now, expires, ()

    def record_refused(self, now: datetime, kind: str, error: CleanRoomError, about: str = "") -> None:
        """Add a refused message to the bounded list of refused messages."""
        self.refused.append(
            RefusedMessage(
                at=now,
                kind=kind,
                code=error.code,
                message=error.message[:500],
                cause=(error.cause or "")[:500],
                hint=(error.hint or "")[:500],
                category=error.category,
                about=about,
            )
        )

    # ------------------------------------------------------------------ transitions by commands

    def close(self, now: datetime, stage: QueryStage, by: str) -> None:
        """End the query in ``stage``, one of :data:`CLOSED`."""
        self.stage = stage
        self.record(now, stage.lower(), by)

    def draft_stored(self, spec: QuerySpec, draft: QueryDraft, stored: DraftStored) -> None:
        """Apply a draft that this workflow wrote. A proposal that was detected in governance since takes precedence."""
        if self.stage not in ("Creating", "Draft"):
            return
        self.stage, self.version, self.digest = "Draft", stored.version, stored.digest
        self.spec, self.card, self.owners, self.ballots = spec, draft.card, draft.owners, {}
        self.datasets = _datasets(spec)

    def proposal_made(self, now: datetime, owners: tuple[str, ...], proposed: QueryProposed, command: AuthorisedCommand) -> None:
        """Apply a proposal that this workflow made."""
        self.proposal_command = command
        if self.proposal_id == proposed.proposal_id:
            # The poll saw the proposal in governance before the activity returned, possibly with votes.
            return
        self.stage, self.owners, self.ballots, self.deputies, self.approvals_expire_at = "Proposed", owners, {}, {}, None
        self.run_limit, self.read_approvals = None, False
        self._take_text(proposed.version, proposed.digest)
        self.proposal_id = proposed.proposal_id
        self._begin_stage(now, now + self._approval_period)
        self.record(now, "proposed", command.party, f"version {self.version}")

    def return_to_draft(self, now: datetime, event: str, by: str = "", detail: str = "") -> None:
        """End the open proposal."""
        self.stage, self.proposal_id, self.expires, self.approvals_expire_at = "Draft", "", None, None
        self.run_limit, self.read_approvals = None, False
        self.since, self.reminded = None, ()
        self.record(now, event, by, detail)

    def vote_cast(self, now: datetime, decision: VerifiedDecision) -> None:
        """Record a vote that this workflow cast."""
        self.record(
            now,
            "approved" if decision.decision == "approve" else "rejected",
            self.display_name(decision.approver_id),
            ": ".join(part for part in (f"deputy {decision.deputy}" if decision.deputy else "", decision.reason) if part),
        )

    def count_vote(self, now: datetime, decision: VerifiedDecision, recorded: BallotRecorded) -> bool:
        """Apply the ballots after a vote on the open proposal, and return whether the vote ended the proposal.

        The proposal expires when the first of its approvals expires.
        """
        if decision.decision == "approve":
            self.expires = min(decision.expires, self.expires or decision.expires)
            self.approvals_expire_at = min(decision.expires, self.approvals_expire_at or decision.expires)
            self.run_limit = min((limit for limit in (decision.max_runs, self.run_limit) if limit is not None), default=None)
        # Ballots of one proposal are never taken back. `recorded` may be older than a vote that was counted before.
        self.read_approvals |= bool(recorded.ballots.keys() - self.ballots.keys() - {decision.approver_id})
        self.ballots |= recorded.ballots
        self.deputies |= {decision.approver_id: decision.deputy} if decision.deputy else {}
        if recorded.proposal_state == "Accepted" and self.stage == "Approved":
            # The poll has seen it before, without this decision's expiry.
            self.expires = self.approvals_expire_at
        elif recorded.proposal_state == "Accepted":
            self._approve(now)
        elif recorded.proposal_state == "Rejected":
            self.return_to_draft(now, "returned to draft", "", "one owner rejected")
        return recorded.proposal_state != "Open"

    def _approve(self, now: datetime, detail: str = "") -> None:
        """All owners have approved: the expiry of their approvals replaces the deadline of the proposal."""
        self.stage, self.accepted = "Approved", True
        self._begin_stage(now, self.approvals_expire_at or now + self._approval_period)
        self.record(now, "approved by all", "", detail)

    # ------------------------------------------------------------------ transitions by governance

    def approved_in_governance(self, now: datetime) -> None:
        """Apply an acceptance that prevented the withdrawal at the deadline. Acceptance requires the votes of all owners."""
        self.ballots, self.read_approvals = dict.fromkeys(self.owners, "accepted"), True
        self._approve(now, SEEN)

    def withdrawal_failed(self, now: datetime, by: str, reason: str) -> None:
        """Keep the proposal open for another period: its deadline has passed, but governance still accepts votes."""
        self._begin_stage(now, now + self._approval_period)
        self.record(now, "not withdrawn", by, reason)

    def apply_governance_state(self, now: datetime, state: GovernanceQueryState) -> bool:
        """Apply a state that differs from the expected one. Governance takes precedence.

        Returns:
            Whether the proposal that was shown has ended, so that votes on it that are not cast are void.
        """
        if self.stage not in ("Draft", "Proposed", "Approved") or state.state == "Missing" or self._is_older(state):
            return False
        self.saw(state.seen)
        if self.stage == "Approved":
            self._take_approvals(now, state)
            return False
        same_proposal = state.proposal_id == self.proposal_id
        if self.stage == "Proposed" and (state.state, same_proposal, state.ballots) == ("Proposed", True, self.ballots):
            return False
        if self.stage == "Draft" and (state.state, state.version, state.digest) == ("Draft", self.version, self.digest):
            return False
        if state.state == "Accepted":
            self._take_proposal(now, state)
            self.ballots, self.version = dict(state.ballots), state.version
            self._approve(now, SEEN)
            self._take_approvals(now, state)
            return not same_proposal
        if state.state == "Proposed" and not same_proposal:
            self._take_proposal(now, state)
            self.ballots, self.stage, self.read_approvals = dict(state.ballots), "Proposed", bool(state.ballots)
            self.record(now, "proposed", "", SEEN)
            return True
        if state.state == "Draft":
            event = "draft changed" if self.stage == "Draft" else "returned to draft"
            self.ballots = dict(state.ballots)
            self._take_text(state.version, state.digest)
            self.return_to_draft(now, event, "", SEEN)
            return True
        self.read_approvals |= dict(state.ballots) != self.ballots
        self.ballots = dict(state.ballots)
        self.record(now, "votes changed", "", SEEN)
        return False

    def _take_approvals(self, now: datetime, state: GovernanceQueryState) -> None:
        """Take over what governance says about the approvals: a run was started, consent was withdrawn or given again."""
        found, before = state.approvals, self.state
        if state.state != "Accepted" or found is None:
            return
        self.read_approvals = False
        self.refusal, self.run_limit, self.approvals_expire_at = found.refusal, found.run_limit, found.expire
        self.expires, self.datasets = found.expire or self.expires, found.datasets or self.datasets
        if self.state is not before:
            self.record(now, "approved again" if self.state is APPROVED else self.state.word.lower(), "", found.refusal)

    def _is_older(self, state: GovernanceQueryState) -> bool:
        """Whether ``state`` is from before what this query depends on: the node that answered lags behind."""
        if state.seen:
            return is_older_transaction(state.seen, self.seen)
        return self.stage == state.state == "Draft" and is_older_transaction(state.version, self.version)

    def _take_proposal(self, now: datetime, state: GovernanceQueryState) -> None:
        """Take over text, approvers and period of a proposal that was not made by this workflow."""
        if state.proposal_id == self.proposal_id:
            return
        self._take_text(state.version, state.digest)
        self.proposal_id, self.owners, self.proposal_command = state.proposal_id, state.approvers, None
        self.approvals_expire_at, self.deputies, self.run_limit = None, {}, None
        self._begin_stage(now, now + self._approval_period)

    def _take_text(self, version: str, digest: str) -> None:
        """Show the version that governance holds. The card describes only the text that this workflow wrote."""
        if digest != self.digest:
            self.card = NO_CARD
        self.version, self.digest = version, digest


def _datasets(spec: QuerySpec) -> tuple[str, ...]:
    return tuple(sorted({*spec.inputs.values(), spec.output}))
