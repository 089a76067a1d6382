"""The desk of a query: takes its messages, carries out its authors' orders and casts its voters' votes, and answers whoever waits.

What is done in somebody's name is done on that person's queue and beside the rest, because their worker may be away for days. Governance
decides between what happens side by side; each step looks again at what it was about once it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, PreconditionFailed, Refused
from cleanroom.messages.query import (
    AuthorMessage,
    AuthorOrder,
    CarriedVote,
    CommandOutcome,
    DecisionMessage,
    ProposerOrder,
    PublishQueryInput,
    VerifiedDecision,
)
from cleanroom.temporal.failures import error_from_failure
from workflows.query_life import QueryLife
from workflows.query_mailbox import VOTES, Command, Mailbox
from workflows.query_steps import QuerySteps
from workflows.query_story import QueryBoard
from workflows.query_watch import QueryWatch

SIDE_BY_SIDE = "orders-side-by-side"
"""Patch: an author's order is carried out beside votes, other orders and the deadline (histories before it stood still meanwhile)."""


@dataclass(frozen=True)
class Vote:
    """A verified decision that is being cast."""

    command: Command
    token: str
    task: asyncio.Task[None]


class QueryDesk:
    """Messages on one query, one taken after the other; orders and votes on their way."""

    def __init__(self, input: PublishQueryInput, life: QueryLife, steps: QuerySteps, watch: QueryWatch, board: QueryBoard) -> None:
        self._input, self._life, self._steps, self._watch, self._board = input, life, steps, watch, board
        self._parties = {input.proposer.name, *(party.name for party in input.parties)}
        self._mailbox = Mailbox()
        for vote in input.carried_votes:
            self._mailbox.add(Command(vote.kind, {"decision": vote.decision}))
        self.orders: dict[str, asyncio.Task[None]] = {}
        """Being carried out, by name of the author."""
        self.votes: dict[str, Vote] = {}
        """Being cast, by user id of the voter."""

    # ------------------------------------------------------------------ messages

    @property
    def ready(self) -> bool:
        """Whether there is a message that can be taken now."""
        return self._mailbox.ready(self.orders)

    @property
    def idle(self) -> bool:
        """Whether nothing waits here but votes of people who are away."""
        return not self._mailbox and not self.orders

    def enqueue(self, command: Command) -> None:
        """Put a message among those that wait, or refuse it."""
        try:
            if self._life.closed:
                raise self._life.ended()
            self._mailbox.add(command)
        except CleanRoomError as error:
            self._refuse(command, error)

    async def take_all(self) -> None:
        """Take every message that can be taken."""
        while not self._life.closed and (command := self._mailbox.take(self.orders)) is not None:
            await self._handle(command)

    def carried_votes(self) -> tuple[CarriedVote, ...]:
        """Votes on their way, for the next part of a long history."""
        return tuple(CarriedVote(kind=vote.command.kind, decision=vote.token) for vote in self.votes.values())

    def answer_votes(self) -> None:
        """Tell those who wait for a vote with an update that it was taken: an update cannot go on into the next history."""
        for vote in self.votes.values():
            self._done(vote.command, "taken; it is cast as soon as a worker of the voter runs")

    def close(self, reason: CleanRoomError) -> None:
        """Refuse what waits and call off what is on its way."""
        for command in self._mailbox.empty():
            self._refuse(command, reason)
        self.cancel_votes()
        for task in self.orders.values():
            task.cancel()

    def cancel_votes(self) -> None:
        """Call off the votes on a proposal that has ended."""
        for vote in self.votes.values():
            vote.task.cancel()

    async def _handle(self, command: Command) -> None:
        """Take one message: a vote is verified, an order begun. A cancellation of the workflow is told once, so it is passed on."""
        try:
            if command.lane == VOTES:
                await self._vote(command)
                return
            message = command.parsed(AuthorMessage)
            if message.party not in self._parties:
                known = ", ".join(sorted(self._parties))
                raise InvalidInput("PartyUnknown", f"{command.kind}: there is no collaborator {message.party!r} here; known: {known}.")
            if workflow.patched(SIDE_BY_SIDE):
                self.orders[message.party] = self._beside(command, self._carry_out(command, message), self.orders, message.party)
            else:
                await self._carry_out(command, message)
        except Exception as error:
            self._refuse(command, error_from_failure(error))
            if is_cancelled_exception(error):
                raise

    def _beside(self, command: Command, work: Coroutine[Any, Any, None], running: dict[str, Any], key: str) -> asyncio.Task[None]:
        """``work`` as a task that leaves ``running`` when it ends; ``command`` is answered even if it was cancelled before it began."""
        task = asyncio.create_task(work)

        def ended(done: asyncio.Task[None]) -> None:
            running.pop(key, None)
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if error is not None and command.error is None:
                self._refuse(command, self._void(error))

        task.add_done_callback(ended)
        return task

    def _void(self, error: BaseException) -> CleanRoomError:
        """What became of a vote or an order that failed, or that was called off because what it was about has ended."""
        if not is_cancelled_exception(error):
            return error_from_failure(error)
        if self._life.closed:
            return self._life.ended()
        return PreconditionFailed("ProposalClosed", "The proposal that this was about is closed; every proposal is decided anew.")

    def _done(self, command: Command, detail: str) -> None:
        self._board.show()
        life = self._life
        command.outcome = CommandOutcome(
            stage=life.stage, version=life.version, pending=life.pending(), accepted=life.by("accepted"), detail=detail
        )

    def _refuse(self, command: Command, error: CleanRoomError) -> None:
        command.error = self._life.told(error)
        self._life.refuse(workflow.now(), command.kind, command.error, command.about)
        self._board.show()

    # ------------------------------------------------------------------ orders of the authors

    async def create(self) -> None:
        """Write the first draft, on the order with which the workflow was started."""
        input = self._input
        order = AuthorOrder(collaboration=input.collaboration, query=input.spec.name, spec=input.spec, authorisation=input.authorisation)
        await self._store_draft(input.proposer.name, order, create=True)
        self._life.note(workflow.now(), "created", input.proposer.name)

    async def _store_draft(self, party: str, order: AuthorOrder, *, create: bool) -> None:
        assert order.spec is not None
        draft = await self._steps.generate_query_document(order)
        stored = await self._steps.store_draft(party, order, draft, create=create)
        await self._watch.stop()
        self._life.stored(order.spec, draft, stored)

    async def _carry_out(self, command: Command, message: AuthorMessage) -> None:
        on = ProposerOrder(party=message.party, order=self._steps.order(message))
        work = {"update": self._update, "propose": self._propose, "withdraw": self._withdraw}[command.kind]
        self._done(command, await work(on))

    async def _update(self, on: ProposerOrder) -> str:
        life, spec = self._life, on.order.spec
        if life.stage != "Draft":
            raise life.not_draft("update")
        if spec is None or spec.name != life.query:
            raise InvalidInput("QuerySpecMissing", "update: the new text of this query is missing, or is another query's.")
        await self._store_draft(on.party, on.order, create=False)
        life.note(workflow.now(), "updated", on.party, f"version {life.version}")
        return f"draft is now version {life.version}"

    async def _propose(self, on: ProposerOrder) -> str:
        life = self._life
        if life.stage != "Draft":
            raise life.not_draft("propose")
        owners = await self._steps.determine_dataset_owners()
        if owners.digest != life.acknowledged:
            # Anybody authorised may edit a draft in governance; what the owners would see is not what was written here.
            await self._watch.stop()
            life.look_again(owners)
            raise Conflict(
                "DraftChanged",
                f"The draft was changed outside of this workflow and is at version {owners.version} now.",
                hint="Look at it (`cleanroom query show`), then update or propose again.",
            )
        proposed = await self._steps.propose_query(on, owners)
        await self._watch.stop()
        life.proposed(workflow.now(), owners.owners, proposed, on)
        return f"proposed to {', '.join(map(life.name, life.owners))}"

    async def _withdraw(self, on: ProposerOrder) -> str:
        life, proposal_id = self._life, self._life.proposal_id
        if life.stage == "Draft":
            if on.party != self._input.proposer.name:
                raise Refused("NotProposalOwner", f"withdraw: only {self._input.proposer.name} can close this draft.")
            await self._steps.confirm_order(on)
            if life.stage != "Draft":
                raise life.not_draft("withdraw")
            life.close(workflow.now(), "Withdrawn", on.party)
            self._board.outcome("withdrawn")
            return "closed"
        if life.stage != "Proposed":
            raise life.not_open()
        await self._steps.withdraw_proposal(on, proposal_id)
        if self._life.is_open(proposal_id):
            await self._watch.stop()
            self.cancel_votes()
            life.back_to_draft(workflow.now(), "withdrawn", on.party)
        return "withdrawn; it is a draft again"

    # ------------------------------------------------------------------ votes

    async def _vote(self, command: Command) -> None:
        life = self._life
        token = command.parsed(DecisionMessage).decision
        if life.stage != "Proposed":
            raise life.not_proposed()
        proposal_id = life.proposal_id
        decision = await self._steps.verify_decision(token)
        if not self._life.is_open(proposal_id):
            raise life.not_proposed()
        wanted = {"approve": "approve", "reject": "reject"}.get(command.kind, decision.decision)
        if decision.decision != wanted:
            raise Refused("DecisionMismatch", f"The signal says {wanted}, the signed decision says {decision.decision}.")
        approver = decision.approver_id
        if approver in life.ballots:
            if (life.ballots[approver] == "accepted") == (decision.decision == "approve"):
                self._done(command, "this vote was recorded before")
                return
            raise Conflict("BallotAlreadySubmitted", f"{life.name(approver)} has voted already; a ballot cannot be changed.")
        if approver in self.votes:
            raise Conflict("BallotPending", f"A vote of {life.name(approver)} is being cast already.")
        if life.name(approver) not in self._parties:
            raise PreconditionFailed("ApproverUnknown", f"No collaborator with user id {approver} is known here.", party="operator")
        # The approver's worker may be away, and others must not wait for it.
        task = self._beside(command, self._cast(command, decision, token), self.votes, approver)
        self.votes[approver] = Vote(command, token, task)

    async def _cast(self, command: Command, decision: VerifiedDecision, token: str) -> None:
        life, proposal_id = self._life, self._life.proposal_id
        recorded = await self._steps.cast(decision, token)
        # Counted from here on: what ends the proposal calls off the votes that are not.
        self.votes.pop(decision.approver_id, None)
        life.voted(workflow.now(), decision)
        if life.proposal_id == proposal_id:
            await self._watch.stop()
            if life.count(workflow.now(), decision, recorded):
                self.cancel_votes()
        self._done(command, "counted")
