"""Diagram "Publish Query": create, update, propose, approve, reject, withdraw, expire. One long-lived workflow a query.

Governance is the truth; this workflow is its projection and its durable to-do list. Messages (signals, or updates for callers
that want an answer) are taken one after the other; a vote is cast on the queue of whom it identifies, side by side with others,
because a collaborator's worker may be away for days.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.collaborator import CollaboratorGovernance
    from activities.frontend import Frontend
    from cleanroom.documents.dataset import describe_validation
    from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, PreconditionFailed, Refused
    from cleanroom.identifiers import FRONTEND_QUEUE, collaborator_queue
    from cleanroom.messages.query import (
        AuthorMessage,
        AuthorOrder,
        BallotRecorded,
        CommandOutcome,
        DecisionMessage,
        DraftOrder,
        GenerateQueryRequest,
        GovernanceQueryState,
        HistoryEntry,
        OwnersRequest,
        ProposeQueryOrder,
        ProposerOrder,
        PublishQueryInput,
        QueryChangeRequest,
        QueryStage,
        QueryState,
        RefusedMessage,
        VerifiedDecision,
        VerifyDecisionRequest,
        VoteOrder,
        WithdrawOrder,
    )
    from cleanroom.temporal import attributes
    from cleanroom.temporal.failures import application_error, error_from_failure
    from cleanroom.temporal.markdown import code, code_block, details, escape
    from cleanroom.temporal.retries import NO_RETRY, POLL, STANDARD

MAX_REFUSED = 50
MAX_HISTORY = 200
MAX_WAITING = 100
"""Messages that may wait at once; more are refused, so that a flood cannot grow the state without bound (T17)."""

WATCH_DRAFTS = "watch-drafts"
"""Patch: drafts are watched too, and a proposal made in governance is shown (histories before it watched open proposals alone)."""

OTHER_TEXT = "The text was changed in governance, outside of this workflow; it has no card. Read the document itself before deciding."

_CLOSED: tuple[QueryStage, ...] = ("Withdrawn", "Expired", "Failed")


@dataclass
class _Command:
    """A message on its way."""

    kind: str
    message: Any
    outcome: CommandOutcome | None = None
    error: CleanRoomError | None = None

    @property
    def done(self) -> bool:
        return self.outcome is not None or self.error is not None


@workflow.defn(name="PublishQuery")
class PublishQuery:
    """The life of one query from its first draft to its last day."""

    @workflow.init
    def __init__(self, input: PublishQueryInput) -> None:
        self._input = input
        self._names = {party.user_id: party.name for party in input.parties}
        carried = input.carried
        self._stage: QueryStage = carried.stage if carried else "Creating"
        self._version = carried.version if carried else ""
        self._digest = carried.digest if carried else ""
        self._proposal_id = carried.proposal_id if carried else ""
        self._owners: tuple[str, ...] = carried.owners if carried else ()
        self._ballots: dict[str, str] = {}
        if carried:
            ids = {party.name: party.user_id for party in input.parties}
            self._ballots = {ids.get(name, name): "accepted" for name in carried.accepted}
            self._ballots |= {ids.get(name, name): "rejected" for name in carried.rejected}
        self._expires: datetime | None = carried.expires if carried else None
        self._card = carried.card if carried else ""
        self._history: deque[HistoryEntry] = deque(carried.history if carried else (), MAX_HISTORY)
        self._refused: deque[RefusedMessage] = deque(carried.refused if carried else (), MAX_REFUSED)
        self._spec = (carried.spec if carried else None) or input.spec
        self._commands: deque[_Command] = deque()
        self._votes: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[GovernanceQueryState] | None = None
        self._proposed_on = input.carried_order
        self._acknowledged = input.carried_acknowledged or self._digest
        """Digest of the draft that was written here, or that somebody was told of: nothing else is proposed unseen."""

    # ------------------------------------------------------------------ the life

    @workflow.run
    async def run(self, input: PublishQueryInput) -> QueryState:
        if input.carried is None:
            try:
                await self._create()
            except Exception as error:
                self._close("Failed", error_from_failure(error).code)
                raise
        while self._stage not in _CLOSED:
            self._show()
            await self._next_event()
            while self._commands and self._stage not in _CLOSED:
                await self._handle(self._commands.popleft())
            if workflow.info().is_continue_as_new_suggested() and self._may_continue():
                await self._stop_watching()
                workflow.continue_as_new(input.model_copy(update=self._carried()))
        await self._stop_watching()
        for command in self._commands:
            self._refuse(
                command, PreconditionFailed("QueryClosed", f"The query is {self._stage.lower()}; nothing can be done to it any more.")
            )
        for vote in self._votes.values():
            vote.cancel()
        await workflow.wait_condition(workflow.all_handlers_finished, timeout=timedelta(minutes=1))
        self._show()
        return self._state()

    def _carried(self) -> dict[str, Any]:
        return {"carried": self._state(), "carried_order": self._proposed_on, "carried_acknowledged": self._acknowledged}

    def _may_continue(self) -> bool:
        return not self._commands and not self._votes and workflow.all_handlers_finished()

    async def _next_event(self) -> None:
        """Wait for a message, a change in governance, or the deadline; whichever is first."""
        if self._watch is None and (self._stage == "Proposed" or (self._stage == "Draft" and workflow.patched(WATCH_DRAFTS))):
            self._watch = asyncio.create_task(self._governance_change())
        watch = self._watch
        now = workflow.now()
        deadline = self._expires or now + timedelta(seconds=self._input.approval_seconds)
        self._expires = deadline
        try:
            await workflow.wait_condition(
                lambda: bool(self._commands) or (watch is not None and watch.done()) or self._stage in _CLOSED,
                timeout=max(deadline - now, timedelta(milliseconds=1)),
                timeout_summary="approval expires" if self._stage == "Proposed" else "query expires",
            )
        except TimeoutError:
            await self._expire()
            return
        if watch is not None and watch is self._watch and watch.done():
            self._watch = None
            self._project(watch.result())

    async def _governance_change(self) -> GovernanceQueryState:
        """Poll governance outside of history until it says something else than we show."""
        seconds = timedelta(seconds=self._input.reconcile_seconds)
        poll = POLL.within(timedelta(days=366))
        config = poll.config("votes cast elsewhere", task_queue=FRONTEND_QUEUE)
        config["retry_policy"] = RetryPolicy(initial_interval=seconds, backoff_coefficient=1, maximum_interval=seconds)
        known = GovernanceQueryState(
            state="Draft" if self._stage == "Draft" else "Proposed",
            version=self._version,
            digest=self._digest,
            proposal_id=self._proposal_id,
            proposal_state="" if self._stage == "Draft" else "Open",
            approvers=self._owners,
            ballots={} if self._stage == "Draft" else self._ballots,
        )
        request = QueryChangeRequest(collaboration=self._input.collaboration, query=self._input.spec.name, known=known)
        try:
            return await workflow.execute_activity_method(Frontend.await_query_change, request, **config)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            # Governance refuses to be read: shown, and tried again after the interval, while messages are still taken.
            self._note("governance cannot be read", "", error_from_failure(error).code)
            await workflow.sleep(seconds, summary="governance cannot be read")
            return known

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.cancel()
            try:
                await watch
            except (Exception, asyncio.CancelledError) as error:
                if not is_cancelled_exception(error):
                    raise

    async def _expire(self) -> None:
        """The deadline has passed: an open proposal is withdrawn in governance, so that no late vote can count."""
        await self._stop_watching()
        if self._stage == "Proposed" and self._proposed_on is not None:
            proposer = self._proposed_on
            try:
                await workflow.execute_activity_method(
                    CollaboratorGovernance.withdraw_proposal,
                    WithdrawOrder(order=proposer.order, proposal_id=self._proposal_id, expired=True),
                    **STANDARD.within(timedelta(days=1)).config("withdraw what has expired", task_queue=collaborator_queue(proposer.party)),
                )
            except Exception as error:
                self._note("not withdrawn", proposer.party, error_from_failure(error).code)
        self._close("Expired", "deadline")

    # ------------------------------------------------------------------ messages

    @workflow.signal(
        description='Approve this exact version: {"decision": "<signed decision>"} (`cleanroom query approve --print-signal`).'
    )
    def approve(self, message: Any) -> None:
        self._enqueue(_Command("approve", message))

    @workflow.signal(description='Reject this exact version: {"decision": "<signed decision>"}.')
    def reject(self, message: Any) -> None:
        self._enqueue(_Command("reject", message))

    @workflow.signal(description="Replace the draft (before it is proposed).")
    def update(self, message: Any) -> None:
        self._enqueue(_Command("update", message))

    @workflow.signal(description="Propose the draft to the owners of every dataset.")
    def propose(self, message: Any) -> None:
        self._enqueue(_Command("propose", message))

    @workflow.signal(description="Withdraw an open proposal (back to draft), or close a draft.")
    def withdraw(self, message: Any) -> None:
        self._enqueue(_Command("withdraw", message))

    @workflow.update(name="decide", description="Approve or reject, with an answer.")
    async def decide(self, message: DecisionMessage) -> CommandOutcome:
        return await self._answer(_Command("decide", message.model_dump()))

    @workflow.update(name="revise", description="Replace the draft, with an answer.")
    async def revise(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(_Command("update", message.model_dump(mode="json")))

    @workflow.update(name="submit", description="Propose the draft, with an answer.")
    async def submit(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(_Command("propose", message.model_dump(mode="json")))

    @workflow.update(name="retract", description="Withdraw, with an answer.")
    async def retract(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(_Command("withdraw", message.model_dump(mode="json")))

    @decide.validator
    def _validate_decide(self, message: DecisionMessage) -> None:
        if self._stage != "Proposed":
            raise application_error(self._not_proposed())

    @revise.validator
    def _validate_revise(self, message: AuthorMessage) -> None:
        if self._stage not in ("Creating", "Draft"):
            raise application_error(self._not_draft("update"))

    @submit.validator
    def _validate_submit(self, message: AuthorMessage) -> None:
        if self._stage not in ("Creating", "Draft"):
            raise application_error(self._not_draft("propose"))

    @retract.validator
    def _validate_retract(self, message: AuthorMessage) -> None:
        if self._stage in (*_CLOSED, "Approved"):
            raise application_error(self._not_open())

    def _enqueue(self, command: _Command) -> None:
        if len(self._commands) >= MAX_WAITING:
            self._refuse(command, Refused("TooManyMessages", f"{MAX_WAITING} messages are waiting; this one was not taken."))
            return
        self._commands.append(command)

    async def _answer(self, command: _Command) -> CommandOutcome:
        self._enqueue(command)
        await workflow.wait_condition(lambda: command.done)
        if command.error is not None:
            raise application_error(command.error)
        assert command.outcome is not None
        return command.outcome

    async def _handle(self, command: _Command) -> None:
        try:
            if command.kind in ("approve", "reject", "decide"):
                await self._vote(command)
                return
            message = _parse(AuthorMessage, command)
            if command.kind == "update":
                detail = await self._update(message)
            elif command.kind == "propose":
                detail = await self._propose(message)
            else:
                detail = await self._withdraw(message)
            self._done(command, detail)
        except Exception as error:
            self._refuse(command, error_from_failure(error))

    def _done(self, command: _Command, detail: str) -> None:
        self._show()
        command.outcome = CommandOutcome(
            stage=self._stage, version=self._version, pending=self._pending(), accepted=self._by("accepted"), detail=detail
        )

    def _refuse(self, command: _Command, error: CleanRoomError) -> None:
        command.error = error
        self._refused.append(
            RefusedMessage(at=workflow.now(), kind=command.kind, code=error.code, message=error.message[:500], category=error.category)
        )
        self._show()

    # ------------------------------------------------------------------ draft

    def _order(self, message: AuthorMessage) -> AuthorOrder:
        return AuthorOrder(
            collaboration=self._input.collaboration, query=self._input.spec.name, spec=message.spec, authorisation=message.authorisation
        )

    async def _create(self) -> None:
        input = self._input
        await self._store_draft(
            input.proposer.name,
            AuthorOrder(collaboration=input.collaboration, query=input.spec.name, spec=input.spec, authorisation=input.authorisation),
            create=True,
        )
        self._note("created", input.proposer.name)

    async def _store_draft(self, party: str, order: AuthorOrder, *, create: bool) -> None:
        assert order.spec is not None
        draft = await workflow.execute_activity_method(
            Frontend.generate_query_document,
            GenerateQueryRequest(collaboration=order.collaboration, spec=order.spec, proposer_id=self._input.proposer.user_id),
            **STANDARD.config("query document; gate and lineage", task_queue=FRONTEND_QUEUE),
        )
        method = CollaboratorGovernance.create_document if create else CollaboratorGovernance.update_document
        stored = await workflow.execute_activity_method(
            method,
            DraftOrder(order=order, draft=draft, version=self._version),
            **STANDARD.within(timedelta(days=1)).config(
                f"{'create' if create else 'update'} {draft.document_id} as {party}", task_queue=collaborator_queue(party)
            ),
        )
        await self._stop_watching()
        self._stage, self._version, self._digest = "Draft", stored.version, stored.digest
        self._acknowledged = stored.digest
        self._spec, self._card, self._owners, self._ballots = order.spec, draft.card, draft.owners, {}

    async def _update(self, message: AuthorMessage) -> str:
        if self._stage != "Draft":
            raise self._not_draft("update")
        if message.spec is None or message.spec.name != self._input.spec.name:
            raise InvalidInput("QuerySpecMissing", "update: the new text of this query is missing, or is another query's.")
        await self._store_draft(message.party, self._order(message), create=False)
        self._note("updated", message.party, f"version {self._version}")
        return f"draft is now version {self._version}"

    async def _propose(self, message: AuthorMessage) -> str:
        if self._stage != "Draft":
            raise self._not_draft("propose")
        owners = await workflow.execute_activity_method(
            Frontend.determine_dataset_owners,
            OwnersRequest(collaboration=self._input.collaboration, query=self._input.spec.name),
            **STANDARD.config("owners of every input and of the output", task_queue=FRONTEND_QUEUE),
        )
        if owners.digest != self._acknowledged:
            # Anybody authorised may edit a draft in governance; what the owners would see is not what was written here.
            await self._stop_watching()
            self._take_text(owners.version, owners.digest)
            self._acknowledged = owners.digest
            raise Conflict(
                "DraftChanged",
                f"The draft was changed outside of this workflow and is at version {owners.version} now.",
                hint="Look at it (`cleanroom query show`), then update or propose again.",
            )
        proposed = await workflow.execute_activity_method(
            CollaboratorGovernance.propose_query,
            ProposeQueryOrder(order=self._order(message), owners=owners.owners, version=owners.version, digest=owners.digest),
            **STANDARD.within(timedelta(days=1)).config(
                f"propose {self._input.spec.name}, approvers: {', '.join(map(self._name, owners.owners))}",
                task_queue=collaborator_queue(message.party),
            ),
        )
        await self._stop_watching()
        self._stage, self._owners, self._ballots = "Proposed", owners.owners, {}
        self._proposed_on = ProposerOrder(party=message.party, order=self._order(message))
        self._version, self._digest, self._proposal_id = proposed.version, proposed.digest, proposed.proposal_id
        self._expires = workflow.now() + timedelta(seconds=self._input.approval_seconds)
        self._note("proposed", message.party, f"version {self._version}")
        return f"proposed to {', '.join(map(self._name, self._owners))}"

    async def _withdraw(self, message: AuthorMessage) -> str:
        if self._stage == "Draft":
            if message.party != self._input.proposer.name:
                raise Refused("NotProposalOwner", f"withdraw: only {self._input.proposer.name} can close this draft.")
            await workflow.execute_activity_method(
                CollaboratorGovernance.confirm_order,
                self._order(message),
                **NO_RETRY.within(timedelta(days=1)).config("the author's order", task_queue=collaborator_queue(message.party)),
            )
            self._close("Withdrawn", message.party)
            return "closed"
        if self._stage != "Proposed":
            raise self._not_open()
        await workflow.execute_activity_method(
            CollaboratorGovernance.withdraw_proposal,
            WithdrawOrder(order=self._order(message), proposal_id=self._proposal_id),
            **STANDARD.within(timedelta(days=1)).config("withdraw the proposal", task_queue=collaborator_queue(message.party)),
        )
        await self._back_to_draft("withdrawn", message.party)
        return "withdrawn; it is a draft again"

    async def _back_to_draft(self, event: str, by: str, detail: str = "") -> None:
        await self._stop_watching()
        self._cancel_votes()
        self._stage, self._proposal_id, self._expires = "Draft", "", None
        self._note(event, by, detail)

    # ------------------------------------------------------------------ votes

    async def _vote(self, command: _Command) -> None:
        token = _parse(DecisionMessage, command).decision
        if self._stage != "Proposed":
            raise self._not_proposed()
        decision = await workflow.execute_activity_method(
            Frontend.verify_decision,
            VerifyDecisionRequest(
                collaboration=self._input.collaboration,
                query=self._input.spec.name,
                proposal_id=self._proposal_id,
                version=self._version,
                digest=self._digest,
                owners=self._owners,
                token=token,
            ),
            **STANDARD.config("signature, version, digest, approver", task_queue=FRONTEND_QUEUE),
        )
        wanted = {"approve": "approve", "reject": "reject"}.get(command.kind, decision.decision)
        if decision.decision != wanted:
            raise Refused("DecisionMismatch", f"The signal says {wanted}, the signed decision says {decision.decision}.")
        approver = decision.approver_id
        if approver in self._ballots:
            if (self._ballots[approver] == "accepted") == (decision.decision == "approve"):
                self._done(command, "this vote was recorded before")
                return
            raise Conflict("BallotAlreadySubmitted", f"{self._name(approver)} has voted already; a ballot cannot be changed.")
        if approver in self._votes:
            raise Conflict("BallotPending", f"A vote of {self._name(approver)} is being cast already.")
        if approver not in self._names:
            raise PreconditionFailed("ApproverUnknown", f"No collaborator with user id {approver} is known here.", party="operator")
        # Cast in the background: the approver's worker may be away, and others must not wait for it.
        self._votes[approver] = asyncio.create_task(self._cast(command, decision, token))

    async def _cast(self, command: _Command, decision: VerifiedDecision, token: str) -> None:
        approver, name = decision.approver_id, self._name(decision.approver_id)
        proposal_id = self._proposal_id
        method = CollaboratorGovernance.accept_query if decision.decision == "approve" else CollaboratorGovernance.reject_query
        remaining = max(decision.expires - workflow.now(), timedelta(seconds=1))
        try:
            recorded = await workflow.execute_activity_method(
                method,
                VoteOrder(
                    collaboration=self._input.collaboration,
                    query=self._input.spec.name,
                    proposal_id=proposal_id,
                    version=self._version,
                    digest=self._digest,
                    token=token,
                ),
                **STANDARD.within(remaining).config(
                    f"{decision.decision} {self._input.spec.name} as {name}", task_queue=collaborator_queue(name)
                ),
            )
        except Exception as error:
            self._votes.pop(approver, None)
            self._refuse(command, error_from_failure(error))
            return
        self._votes.pop(approver, None)
        self._note("approved" if decision.decision == "approve" else "rejected", name, decision.reason)
        if self._proposal_id == proposal_id:
            if self._expires is None or decision.expires < self._expires:
                self._expires = decision.expires
            await self._stop_watching()
            await self._count(recorded)
        self._done(command, "counted")

    async def _count(self, recorded: BallotRecorded) -> None:
        self._ballots = dict(recorded.ballots)
        if recorded.proposal_state == "Accepted":
            await self._approved()
        elif recorded.proposal_state == "Rejected":
            await self._back_to_draft("returned to draft", "", "one owner rejected")

    async def _approved(self) -> None:
        self._stage = "Approved"
        self._note("approved by all", "")

    def _project(self, state: GovernanceQueryState) -> None:
        """Governance says something else than we show: it is right."""
        if self._stage not in ("Draft", "Proposed"):
            return
        if self._stage == "Proposed" and (state.state, state.proposal_id, state.ballots) == (
            "Proposed",
            self._proposal_id,
            self._ballots,
        ):
            return
        if state.state == "Accepted":
            self._ballots = dict(state.ballots)
            self._take_proposal(state)
            self._stage, self._version = "Approved", state.version
            self._note("approved by all", "", "seen in governance")
        elif state.state == "Proposed" and state.proposal_id != self._proposal_id and workflow.patched(WATCH_DRAFTS):
            self._cancel_votes()
            self._ballots = dict(state.ballots)
            self._take_proposal(state)
            self._stage = "Proposed"
            self._note("proposed", "", "seen in governance")
        elif state.state == "Draft" or state.proposal_id != self._proposal_id:
            event = "draft changed" if self._stage == "Draft" else "returned to draft"
            self._cancel_votes()
            self._ballots = dict(state.ballots)
            self._take_text(state.version, state.digest)
            self._stage, self._proposal_id, self._expires = "Draft", "", None
            self._note(event, "", "seen in governance")
        else:
            self._ballots = dict(state.ballots)
            self._note("votes changed", "", "seen in governance")

    def _take_proposal(self, state: GovernanceQueryState) -> None:
        """What is proposed or accepted in governance, if it was not proposed here: its own text, approvers and time."""
        if state.proposal_id == self._proposal_id:
            return
        self._take_text(state.version, state.digest)
        self._proposal_id, self._owners, self._proposed_on = state.proposal_id, state.approvers, None
        self._expires = workflow.now() + timedelta(seconds=self._input.approval_seconds)

    def _take_text(self, version: str, digest: str) -> None:
        """Show the text that governance holds. The card was drawn from what was written here; it must not stand beside another text."""
        if digest != self._digest:
            self._card = OTHER_TEXT
        self._version, self._digest = version, digest

    def _cancel_votes(self) -> None:
        for vote in self._votes.values():
            vote.cancel()

    # ------------------------------------------------------------------ what it shows

    def _name(self, user_id: str) -> str:
        return self._names.get(user_id, user_id)

    def _by(self, ballot: str) -> tuple[str, ...]:
        return tuple(sorted(self._name(user) for user, value in self._ballots.items() if value == ballot))

    def _pending(self) -> tuple[str, ...]:
        if self._stage != "Proposed":
            return ()
        return tuple(sorted(self._name(owner) for owner in self._owners if owner not in self._ballots))

    def _note(self, event: str, by: str, detail: str = "") -> None:
        self._history.append(HistoryEntry(at=workflow.now(), event=event, by=by, detail=detail[:300]))

    def _close(self, stage: QueryStage, by: str) -> None:
        self._stage = stage
        self._note(stage.lower(), by)
        workflow.upsert_search_attributes(attributes.updates((attributes.OUTCOME, stage.lower())))

    def _not_draft(self, what: str) -> CleanRoomError:
        return PreconditionFailed("QueryNotDraft", f"{what}: the query is {self._stage}, not a draft.", hint="Withdraw the proposal first.")

    def _not_proposed(self) -> CleanRoomError:
        return PreconditionFailed("QueryNotProposed", f"The query is {self._stage}; only a proposed query takes votes.")

    def _not_open(self) -> CleanRoomError:
        return PreconditionFailed(
            "QueryNotOpen",
            f"The query is {self._stage}; there is nothing to withdraw.",
            hint="An owner stops an approved query with `cleanroom consent off`.",
        )

    @workflow.query(name="state", description="Stage, version, digest, pending and accepted approvers, history.")
    def state(self) -> QueryState:
        return self._state()

    @workflow.query(description="Messages that were not counted, and why.")
    def refused(self) -> tuple[RefusedMessage, ...]:
        return tuple(self._refused)

    def _state(self) -> QueryState:
        return QueryState(
            query=self._input.spec.name,
            stage=self._stage,
            version=self._version,
            digest=self._digest,
            proposal_id=self._proposal_id,
            pending=self._pending(),
            accepted=self._by("accepted"),
            rejected=self._by("rejected"),
            expires=self._expires,
            card=self._card,
            owners=self._owners,
            history=tuple(self._history),
            refused=tuple(self._refused),
            spec=self._spec,
        )

    def _named(self, card: str) -> str:
        """The card with names of collaborators for user ids; what is signed holds the ids."""
        for user, name in self._names.items():
            card = card.replace(user, name)
        return card

    def _decisions(self) -> list[str]:
        """One line an owner: what they decided, and when; or that they are waited for, and since when."""
        if self._stage not in ("Proposed", "Approved"):
            return []
        when = {(entry.event, entry.by): entry.at for entry in self._history}
        proposed = max((entry.at for entry in self._history if entry.event == "proposed"), default=None)
        lines = []
        for name, ballot in sorted((self._name(owner), self._ballots.get(owner, "")) for owner in self._owners):
            at = when.get(("approved" if ballot == "accepted" else "rejected", name)) if ballot else proposed
            time = f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
            mark, word = {"accepted": ("✓", "approved"), "rejected": ("✗", "rejected")}.get(ballot, ("○", "**waited for** since"))
            lines.append(f"- {mark} {escape(name)} {word} {time}")
        return lines

    def _next_step(self) -> str:
        """The command that moves the query on."""
        name = self._input.spec.name
        if self._stage == "Draft":
            return f"Next: {code(f'cleanroom query propose {name} --profile {self._input.proposer.name}')}"
        if self._stage == "Proposed":
            commands = [code(f"cleanroom query approve {name} --profile {owner}") for owner in self._pending()]
            return "Next: " + " and ".join(commands[:3]) if commands else ""
        if self._stage == "Approved":
            return f"Next: {code(f'cleanroom run start {name} --profile {self._input.proposer.name}')}"
        return ""

    def _show(self) -> None:
        """Current details in the words of the diagram's notes, and the search attributes behind the saved views."""
        stage = {"Proposed": "Not Approved"}.get(self._stage, self._stage)
        pending, accepted = self._pending(), self._by("accepted")
        name, owners = self._input.spec.name, len(self._owners)
        counted = f" ({len(accepted)} of {owners} owners)" if self._stage in ("Proposed", "Approved") else ""
        until = f", expires {self._expires:%Y-%m-%d %H:%M} UTC" if self._expires else ""
        lines = [
            f"**{escape(name)}** of {escape(self._input.proposer.name)}: **{stage}**{counted}",
            f"version {code(self._version or '-')}, digest {code(self._digest[:16] or '-')}{until}",
            "\n".join(self._decisions()),
            self._next_step(),
        ]
        if self._refused:
            last = self._refused[-1]
            lines.append(f"Refused messages: {len(self._refused)}; last: {code(last.code)} {escape(last.message)}")
        story = "\n".join(
            f"- {entry.at:%Y-%m-%d %H:%M:%S} {escape(entry.event)}"
            f"{f' by **{escape(entry.by)}**' if entry.by else ''}{f': {escape(entry.detail)}' if entry.detail else ''}"
            for entry in list(self._history)[-15:]
        )
        card = code_block(_folded(self._named(self._card))) if self._card else ""
        shown = [line for line in lines if line]
        workflow.set_current_details(
            details("\n\n".join(shown), "**What happened**", story, "**What the owners approve**" if card else "", card)
        )
        wanted = (self._stage, pending, accepted, self._digest, self._expires)
        if getattr(self, "_shown", None) != wanted:
            self._shown = wanted
            workflow.upsert_search_attributes(
                attributes.updates(
                    (attributes.STAGE, f"query.{self._stage.lower()}"),
                    (attributes.STAGE_SINCE, workflow.now()),
                    (attributes.PENDING_FOR, list(pending)),
                    (attributes.APPROVED_BY, list(accepted)),
                    (attributes.DIGEST, attributes.short_digest(self._digest) if self._digest else None),
                    (attributes.EXPIRES_AT, self._expires),
                )
            )


def _folded(card: str, width: int = 64) -> str:
    """The card's lines as wide as the Web UI's column; what is longer goes on below, indented."""
    lines: list[str] = []
    for line in card.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(line, width, subsequent_indent=f"{indent}    ", break_on_hyphens=False) or [""]
    return "\n".join(lines)


def _parse(model: type[Any], command: _Command) -> Any:
    """The message as ``model``; whatever was sent, the answer is an error that can be shown, never a stuck workflow."""
    try:
        return model.model_validate(command.message)
    except ValidationError as error:
        raise InvalidInput(
            "MessageMalformed",
            f"{command.kind}: {describe_validation(error)}.",
            hint="`cleanroom query approve --print-signal` prints what the Web UI's box takes.",
        ) from error
