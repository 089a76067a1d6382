"""Diagram "Publish Query": create, update, propose, approve, reject, withdraw, expire. One long-lived workflow a query.

Governance is the truth; this workflow is its projection and its durable to-do list. Beside it: its states and rules
(:mod:`workflows.query_life`), how messages are taken and carried out (:mod:`workflows.query_desk`), what is shown
(:mod:`workflows.query_story`), and how governance is watched (:mod:`workflows.query_watch`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from cleanroom.errors import CleanRoomError, PreconditionFailed
    from cleanroom.messages.query import (
        AuthorMessage,
        CommandOutcome,
        DecisionMessage,
        GovernanceQueryState,
        PublishQueryInput,
        QueryStage,
        QueryState,
        RefusedMessage,
    )
    from cleanroom.temporal.failures import application_error, error_from_failure
    from workflows.query_desk import QueryDesk
    from workflows.query_life import CLOSED, QueryLife
    from workflows.query_mailbox import Command
    from workflows.query_steps import QuerySteps
    from workflows.query_story import QueryBoard
    from workflows.query_watch import QueryWatch

WATCH_DRAFTS = "watch-drafts"
"""Patch: drafts are watched too, and a proposal made in governance is shown (histories before it watched open proposals alone)."""

OWN_DOING = timedelta(seconds=3)
"""What governance says while an order is carried out may be that order's doing: for so long it may tell of it itself."""
HANDLERS_END = timedelta(minutes=1)


@workflow.defn(name="PublishQuery")
class PublishQuery:
    """The life of one query from its first draft to its last day."""

    @workflow.init
    def __init__(self, input: PublishQueryInput) -> None:
        self._input = input
        self._life = QueryLife(input)
        self._steps = QuerySteps(input, self._life)
        self._watch = QueryWatch(self._life, self._steps)
        self._board = QueryBoard(self._life, input.proposer.name)
        self._desk = QueryDesk(input, self._life, self._steps, self._watch, self._board)

    # ------------------------------------------------------------------ the life

    @workflow.run
    async def run(self, input: PublishQueryInput) -> QueryState:
        life = self._life
        try:
            if input.carried is None:
                await self._desk.create()
            while not life.closed:
                self._board.show()
                await self._next_event()
                await self._desk.take_all()
                if workflow.info().is_continue_as_new_suggested():
                    await self._continue()
        except (CleanRoomError, FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                self._board.outcome("cancelled")
                await self._end(PreconditionFailed("QueryClosed", "The query's workflow was cancelled.", party="operator"))
            else:
                self._close("Failed", error_from_failure(error).code)
                await self._end(life.ended())
            raise
        await self._end(life.ended())
        self._board.show()
        return life.state()

    async def _end(self, reason: CleanRoomError) -> None:
        """Everybody who still waits for an answer gets one."""
        desk = self._desk
        await self._watch.stop()
        desk.close(reason)
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() and not desk.votes and not desk.orders, timeout=HANDLERS_END)

    async def _continue(self) -> None:
        """Go on with a new history. Votes whose voters are away go with it."""
        desk = self._desk

        def busy() -> bool:
            return self._life.closed or not desk.idle

        if busy():
            return
        await self._watch.stop()
        desk.answer_votes()
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() or busy())
        if not busy():
            workflow.continue_as_new(self._input.model_copy(update=self._life.carried() | {"carried_votes": desk.carried_votes()}))

    async def _next_event(self) -> None:
        """Wait for a message, a change in governance, or the deadline; whichever is first."""
        life, desk = self._life, self._desk
        if self._watch.task is None and (life.stage == "Proposed" or (life.stage == "Draft" and workflow.patched(WATCH_DRAFTS))):
            self._watch.begin()
        watch, now = self._watch.task, workflow.now()
        # A draft does not expire under the hands of who is about to change or propose it; every order has an end of its own.
        held = life.stage == "Draft" and bool(desk.orders)

        def something() -> bool:
            changed = watch is not None and watch.done()
            return desk.ready or changed or life.closed or (held and not desk.orders)

        try:
            await workflow.wait_condition(
                something,
                timeout=None if held else max(life.deadline(now) - now, timedelta(milliseconds=1)),
                timeout_summary="approval expires" if life.stage == "Proposed" else "query expires",
            )
        except TimeoutError:
            await self._expire()
            return
        if watch is None or not watch.done():
            return
        if desk.orders:
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: not desk.orders or watch is not self._watch.task, timeout=OWN_DOING)
        if watch is self._watch.task:
            self._project(self._watch.take())

    def _project(self, state: GovernanceQueryState | None) -> None:
        if state is None:
            return
        proposals = state.state == "Proposed" and workflow.patched(WATCH_DRAFTS)
        if self._life.project(workflow.now(), state, proposals=proposals):
            self._desk.cancel_votes()

    async def _expire(self) -> None:
        """The deadline has passed: an open proposal is withdrawn in governance, so that no late vote can count."""
        life, proposal_id, on = self._life, self._life.proposal_id, self._life.proposed_on
        await self._watch.stop()
        if life.stage != "Proposed":
            self._close("Expired", "deadline")
        elif on is None:
            life.overdue(workflow.now(), "", "it was proposed elsewhere")
        else:
            code = ""
            try:
                await self._steps.withdraw_proposal(on, proposal_id, expired=True)
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                code = error_from_failure(error).code
            if not life.is_open(proposal_id):
                return
            if code == "":
                self._close("Expired", "deadline")
            elif code == "ProposalNotOpen":
                life.accepted_elsewhere(workflow.now())
            else:
                life.overdue(workflow.now(), on.party, code)

    # ------------------------------------------------------------------ messages

    @workflow.signal(
        description='Approve this exact version: {"decision": "<signed decision>"} (`cleanroom query approve --print-signal`).'
    )
    def approve(self, message: Any) -> None:
        self._desk.enqueue(Command("approve", message))

    @workflow.signal(description='Reject this exact version: {"decision": "<signed decision>"}.')
    def reject(self, message: Any) -> None:
        self._desk.enqueue(Command("reject", message))

    @workflow.signal(description="Replace the draft (before it is proposed).")
    def update(self, message: Any) -> None:
        self._desk.enqueue(Command("update", message))

    @workflow.signal(description="Propose the draft to the owners of every dataset.")
    def propose(self, message: Any) -> None:
        self._desk.enqueue(Command("propose", message))

    @workflow.signal(description="Withdraw an open proposal (back to draft), or close a draft.")
    def withdraw(self, message: Any) -> None:
        self._desk.enqueue(Command("withdraw", message))

    @workflow.update(name="decide", description="Approve or reject, with an answer.")
    async def decide(self, message: DecisionMessage) -> CommandOutcome:
        return await self._answer(Command("decide", message.model_dump()))

    @workflow.update(name="revise", description="Replace the draft, with an answer.")
    async def revise(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(Command("update", message.model_dump(mode="json")))

    @workflow.update(name="submit", description="Propose the draft, with an answer.")
    async def submit(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(Command("propose", message.model_dump(mode="json")))

    @workflow.update(name="retract", description="Withdraw, with an answer.")
    async def retract(self, message: AuthorMessage) -> CommandOutcome:
        return await self._answer(Command("withdraw", message.model_dump(mode="json")))

    @decide.validator
    def _validate_decide(self, message: DecisionMessage) -> None:
        if self._life.stage != "Proposed":
            raise application_error(self._life.not_proposed())

    @revise.validator
    def _validate_revise(self, message: AuthorMessage) -> None:
        if self._life.stage not in ("Creating", "Draft"):
            raise application_error(self._life.not_draft("update"))

    @submit.validator
    def _validate_submit(self, message: AuthorMessage) -> None:
        if self._life.stage not in ("Creating", "Draft"):
            raise application_error(self._life.not_draft("propose"))

    @retract.validator
    def _validate_retract(self, message: AuthorMessage) -> None:
        if self._life.stage in (*CLOSED, "Approved"):
            raise application_error(self._life.not_open())

    @workflow.query(name="state", description="Stage, version, digest, pending and accepted approvers, history.")
    def state(self) -> QueryState:
        return self._life.state()

    @workflow.query(description="Messages that were not counted, and why.")
    def refused(self) -> tuple[RefusedMessage, ...]:
        return tuple(self._life.refused)

    async def _answer(self, command: Command) -> CommandOutcome:
        self._desk.enqueue(command)
        await workflow.wait_condition(lambda: command.done)
        if command.error is not None:
            raise application_error(command.error)
        assert command.outcome is not None
        return command.outcome

    def _close(self, stage: QueryStage, by: str) -> None:
        self._life.close(workflow.now(), stage, by)
        self._board.outcome(stage.lower())
