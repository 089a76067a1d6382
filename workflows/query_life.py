"""The states of a query and the rules that lead from one to the next: what ``PublishQuery`` knows, without anything of Temporal.

::

    Creating -> Draft <-> Proposed -> Approved        Draft: rejected, withdrawn, changed or withdrawn in governance
                  |          |           |
                  v          v           v
              Withdrawn    Expired     Expired        and Failed, when it could not be created

Deterministic: time comes in as ``now``, the answers of governance come in as messages. :mod:`workflows.publish_query` takes messages and
calls activities, :mod:`workflows.query_story` writes what is shown.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Any

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, PreconditionFailed
from cleanroom.messages.query import (
    BallotRecorded,
    DatasetOwners,
    DraftStored,
    GovernanceQueryState,
    HistoryEntry,
    ProposerOrder,
    PublishQueryInput,
    QueryDraft,
    QueryProposed,
    QueryStage,
    QueryState,
    RefusedMessage,
    VerifiedDecision,
)

MAX_REFUSED = 50
MAX_HISTORY = 200
CLOSED: tuple[QueryStage, ...] = ("Withdrawn", "Expired", "Failed")
OTHER_TEXT = "The text was changed in governance, outside of this workflow; it has no card. Read the document itself before deciding."
SEEN = "seen in governance"


class QueryLife:
    """What is known of one query. Names of people are for showing; who voted is kept by user id."""

    def __init__(self, input: PublishQueryInput) -> None:
        carried = input.carried
        self.query = input.spec.name
        self.stage: QueryStage = carried.stage if carried else "Creating"
        self.version = carried.version if carried else ""
        self.digest = carried.digest if carried else ""
        self.proposal_id = carried.proposal_id if carried else ""
        self.owners: tuple[str, ...] = carried.owners if carried else ()
        self.ballots: dict[str, str] = {}
        self.expires: datetime | None = carried.expires if carried else None
        self.card = carried.card if carried else ""
        self.history: deque[HistoryEntry] = deque(carried.history if carried else (), MAX_HISTORY)
        self.refused: deque[RefusedMessage] = deque(carried.refused if carried else (), MAX_REFUSED)
        self.spec = (carried.spec if carried else None) or input.spec
        self.proposed_on: ProposerOrder | None = input.carried_order
        self.acknowledged = input.carried_acknowledged or self.digest
        """Digest of the draft that was written here, or that somebody was told of: nothing else is proposed unseen."""
        self.good_until: datetime | None = input.carried_good_until
        """When the first of the approvals that were counted here ends."""
        self._period = timedelta(seconds=input.approval_seconds)
        self._names = {party.user_id: party.name for party in input.parties}
        if carried:
            ids = {party.name: party.user_id for party in input.parties}
            self.ballots = {ids.get(name, name): "accepted" for name in carried.accepted}
            self.ballots |= {ids.get(name, name): "rejected" for name in carried.rejected}

    # ------------------------------------------------------------------ what is asked of it

    @property
    def closed(self) -> bool:
        return self.stage in CLOSED

    def name(self, user_id: str) -> str:
        return self._names.get(user_id, user_id)

    def named(self, text: str) -> str:
        """A card or an error's text with names of collaborators for user ids; what is signed, and what governance says, holds the ids."""
        for user, name in self._names.items():
            text = text.replace(user, name)
        return text

    def told(self, error: CleanRoomError) -> CleanRoomError:
        """``error`` as the people here read it: by names."""
        value = error.to_dict()
        return CleanRoomError.from_dict(value | {key: self.named(value[key]) for key in ("message", "cause", "hint") if value[key]})

    def by(self, ballot: str) -> tuple[str, ...]:
        """Names of those who voted ``accepted`` or ``rejected``."""
        return tuple(sorted(self.name(user) for user, value in self.ballots.items() if value == ballot))

    def pending(self) -> tuple[str, ...]:
        """Names of those who are waited for."""
        if self.stage != "Proposed":
            return ()
        return tuple(sorted(self.name(owner) for owner in self.owners if owner not in self.ballots))

    def is_open(self, proposal_id: str) -> bool:
        """Whether that proposal is still what is voted on: what was awaited took its time."""
        return self.stage == "Proposed" and self.proposal_id == proposal_id

    def deadline(self, now: datetime) -> datetime:
        """When the wait ends; set here where nothing else has set it."""
        if self.expires is None:
            self.expires = now + self._period
        return self.expires

    def known(self) -> GovernanceQueryState:
        """What governance says as long as nobody acts there."""
        draft = self.stage == "Draft"
        return GovernanceQueryState(
            state="Draft" if draft else "Proposed",
            version=self.version,
            digest=self.digest,
            proposal_id=self.proposal_id,
            proposal_state="" if draft else "Open",
            approvers=self.owners,
            ballots={} if draft else self.ballots,
        )

    def state(self) -> QueryState:
        """Everything, for the query ``state`` and for the next part of a long history."""
        return QueryState(
            query=self.query,
            stage=self.stage,
            version=self.version,
            digest=self.digest,
            proposal_id=self.proposal_id,
            pending=self.pending(),
            accepted=self.by("accepted"),
            rejected=self.by("rejected"),
            expires=self.expires,
            card=self.card,
            owners=self.owners,
            history=tuple(self.history),
            refused=tuple(self.refused),
            spec=self.spec,
        )

    def carried(self) -> dict[str, Any]:
        """The members of :class:`PublishQueryInput` from which :class:`QueryLife` goes on."""
        return {
            "carried": self.state(),
            "carried_order": self.proposed_on,
            "carried_acknowledged": self.acknowledged,
            "carried_good_until": self.good_until,
        }

    def not_draft(self, what: str) -> CleanRoomError:
        return PreconditionFailed("QueryNotDraft", f"{what}: the query is {self.stage}, not a draft.", hint="Withdraw the proposal first.")

    def not_proposed(self) -> CleanRoomError:
        return PreconditionFailed("QueryNotProposed", f"The query is {self.stage}; only a proposed query takes votes.")

    def not_open(self) -> CleanRoomError:
        return PreconditionFailed(
            "QueryNotOpen",
            f"The query is {self.stage}; there is nothing to withdraw.",
            hint="An owner stops an approved query with `cleanroom consent off`.",
        )

    def ended(self) -> CleanRoomError:
        return PreconditionFailed("QueryClosed", f"The query is {self.stage.lower()}; nothing can be done to it any more.")

    # ------------------------------------------------------------------ what happens to it

    def note(self, now: datetime, event: str, by: str = "", detail: str = "") -> None:
        self.history.append(HistoryEntry(at=now, event=event, by=by, detail=detail[:300]))

    def note_once(self, now: datetime, event: str, detail: str) -> None:
        """:meth:`note`, unless that was the last thing noted: what lasts must not push the rest out of the history."""
        if not self.history or (self.history[-1].event, self.history[-1].detail) != (event, detail):
            self.note(now, event, "", detail)

    def refuse(self, now: datetime, kind: str, error: CleanRoomError, about: str = "") -> None:
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

    def close(self, now: datetime, stage: QueryStage, by: str) -> None:
        self.stage = stage
        self.note(now, stage.lower(), by)

    def stored(self, spec: QuerySpec, draft: QueryDraft, stored: DraftStored) -> None:
        """A draft was written on an order that came here. If governance has moved on since, that was seen and stands."""
        if self.stage not in ("Creating", "Draft"):
            return
        self.stage, self.version, self.digest = "Draft", stored.version, stored.digest
        self.acknowledged = stored.digest
        self.spec, self.card, self.owners, self.ballots = spec, draft.card, draft.owners, {}

    def look_again(self, owners: DatasetOwners) -> None:
        """Governance holds another draft than was written here: its author is told, and may propose it then."""
        self._take_text(owners.version, owners.digest)
        self.acknowledged = owners.digest

    def proposed(self, now: datetime, owners: tuple[str, ...], proposed: QueryProposed, on: ProposerOrder) -> None:
        """It was proposed on an order that came here."""
        seen = self.proposal_id == proposed.proposal_id
        self.proposed_on = on
        if seen:
            # Governance was read before the step told: its ballots are the newer ones.
            return
        self.stage, self.owners, self.ballots, self.good_until = "Proposed", owners, {}, None
        self.version, self.digest, self.proposal_id = proposed.version, proposed.digest, proposed.proposal_id
        self.expires = now + self._period
        self.note(now, "proposed", on.party, f"version {self.version}")

    def back_to_draft(self, now: datetime, event: str, by: str = "", detail: str = "") -> None:
        self.stage, self.proposal_id, self.expires, self.good_until = "Draft", "", None, None
        self.note(now, event, by, detail)

    def voted(self, now: datetime, decision: VerifiedDecision) -> None:
        """A vote that came here was cast."""
        self.note(now, "approved" if decision.decision == "approve" else "rejected", self.name(decision.approver_id), decision.reason)

    def count(self, now: datetime, decision: VerifiedDecision, recorded: BallotRecorded) -> bool:
        """The ballots after such a vote on the open proposal; True when that ended it. An approval that ends sooner ends the wait."""
        if decision.decision == "approve":
            self.expires = min(decision.expires, self.expires or decision.expires)
            self.good_until = min(decision.expires, self.good_until or decision.expires)
        self.ballots = dict(recorded.ballots)
        if recorded.proposal_state == "Accepted":
            self.approved(now)
        elif recorded.proposal_state == "Rejected":
            self.back_to_draft(now, "returned to draft", "", "one owner rejected")
        return recorded.proposal_state != "Open"

    def approved(self, now: datetime, detail: str = "") -> None:
        """Every owner has approved: the proposal's deadline is over, the approvals' own is what counts."""
        self.stage, self.expires = "Approved", self.good_until or now + self._period
        self.note(now, "approved by all", "", detail)

    def accepted_elsewhere(self, now: datetime) -> None:
        """Governance has accepted it at the last moment; that takes every approver's vote."""
        self.ballots = dict.fromkeys(self.owners, "accepted")
        self.approved(now, SEEN)

    def overdue(self, now: datetime, by: str, reason: str) -> None:
        """Its time is over and yet it could not be withdrawn: governance still takes votes, so it is not shown as closed."""
        self.expires = now + self._period
        self.note(now, "not withdrawn", by, reason)

    def project(self, now: datetime, state: GovernanceQueryState, *, proposals: bool) -> bool:
        """Take over what governance says where it is something else than is shown: governance is right.

        Args:
            proposals: Whether a proposal that was made in governance is shown as one.

        Returns:
            Whether that ended the proposal which was shown: votes on their way to it are void.
        """
        if self.stage not in ("Draft", "Proposed") or state.state == "Missing":
            return False
        same_proposal = state.proposal_id == self.proposal_id
        if self.stage == "Proposed" and (state.state, same_proposal, state.ballots) == ("Proposed", True, self.ballots):
            return False
        if self.stage == "Draft" and (state.state, state.version, state.digest) == ("Draft", self.version, self.digest):
            return False
        if state.state == "Accepted":
            self._take_proposal(now, state)
            self.ballots, self.version = dict(state.ballots), state.version
            self.approved(now, SEEN)
            return not same_proposal
        if state.state == "Proposed" and not same_proposal and proposals:
            self._take_proposal(now, state)
            self.ballots, self.stage = dict(state.ballots), "Proposed"
            self.note(now, "proposed", "", SEEN)
            return True
        if state.state == "Draft" or not same_proposal:
            event = "draft changed" if self.stage == "Draft" else "returned to draft"
            self.ballots = dict(state.ballots)
            self._take_text(state.version, state.digest)
            self.back_to_draft(now, event, "", SEEN)
            return True
        self.ballots = dict(state.ballots)
        self.note(now, "votes changed", "", SEEN)
        return False

    def _take_proposal(self, now: datetime, state: GovernanceQueryState) -> None:
        """What is proposed or accepted in governance, if it was not proposed here: its own text, approvers and time."""
        if state.proposal_id == self.proposal_id:
            return
        self._take_text(state.version, state.digest)
        self.proposal_id, self.owners, self.proposed_on, self.good_until = state.proposal_id, state.approvers, None, None
        self.expires = now + self._period

    def _take_text(self, version: str, digest: str) -> None:
        """Show the text that governance holds. The card was drawn from what was written here; it must not stand beside another text."""
        if digest != self.digest:
            self.card = OTHER_TEXT
        self.version, self.digest = version, digest
