"""Handles the commands of a ``PublishQuery`` workflow: verifies votes, executes authors' commands, and answers updates.

Work in a collaborator's name needs that collaborator's worker, which may be offline for days. It therefore runs in background tasks:
one per voter, and one per author. Governance decides between concurrent changes, so every task checks the state of the query again
when its activity has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, PreconditionFailed, Refused
from cleanroom.messages.query import (
    AuthorisedCommand,
    AuthorMessage,
    CarriedMessage,
    CommandOutcome,
    PublishQueryInput,
    VerifiedDecision,
)
from cleanroom.temporal.failures import error_from_failure
from workflows.query_command_queue import AGAIN, MAX_CARRIED_SIZE, VOTES, Command, CommandQueue
from workflows.query_poll import GovernancePoll
from workflows.query_state import QueryStateMachine
from workflows.query_status_page import QueryStatusPage
from workflows.query_steps import QuerySteps

RECEIVED = "received; see the result with `cleanroom query show`"
"""Answer to an update whose command the next history executes."""


@dataclass
class PendingVote:
    """A verified decision until its vote is counted."""

    command: Command
    kind: Literal["approve", "reject"]
    token: str
    task: asyncio.Task[None]
    recorded: bool = False
    """Whether the ballot is in governance. Then it only has to be counted, and nothing cancels it."""


class QueryCommands:
    """The waiting commands of one query, and the background tasks that execute them."""

    def __init__(
        self, input: PublishQueryInput, query: QueryStateMachine, steps: QuerySteps, poll: GovernancePoll, page: QueryStatusPage
    ) -> None:
        self._input, self._query, self._steps, self._poll, self._page = input, query, steps, poll, page
        self._collaborators = {input.proposer.name, *(party.name for party in input.parties)}
        self._queue = CommandQueue()
        for carried in input.carried_messages:
            command = Command(carried.kind, carried.message)
            command.validate()
            self._queue.add(command)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._executing: dict[str, Command] = {}
        """The command that is executed for each author."""
        self._votes: dict[str, PendingVote] = {}
        self._closed_because: CleanRoomError | None = None
        self._handing_over = False

    @property
    def ready(self) -> bool:
        """Whether a command can be handled now."""
        return self._queue.ready(self._busy)

    @property
    def proposing(self) -> bool:
        """Whether the draft is being proposed. Governance may show the proposal to its owners already."""
        return self._query.stage == "Draft" and any(command.kind == "propose" for command in self._executing.values())

    @property
    def _busy(self) -> Container[str]:
        """The lanes whose commands must wait. Votes wait for a proposal that is being made."""
        return {*self._running, VOTES} if self.proposing else self._running

    @property
    def running(self) -> bool:
        """Whether a command of an author is being executed."""
        return bool(self._running)

    @property
    def voting(self) -> bool:
        """Whether a vote is being cast."""
        return bool(self._votes)

    @property
    def idle(self) -> bool:
        """Whether all that is left is votes that wait for their voters' workers, and signals that wait to be handled."""
        counting = any(vote.recorded for vote in self._votes.values())
        return not self._running and not counting and not any(command.awaited for command in self._queue)

    def enqueue(self, command: Command) -> None:
        """Add a command to the queue, or refuse it."""
        try:
            if self._query.closed:
                raise self._query.closed_error()
            command.validate()
            if command.authored is not None and command.authored.party not in self._collaborators:
                known = ", ".join(sorted(self._collaborators))
                raise InvalidInput(
                    "PartyUnknown", f"{command.kind}: unknown collaborator {command.authored.party!r}; known: {known[:300]}."
                )
            self._queue.add(command)
            if self._handing_over:
                self._succeed(command, RECEIVED)
        except CleanRoomError as error:
            self._refuse(command, error)

    async def handle_until(self, stop: Callable[[], bool]) -> None:
        """Handle the commands whose lanes are free, until ``stop()`` or until none is left."""
        while not self._query.closed and not stop() and (command := self._queue.take(self._busy)) is not None:
            await self._handle(command)

    def refuse_unknown(self, kind: str) -> None:
        """Refuse a signal that has no handler."""
        error = InvalidInput(
            "MessageUnknown", f"A query has no signal {kind[:40]!r}.", hint="Send approve, reject, update, propose or withdraw."
        )
        self._record_refused(kind[:40], error)

    def carried(self) -> tuple[CarriedMessage, ...]:
        """Return the messages that are not finished, as input for continue-as-new."""
        voting = (vote.command for vote in self._votes.values())
        kept: list[CarriedMessage] = []
        size = 0
        for command in (*voting, *self._executing.values(), *self._queue):
            if size + command.size > MAX_CARRIED_SIZE:
                self._refuse(command, Refused("TooManyMessages", "the messages that wait are too long; this one was dropped.", hint=AGAIN))
            else:
                size += command.size
                kept.append(command.carried())
        return tuple(kept)

    def answer_votes(self) -> None:
        """Answer the updates that wait for votes that are being cast. An update cannot continue in the next history."""
        for vote in self._votes.values():
            self._succeed(vote.command, "verified; the vote is cast when the voter's worker is running")

    def answer_commands(self) -> None:
        """Answer the updates that wait for any other command, also those that arrive from now on."""
        self._handing_over = True
        for command in (*self._executing.values(), *self._queue):
            self._succeed(command, RECEIVED)

    def close(self, reason: CleanRoomError) -> None:
        """Refuse waiting commands and cancel running ones."""
        self._closed_because = reason
        for command in self._queue.drain():
            self._refuse(command, reason)
        self.cancel_votes()
        for task in self._running.values():
            task.cancel()

    def cancel_votes(self) -> None:
        """Cancel pending votes because their proposal has ended."""
        for vote in self._votes.values():
            if not vote.recorded:
                vote.task.cancel()

    async def create(self) -> None:
        """Write the first draft, as authorised by the workflow's input."""
        input = self._input
        await self._store_draft(self._steps.authorised_command(input.proposer.name, input.authorisation, input.spec), create=True)
        self._query.record(workflow.now(), "created", input.proposer.name)

    # ------------------------------------------------------------------ dispatch and answers

    async def _handle(self, command: Command) -> None:
        """Verify a vote, or start an author's command in the background."""
        try:
            if command.lane == VOTES:
                await self._start_vote(command)
                return
            message = command.authored
            assert message is not None
            self._executing[message.party] = command
            self._running[message.party] = self._in_background(command, self._execute(command, message), self._running, message.party)
        except Exception as error:
            self._refuse(command, error_from_failure(error))
            # Temporal delivers a cancellation of the workflow once, so it must not end here.
            if is_cancelled_exception(error):
                raise

    def _in_background(self, command: Command, work: Coroutine[Any, Any, None], running: dict[str, Any], key: str) -> asyncio.Task[None]:
        """Run ``work`` in a task that removes itself from ``running``. If the task fails or is cancelled, ``command`` is refused."""
        task = asyncio.create_task(work)

        def ended(done: asyncio.Task[None]) -> None:
            running.pop(key, None)
            self._executing.pop(key, None)
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if error is not None:
                self._refuse(command, self._background_error(error))

        task.add_done_callback(ended)
        return task

    def _background_error(self, error: BaseException) -> CleanRoomError:
        """Return the error of a failed task. A task is cancelled when the query or its proposal ends."""
        if not is_cancelled_exception(error):
            return error_from_failure(error)
        return self._closed_because or PreconditionFailed("ProposalClosed", "The proposal has ended; every proposal needs new decisions.")

    def _succeed(self, command: Command, detail: str) -> None:
        self._page.show_soon()
        query = self._query
        command.outcome = CommandOutcome(
            stage=query.stage,
            version=query.version,
            pending=query.pending(),
            accepted=query.voters("accepted"),
            detail=detail,
            seen=query.seen,
        )

    def _refuse(self, command: Command, error: CleanRoomError) -> None:
        command.error = self._query.with_display_names(error)
        self._record_refused(command.kind, command.error, command.about)

    def _record_refused(self, kind: str, error: CleanRoomError, about: str = "") -> None:
        self._query.record_refused(workflow.now(), kind, error, about)
        self._page.show_soon()

    # ------------------------------------------------------------------ authors' commands

    async def _execute(self, command: Command, message: AuthorMessage) -> None:
        execute = {"update": self._update, "propose": self._propose, "withdraw": self._withdraw}[command.kind]
        own = self._steps.authorised_command(message.party, message.authorisation, message.spec, message.seen)
        self._succeed(command, await execute(own))

    async def _store_draft(self, command: AuthorisedCommand, *, create: bool) -> None:
        assert command.spec is not None
        draft = await self._steps.generate_query_document(command.spec)
        stored = await self._steps.store_draft(command, draft, create=create)
        await self._poll.stop()
        self._query.draft_stored(command.spec, draft, stored)

    async def _update(self, command: AuthorisedCommand) -> str:
        query = self._query
        if query.stage != "Draft":
            raise query.not_draft_error("update")
        if command.spec is None or command.spec.name != query.name:
            raise InvalidInput("QuerySpecMissing", "update: the new text is missing, or it belongs to a different query.")
        await self._store_draft(command, create=False)
        query.record(workflow.now(), "updated", command.party, f"version {query.version}")
        return f"draft is now version {query.version}"

    async def _propose(self, command: AuthorisedCommand) -> str:
        query = self._query
        if query.stage != "Draft":
            raise query.not_draft_error("propose")
        owners = await self._steps.determine_dataset_owners()
        # Governance lets every user edit a draft. The author's worker proposes only the text that the author signed.
        proposed = await self._steps.propose_query(command, owners)
        await self._poll.stop()
        query.proposal_made(workflow.now(), owners.owners, proposed, command)
        return f"proposed to {', '.join(map(query.display_name, query.owners))}"

    async def _withdraw(self, command: AuthorisedCommand) -> str:
        query, proposal_id = self._query, self._query.proposal_id
        if query.stage == "Draft":
            if command.party != self._input.proposer.name:
                raise Refused(
                    "NotProposalOwner",
                    f"withdraw: only {self._input.proposer.name} can close this draft.",
                    hint=f"`cleanroom query show {query.name}`",
                )
            await self._steps.confirm_withdrawal(command)
            if query.stage != "Draft":
                raise query.not_draft_error("withdraw")
            query.close(workflow.now(), "Withdrawn", command.party)
            self._page.set_outcome("withdrawn")
            return "closed"
        if query.stage != "Proposed":
            raise query.not_open_error()
        await self._steps.withdraw_proposal(command, proposal_id)
        if query.is_open(proposal_id):
            await self._poll.stop()
            self.cancel_votes()
            query.return_to_draft(workflow.now(), "withdrawn", command.party)
        return "withdrawn; the query is a draft again"

    # ------------------------------------------------------------------ votes

    async def _start_vote(self, command: Command) -> None:
        """Verify a vote and start casting it in the background."""
        query = self._query
        message = command.vote
        assert message is not None
        token = message.decision
        if query.stage != "Proposed":
            raise query.not_proposed_error()
        proposal_id = query.proposal_id
        decision = await self._steps.verify_decision(token, message.seen)
        if not query.is_open(proposal_id):
            raise query.not_proposed_error()
        if decision.decision != command.kind:
            raise Refused("DecisionMismatch", f"The message is {command.kind}, the signed decision is {decision.decision}.")
        approver, name = decision.approver_id, query.display_name(decision.approver_id)
        if approver in query.ballots:
            if (query.ballots[approver] == "accepted") == (decision.decision == "approve"):
                self._succeed(command, "this vote is already recorded")
                return
            raise Conflict(
                "BallotAlreadySubmitted",
                f"{name} has already voted; a ballot cannot be changed.",
                hint=f"To let {name} vote again, the proposer withdraws the proposal, "
                f"`cleanroom query withdraw {query.name} --only-proposal`, and proposes it again.",
            )
        if approver in self._votes:
            raise Conflict("BallotPending", f"A vote of {name} is already being cast.")
        if name not in self._collaborators:
            raise PreconditionFailed("ApproverUnknown", f"No collaborator has user ID {approver}.", party="operator")
        task = self._in_background(command, self._cast_vote(command, decision, token), self._votes, approver)
        self._votes[approver] = PendingVote(command, decision.decision, token, task)

    async def _cast_vote(self, command: Command, decision: VerifiedDecision, token: str) -> None:
        query, proposal_id = self._query, self._query.proposal_id
        recorded = await self._steps.cast_vote(decision, token)
        # It stays in `_votes` until it is counted, so that no other decision of this voter is cast until then.
        self._votes[decision.approver_id].recorded = True
        query.vote_cast(workflow.now(), decision)
        if query.proposal_id == proposal_id:
            await self._poll.stop()
            if query.count_vote(workflow.now(), decision, recorded):
                self.cancel_votes()
        self._succeed(command, "counted")
