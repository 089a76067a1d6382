"""Creates, updates, proposes, withdraws and shows queries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.identifiers import FRONTEND_QUEUE, document_digest, query_workflow_id
from cleanroom.lifecycle.query import DEFAULT_APPROVAL_SECONDS, next_command, workflow_state
from cleanroom.messages.query import (
    AuthorMessage,
    Collaborator,
    CommandOutcome,
    PublishQueryInput,
    QueryState,
)
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.fairness import fair_share
from cleanroom.temporal.markdown import code, details, escape
from cleanroom.temporal.started import started_with
from starters.operations.own_drafts import has_own_text, read_query_document, remember_own_draft, require_own_draft
from starters.operations.query_check import require_proposable, require_proposable_draft
from starters.operations.query_workflow import (
    find_query,
    query_closed_as_error,
    read_state,
    wait_for_state,
    with_own_worker_fallback,
)
from starters.operations.session import Session, differences
from starters.operations.workflow_names import PROPOSE, PUBLISH_QUERY, UPDATE, WITHDRAW
from starters.terminal.output import print_status, safe

if TYPE_CHECKING:
    from cleanroom.governance import Document

ENDED: Final = ("Withdrawn", "Expired", "Failed", "Cancelled")


async def create_query(
    session: Session, spec: QuerySpec, *, approval_seconds: int = DEFAULT_APPROVAL_SECONDS, checked: bool = False
) -> dict[str, Any]:
    """Start the workflow of a query and wait until governance holds its draft. Idempotent.

    Args:
        session: Session of the proposer.
        spec: The query.
        approval_seconds: Seconds until an open proposal expires.
        checked: Whether the caller has just made the check of `cleanroom query check`.

    Returns:
        The record of the query, see :func:`query_record`.

    Raises:
        Conflict: ``QueryExists`` when another proposer, text or period has this name.
        CleanRoomError: What `cleanroom query check` refuses; nothing is started then.
    """
    session.require_encryption()
    if not checked:
        await require_proposable(session, spec)
    client = await session.temporal()
    parties = tuple(Collaborator(name=name, user_id=user) for name, user in sorted(session.settings.parties.items()))
    input = PublishQueryInput(
        collaboration=session.collaboration,
        proposer=Collaborator(name=session.party, user_id=session.user_id),
        parties=parties,
        spec=spec,
        authorisation=session.authorise("create-query", spec.name, spec.digest()),
        approval_seconds=approval_seconds,
        seen=session.seen,
    )
    try:
        handle = await client.start_workflow(
            PUBLISH_QUERY,
            input,
            result_type=QueryState,
            id=query_workflow_id(session.collaboration, spec.name),
            task_queue=FRONTEND_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            priority=fair_share(session.collaboration, session.party),
            static_summary=f"query {spec.name} of {session.party}",
            static_details=web_ui_details(session.party, spec),
            search_attributes=start_attributes(
                collaboration=session.collaboration,
                kind="query",
                query=spec.name,
                proposer=session.party,
                datasets=sorted({*spec.inputs.values(), spec.output}),
            ),
        )
    except WorkflowAlreadyStartedError:
        handle = await _same_query(client, input)
    created = wait_for_state(client, handle, lambda state: state.stage != "Creating", f"The draft of {spec.name}")
    state = await with_own_worker_fallback(session, created)
    if state.spec is None or state.spec.digest() != spec.digest():
        raise _exists(spec.name, "text, because its draft has been changed")
    session.expect(state.seen)
    await remember_own_draft(session, spec)
    return query_record(session, state)


async def _same_query(client: Client, input: PublishQueryInput) -> WorkflowHandle[Any, QueryState]:
    """The handle of the query that exists with this name, if ``input`` creates the same query."""
    workflow_id = query_workflow_id(input.collaboration, input.spec.name)
    first = await started_with(client, workflow_id, PublishQueryInput)
    different = differences(
        {
            "proposer": (first.proposer.name, input.proposer.name),
            "text": (first.spec.digest()[:12], input.spec.digest()[:12]),
            "approval period": (f"{first.approval_seconds} s", f"{input.approval_seconds} s"),
        }
    )
    if different:
        raise _exists(input.spec.name, different)
    print_status(f"[dim]query {safe(input.spec.name)} already exists with the same text; attached to it[/dim]")
    return client.get_workflow_handle(workflow_id, result_type=QueryState)


def _exists(name: str, different: str) -> Conflict:
    return Conflict(
        "QueryExists",
        f"query {name!r} already exists with a different {different}.",
        hint=f"Show it with `cleanroom query show {name}`, or change its draft with `cleanroom query update FILE`.",
    )


def web_ui_details(author: str, spec: QuerySpec) -> str:
    """Return the fixed part of the query's page in the Web UI, in Markdown."""
    name = spec.name
    return details(
        f"Query {code(name)}, written by **{escape(author)}**: its draft, its proposal and the decisions, until it is closed.",
        "\n".join(
            [
                *(f"- reads {code(dataset)} as {code(view)}" for view, dataset in sorted(spec.inputs.items())),
                f"- writes {code(spec.output)}",
            ]
        ),
        "Every owner of these datasets makes a signed decision on exactly this version. "
        "The list *refused* shows the messages that were not counted, with the reason.",
    )


def query_record(session: Session, state: QueryState) -> dict[str, Any]:
    """Return the state of a query as the commands print it."""
    workflow_id = query_workflow_id(session.collaboration, state.query)
    return {
        "query": state.query,
        "state": workflow_state(state.stage, state.refusal).word,
        "version": state.version,
        "digest": state.digest,
        "pending": list(state.pending),
        "accepted": list(state.accepted),
        "rejected": list(state.rejected),
        "deputies": dict(state.deputies),
        "expires": state.expires.isoformat() if state.expires else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }


async def update_query(session: Session, spec: QuerySpec) -> CommandOutcome:
    """Replace the draft with ``spec``: a new version without any approval, which pins the current versions of the datasets."""
    session.require_encryption()
    await require_proposable(session, spec)

    async def send(document: Document) -> CommandOutcome:
        authorisation = session.authorise("update-query", spec.name, spec.digest(), version=document.version or "")
        return await _send_author_command(session, spec.name, UPDATE, authorisation, spec)

    def done(document: Document) -> bool:
        return document.state == "Draft" and has_own_text(session, document, spec)

    # The same text may pin other versions of the datasets, so it is always sent.
    outcome = await _unless_done(session, spec.name, done, send, f"the draft of {spec.name} has this text already", send_first=True)
    session.expect(outcome.seen)
    await remember_own_draft(session, spec)
    return outcome


async def propose_query(session: Session, name: str, spec: QuerySpec | None = None) -> CommandOutcome:
    """Propose the current draft; the outcome lists the owners who must approve. Idempotent.

    Args:
        session: Session of the proposer.
        name: Name of the query.
        spec: The text to propose. None proposes the text that this collaborator wrote last on this machine.

    Raises:
        Conflict: ``DraftChanged`` when governance holds another text.
        Refused: ``DraftMismatch`` when governance holds another text than ``spec``.
    """
    session.require_encryption()

    async def send(document: Document) -> CommandOutcome:
        require_own_draft(session, document, spec)
        await require_proposable_draft(session, document)
        return await _send_author_command(session, name, PROPOSE, _authorise_document(session, "propose-query", document))

    def done(document: Document) -> bool:
        return document.state != "Draft" and has_own_text(session, document, spec)

    return await _unless_done(session, name, done, send, f"{name} is proposed already, with this text")


async def _unless_done(
    session: Session,
    name: str,
    done: Callable[[Document], bool],
    send: Callable[[Document], Awaitable[CommandOutcome]],
    already: str,
    *,
    send_first: bool = False,
) -> CommandOutcome:
    """Send a command, unless governance already holds what it leads to.

    An earlier command that was killed before its answer arrived may have been executed, or be executed while this one is sent.

    Args:
        session: Session of the author.
        name: Name of the query.
        done: Whether a document is what the command leads to.
        send: Sends the command for the document that governance holds.
        already: Status line when there is nothing to do.
        send_first: Look only when the command has failed.
    """
    await read_state(session, name)
    document = await read_query_document(session, name)
    if send_first or not done(document):
        try:
            return await send(document)
        except (CleanRoomError, WorkflowUpdateFailedError):
            document = await read_query_document(session, name)
            if not done(document):
                raise
    found = await find_query(session, name)

    def shown(state: QueryState) -> bool:
        return state.stage in (*ENDED, "Approved") or (state.version, state.stage != "Draft") == (
            document.version,
            document.state != "Draft",
        )

    state = await with_own_worker_fallback(session, wait_for_state(found.client, found.handle, shown, f"The state of {name}"))
    print_status(f"[dim]{safe(already)}[/dim]")
    return _outcome(state, already)


def _outcome(state: QueryState, detail: str) -> CommandOutcome:
    return CommandOutcome(
        stage=state.stage, version=state.version, pending=state.pending, accepted=state.accepted, detail=detail, seen=state.seen
    )


def outcome_record(name: str, outcome: CommandOutcome) -> dict[str, Any]:
    """Return the outcome of a command as it is printed: with the state that people see."""
    state = workflow_state(outcome.stage)
    return {
        "query": name,
        "state": state.word,
        "version": outcome.version,
        "pending": list(outcome.pending),
        "accepted": list(outcome.accepted),
        "detail": outcome.detail,
        "next": next_command(state, name),
    }


async def withdraw_query(session: Session, name: str, *, only_proposal: bool = False) -> CommandOutcome:
    """Withdraw an open proposal, which becomes a draft again, or close a draft.

    Args:
        session: Session of the proposer.
        name: Name of the query.
        only_proposal: Leave a draft as it is. This makes the command idempotent.
    """
    session.require_encryption()
    state = await read_state(session, name)
    if state.stage == "Withdrawn":
        return _outcome(state, f"{name} is closed already")
    document = await read_query_document(session, name)
    if only_proposal and document.state == "Draft":
        return _outcome(state, f"{name} has no open proposal")
    proposal_id = document.proposal_id if document.state == "Proposed" else ""
    return await _send_author_command(
        session, name, WITHDRAW, _authorise_document(session, "withdraw-query", document, proposal_id=proposal_id)
    )


def _authorise_document(session: Session, action: str, document: Document, *, proposal_id: str = "") -> str:
    """Sign an authorisation for exactly the version and text of ``document``."""
    digest = document_digest(str(document.data))
    return session.authorise(action, document.id, digest, version=document.version or "", proposal_id=proposal_id)


async def _send_author_command(
    session: Session, name: str, update: str, authorisation: str, spec: QuerySpec | None = None
) -> CommandOutcome:
    """Send a signed command as an update of the query's workflow and wait for its outcome."""
    session.require_encryption()
    found = await find_query(session, name)
    message = AuthorMessage(party=session.party, authorisation=authorisation, spec=spec, seen=session.seen)

    async def execute() -> CommandOutcome:
        with query_closed_as_error(name):
            outcome: CommandOutcome = await found.handle.execute_update(update, message, result_type=CommandOutcome)
        return outcome

    return await with_own_worker_fallback(session, execute())
