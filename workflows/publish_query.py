"""Diagram "Publish Query": one long-running workflow per query, from the first draft until its approvals expire.

Governance holds the state of the query. This workflow executes commands, mirrors governance, and enforces the deadline. Its parts:

* :mod:`workflows.query_state`: the states and transitions
* :mod:`workflows.query_command_queue`, :mod:`workflows.query_commands`: waiting commands, and their execution
* :mod:`workflows.query_steps`: the diagram's arrows, one activity each
* :mod:`workflows.query_poll`: the poll of governance
* :mod:`workflows.query_reminders`: reminders to the people for whom the query waits
* :mod:`workflows.query_status_page`: the Web UI page
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, VersioningBehavior
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from cleanroom.errors import CleanRoomError, PreconditionFailed
    from cleanroom.messages.query import (
        AuthorMessage,
        CommandOutcome,
        DecisionMessage,
        PublishQueryInput,
        QueryStage,
        QueryState,
        RefusedMessage,
    )
    from cleanroom.temporal.failures import application_error, error_from_failure
    from workflows.query_command_queue import Command, CommandKind
    from workflows.query_commands import QueryCommands
    from workflows.query_poll import GovernancePoll
    from workflows.query_reminders import QueryReminders
    from workflows.query_state import CLOSED, QueryStateMachine
    from workflows.query_status_page import QueryStatusPage
    from workflows.query_steps import QuerySteps

OWN_CHANGE_GRACE = timedelta(seconds=3)
"""How long a change in governance waits for a running command or vote, which may have caused it and then reports it itself.

Governance shows a change before it commits it, and the activity returns only after the commit.
"""
LONG_HISTORY, LARGE_HISTORY = 12_000, 12 * 1024 * 1024
"""Events and bytes with which a history ends although commands run. Temporal suggests the end at 4,096 events or 4 MB, and terminates
a workflow at 51,200 events or 50 MB."""
HANDLERS_TIMEOUT = timedelta(minutes=1)
"""How long a closed query waits for its update handlers to return."""


class Event(Enum):
    """The reason why the main loop continues."""

    GOVERNANCE_CHANGED = "governance differs from the shown state"
    COMMAND = "a command can be handled"
    CLOSED = "a command closed the query"
    STATE_CHANGED = "a command changed the query and stopped the poll: poll and deadline must start again"
    DEADLINE_RESUMED = "the commands that paused the deadline of the draft have ended"
    HISTORY_IS_LONG = "the query can continue as new"
    REMINDER = "a reminder is due"
    DEADLINE = "the deadline has passed"


@workflow.defn(name="PublishQuery", versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class PublishQuery:
    """Publishes one query: drafts, proposals, votes, approval and expiry."""

    @workflow.init
    def __init__(self, input: PublishQueryInput) -> None:
        self._input = input
        self._version = workflow.info().get_current_deployment_version()
        self._query = QueryStateMachine(input)
        self._steps = QuerySteps(input, self._query)
        self._poll = GovernancePoll(self._query, self._steps)
        self._reminders = QueryReminders(self._query, self._steps, input.carried_notifications)
        self._page = QueryStatusPage(self._query, input.proposer.name)
        self._commands = QueryCommands(input, self._query, self._steps, self._poll, self._page)

    # ------------------------------------------------------------------ main loop

    @workflow.run
    async def run(self, input: PublishQueryInput) -> QueryState:
        """Create the draft, then handle commands, changes in governance and the deadline until the query is closed."""
        query = self._query
        try:
            if input.carried is None:
                await self._commands.create()
            self._reminders.resume()
            while not query.closed:
                query.start_period(workflow.now())
                self._page.show()
                event = await self._next_event()
                if event is Event.DEADLINE:
                    await self._expire()
                elif event is Event.REMINDER:
                    self._reminders.send_due(workflow.now())
                elif event is Event.GOVERNANCE_CHANGED:
                    await self._apply_governance_change()
                await self._commands.handle_until(self._can_continue_as_new)
                if self._can_continue_as_new():
                    await self._continue_as_new()
        except (CleanRoomError, FailureError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                await self._cancelled()
            else:
                self._close("Failed", error_from_failure(error).code)
                await self._finish(query.closed_error())
            raise
        await self._finish(query.closed_error())
        return query.snapshot()

    @property
    def _upgraded(self) -> bool:
        """Whether a worker of another version has taken the workflow over since this run of it began.

        The next run then has commands of that version only, so patches are needed for one upgrade and not for the query's lifetime.
        """
        return workflow.info().get_current_deployment_version() != self._version

    async def _next_event(self) -> Event:
        """Wait until there is something to do."""
        polling = self._query.stage in ("Draft", "Proposed", "Approved")
        if polling:
            self._poll.ensure_running()
        # A draft must not expire while a command that updates or proposes it is running. Every command has a timeout.
        deadline_paused = self._query.stage == "Draft" and self._commands.running

        def pending_event() -> Event | None:
            if self._poll.finished:
                return Event.GOVERNANCE_CHANGED
            if self._commands.ready:
                return Event.COMMAND
            if self._can_continue_as_new():
                return Event.HISTORY_IS_LONG
            if self._query.closed:
                return Event.CLOSED
            if polling and not self._poll.running:
                return Event.STATE_CHANGED
            if deadline_paused and not self._commands.running:
                return Event.DEADLINE_RESUMED
            return None

        event: Event | None = None

        def occurred() -> bool:
            nonlocal event
            event = pending_event()
            return event is not None

        assert self._query.expires is not None
        reminder = self._reminders.next_at
        remind = reminder is not None and reminder < self._query.expires
        until = reminder if remind else self._query.expires
        assert until is not None
        summary = "approval expires" if self._query.stage == "Proposed" else "query expires"
        try:
            await workflow.wait_condition(
                occurred,
                timeout=None if deadline_paused else max(until - workflow.now(), timedelta(milliseconds=1)),
                timeout_summary="reminder" if remind else summary,
            )
        except TimeoutError:
            return Event.REMINDER if remind else Event.DEADLINE
        assert event is not None
        return event

    async def _apply_governance_change(self) -> None:
        """Mirror what the poll found, unless it is the effect of a running command, which stops the poll."""
        commands = self._commands
        if commands.running or commands.voting:
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: not (commands.running or commands.voting) or not self._poll.finished, timeout=OWN_CHANGE_GRACE
                )
        if not self._poll.finished:
            return
        state = self._poll.take()
        if state is not None and self._query.apply_governance_state(workflow.now(), state):
            self._commands.cancel_votes()

    async def _expire(self) -> None:
        """Close the query at its deadline. An open proposal is withdrawn in governance first, so that no late vote counts."""
        query, proposal_id, command = self._query, self._query.proposal_id, self._query.proposal_command
        await self._poll.stop()
        if query.stage != "Proposed":
            self._close("Expired", "deadline")
            return
        if command is None:
            query.withdrawal_failed(workflow.now(), "", "it was not proposed by this workflow")
            return
        code = ""
        try:
            await self._steps.withdraw_proposal(command, proposal_id, expired=True)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            code = error_from_failure(error).code
        if not query.is_open(proposal_id):
            return
        if code == "":
            self._close("Expired", "deadline")
        elif code == "ProposalNotOpen":
            query.approved_in_governance(workflow.now())
        else:
            query.withdrawal_failed(workflow.now(), command.party, code)

    async def _cancelled(self) -> None:
        """End after *Request Cancellation*. Governance keeps a draft or proposal until it is renewed, and keeps an accepted query."""
        query = self._query
        if query.stage == "Approved":
            # Runs do not need this workflow. The state stays what they would meet.
            self._page.set_outcome("cancelled")
            await self._finish(
                PreconditionFailed(
                    "QueryClosed",
                    "The workflow of this approved query was cancelled. Runs do not need it.",
                    party="operator",
                    hint=f"Any collaborator starts it again: `cleanroom query adopt {query.name}`.",
                )
            )
            return
        self._close("Cancelled", "operator")
        await self._finish(query.closed_error())

    def _close(self, stage: QueryStage, by: str) -> None:
        self._query.close(workflow.now(), stage, by)
        self._page.set_outcome(stage.lower())

    async def _finish(self, reason: CleanRoomError) -> None:
        """Answer every waiting update with ``reason`` and let the handlers return."""
        commands = self._commands
        await self._poll.stop()
        self._reminders.stop()
        commands.close(reason)
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: workflow.all_handlers_finished() and not commands.voting and not commands.running, timeout=HANDLERS_TIMEOUT
            )
        self._page.show()

    def _can_continue_as_new(self) -> bool:
        """Whether to continue with an empty history: when the server suggests it or another version took over, and no command is left."""
        if self._query.closed or not (workflow.info().is_continue_as_new_suggested() or self._upgraded):
            return False
        return self._commands.idle or self._must_continue_as_new()

    def _must_continue_as_new(self) -> bool:
        """Whether the history is so long that it ends although commands are left. The next one receives them again.

        Commands can keep a query busy for days, because they wait for their authors' workers, and anyone can send messages. The server
        terminates a workflow whose history is too long. Governance executes an authorisation once.
        """
        info = workflow.info()
        return info.get_current_history_length() >= LONG_HISTORY or info.get_current_history_size() >= LARGE_HISTORY

    async def _continue_as_new(self) -> None:
        """Continue with an empty history, unless a message that arrives now must be handled first. What waits is carried over."""
        commands = self._commands
        await self._poll.stop()
        commands.answer_votes()
        if self._must_continue_as_new():
            commands.answer_commands()
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() or not self._can_continue_as_new())
        if not self._can_continue_as_new():
            return
        messages = commands.carried()
        self._page.show()
        carried = self._query.carried_members() | {
            "carried_messages": messages,
            "carried_notifications": self._reminders.pending,
        }
        workflow.continue_as_new(self._input.model_copy(update=carried))

    # ------------------------------------------------------------------ signals

    @workflow.signal(
        description='Approve this version. Input: {"decision": "<signed decision>"} from `cleanroom query approve --print-signal`.'
    )
    def approve(self, message: Any) -> None:
        """Enqueue a vote for the query."""
        self._commands.enqueue(Command("approve", message))

    @workflow.signal(
        description='Reject this version. Input: {"decision": "<signed decision>"} from `cleanroom query reject --print-signal`.'
    )
    def reject(self, message: Any) -> None:
        """Enqueue a vote against the query."""
        self._commands.enqueue(Command("reject", message))

    @workflow.signal(description="Replace the draft.")
    def update(self, message: Any) -> None:
        """Enqueue a new text of the draft."""
        self._commands.enqueue(Command("update", message))

    @workflow.signal(description="Propose the draft to the owners of all its datasets.")
    def propose(self, message: Any) -> None:
        """Enqueue the proposal of the draft."""
        self._commands.enqueue(Command("propose", message))

    @workflow.signal(description="Withdraw an open proposal, which returns to draft; or close a draft.")
    def withdraw(self, message: Any) -> None:
        """Enqueue a withdrawal."""
        self._commands.enqueue(Command("withdraw", message))

    @workflow.signal(description="Compare with governance. The watcher of open queries sends this when governance has changed.")
    def look(self) -> None:
        """Wake the poll of governance."""
        self._poll.wake()

    @workflow.signal(dynamic=True, description="Any other signal is refused, and shown.")
    def unknown(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Refuse a signal without a handler. The SDK would keep it, in case that the workflow sets a handler later."""
        self._commands.refuse_unknown(name)

    # ------------------------------------------------------------------ updates: the same verbs as the signals, with a result

    @workflow.update(name="approve", description="Approve this version and return the result.")
    async def approve_and_wait(self, message: DecisionMessage) -> CommandOutcome:
        """Vote for the query and return when the vote is counted."""
        return await self._enqueue_and_wait("approve", message)

    @workflow.update(name="reject", description="Reject this version and return the result.")
    async def reject_and_wait(self, message: DecisionMessage) -> CommandOutcome:
        """Vote against the query and return when the vote is counted."""
        return await self._enqueue_and_wait("reject", message)

    @workflow.update(name="update", description="Replace the draft and return the result.")
    async def update_and_wait(self, message: AuthorMessage) -> CommandOutcome:
        """Replace the draft and return when governance holds the new text."""
        return await self._enqueue_and_wait("update", message)

    @workflow.update(name="propose", description="Propose the draft and return the result.")
    async def propose_and_wait(self, message: AuthorMessage) -> CommandOutcome:
        """Propose the draft and return when governance holds the proposal."""
        return await self._enqueue_and_wait("propose", message)

    @workflow.update(name="withdraw", description="Withdraw the proposal or close the draft, and return the result.")
    async def withdraw_and_wait(self, message: AuthorMessage) -> CommandOutcome:
        """Withdraw the proposal or close the draft, and return when that is done."""
        return await self._enqueue_and_wait("withdraw", message)

    @approve_and_wait.validator
    def _validate_approve(self, message: DecisionMessage) -> None:
        self._require_proposed()

    @reject_and_wait.validator
    def _validate_reject(self, message: DecisionMessage) -> None:
        self._require_proposed()

    @update_and_wait.validator
    def _validate_update(self, message: AuthorMessage) -> None:
        self._require_draft("update")

    @propose_and_wait.validator
    def _validate_propose(self, message: AuthorMessage) -> None:
        self._require_draft("propose")

    @withdraw_and_wait.validator
    def _validate_withdraw(self, message: AuthorMessage) -> None:
        if self._query.stage in (*CLOSED, "Approved"):
            raise application_error(self._query.not_open_error())

    def _require_proposed(self) -> None:
        if self._query.stage != "Proposed" and not self._commands.proposing:
            raise application_error(self._query.not_proposed_error())

    def _require_draft(self, command: str) -> None:
        if self._query.stage not in ("Creating", "Draft"):
            raise application_error(self._query.not_draft_error(command))

    async def _enqueue_and_wait(self, kind: CommandKind, message: DecisionMessage | AuthorMessage) -> CommandOutcome:
        command = Command(kind, message.model_dump(), awaited=True)
        self._commands.enqueue(command)
        await workflow.wait_condition(lambda: command.done)
        if command.error is not None:
            raise application_error(command.error)
        assert command.outcome is not None
        return command.outcome

    # ------------------------------------------------------------------ queries

    @workflow.query(name="state", description="Stage, version, digest, pending and accepted approvers, history.")
    def state(self) -> QueryState:
        """Return the state of the query."""
        return self._query.snapshot()

    @workflow.query(description="Messages that were refused, and the errors.")
    def refused(self) -> tuple[RefusedMessage, ...]:
        """Return the latest refused messages."""
        return tuple(self._query.refused)
