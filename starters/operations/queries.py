"""Creates, updates, proposes, withdraws and lists queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.documents.query import QUERY_LABELS
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.identifiers import FRONTEND_QUEUE, canonical_json, document_digest, query_workflow_id, sha256_hex
from cleanroom.messages.query import (
    DEFAULT_APPROVAL_SECONDS,
    AuthorMessage,
    Collaborator,
    CommandOutcome,
    PublishQueryInput,
    QueryState,
)
from cleanroom.temporal import attributes
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.markdown import code, details, escape
from starters.operations.query_workflow import (
    QueryFound,
    find_query,
    query_closed_as_error,
    state_of,
    wait_for_state,
    with_own_worker_fallback,
)
from starters.operations.session import Session
from starters.operations.worker_queries import QUERY_SECONDS
from starters.operations.workflow_names import PROPOSE, PUBLISH_QUERY, UPDATE, WITHDRAW

if TYPE_CHECKING:
    from cleanroom.governance import GovernanceUserClient


def _parties(session: Session) -> tuple[Collaborator, ...]:
    return tuple(Collaborator(name=name, user_id=user) for name, user in sorted(session.settings.parties.items()))


async def create_query(
    session: Session, spec: QuerySpec, *, approval_seconds: int = DEFAULT_APPROVAL_SECONDS, reconcile_seconds: int = 60
) -> dict[str, Any]:
    """Start the query's workflow and wait until its draft is in governance."""
    client = await session.temporal()
    workflow_id = query_workflow_id(session.collaboration, spec.name)
    input = PublishQueryInput(
        collaboration=session.collaboration,
        proposer=Collaborator(name=session.party, user_id=session.user_id),
        parties=_parties(session),
        spec=spec,
        authorisation=session.authorise("create-query", spec.name, spec.digest()),
        approval_seconds=approval_seconds,
        reconcile_seconds=reconcile_seconds,
    )
    try:
        handle = await client.start_workflow(
            PUBLISH_QUERY,
            input,
            result_type=QueryState,
            id=workflow_id,
            task_queue=FRONTEND_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"query {spec.name} of {session.party}",
            static_details=_web_ui_details(session, spec),
            search_attributes=start_attributes(
                collaboration=session.collaboration,
                kind="query",
                query=spec.name,
                proposer=session.party,
                datasets=sorted({*spec.inputs.values(), spec.output}),
            ),
        )
    except WorkflowAlreadyStartedError as error:
        raise Conflict(
            "QueryExists",
            f"query {spec.name!r} exists already.",
            hint=f"Update its draft: cleanroom query update, or look at it: cleanroom query show {spec.name}.",
        ) from error
    state = await with_own_worker_fallback(
        session, wait_for_state(client, handle, lambda state: state.stage != "Creating", f"the draft of {spec.name}")
    )
    return query_record(session, state)


def _web_ui_details(session: Session, spec: QuerySpec) -> str:
    """What the Web UI says about a query beside its state."""
    name = spec.name
    return details(
        f"The life of query {code(name)}, written by **{escape(session.party)}**: draft, proposal, decisions, until it is closed.",
        "\n".join(
            [
                *(f"- reads {code(dataset)} as {code(view)}" for view, dataset in sorted(spec.inputs.items())),
                f"- writes {code(spec.output)}",
            ]
        ),
        "Every owner of these datasets decides, by a signed decision on exactly this version. "
        "What was not counted, and why, is in the query *refused*.",
    )


def query_record(session: Session, state: QueryState) -> dict[str, Any]:
    workflow_id = query_workflow_id(session.collaboration, state.query)
    return {
        "query": state.query,
        "state": {"Proposed": "Not Approved"}.get(state.stage, state.stage),
        "version": state.version,
        "digest": state.digest,
        "pending": list(state.pending),
        "accepted": list(state.accepted),
        "rejected": list(state.rejected),
        "expires": state.expires.isoformat() if state.expires else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }


async def update_query(session: Session, spec: QuerySpec) -> CommandOutcome:
    """Replace the draft with ``spec``: a new version without any approval."""
    return await _send_author_command(session, spec.name, "update-query", UPDATE, spec)


async def propose_query(session: Session, name: str) -> CommandOutcome:
    """Propose the current draft; the outcome lists the owners who must approve."""
    return await _send_author_command(session, name, "propose-query", PROPOSE)


async def withdraw_query(session: Session, name: str) -> CommandOutcome:
    """Withdraw an open proposal, which becomes a draft again, or close a draft."""
    return await _send_author_command(session, name, "withdraw-query", WITHDRAW)


async def _send_author_command(session: Session, name: str, action: str, update: str, spec: QuerySpec | None = None) -> CommandOutcome:
    found = await find_query(session, name)
    await state_of(found)
    digest = spec.digest() if spec else sha256_hex(canonical_json({"query": name, "action": action}))
    message = AuthorMessage(party=session.party, authorisation=session.authorise(action, name, digest), spec=spec)

    async def answer() -> CommandOutcome:
        with query_closed_as_error(name):
            outcome: CommandOutcome = await found.handle.execute_update(update, message, result_type=CommandOutcome)
        return outcome

    return await with_own_worker_fallback(session, answer())


async def show_query(session: Session, name: str) -> tuple[dict[str, Any], QueryState | None]:
    """The record, and the state where somebody tells it: the workflow's worker, or the result of one that has ended."""
    found = await find_query(session, name)
    unanswered: CleanRoomError | None = None
    state: QueryState | None = None
    try:
        state = await state_of(found, seconds=QUERY_SECONDS)
    except CleanRoomError as error:
        unanswered = error
        if found.described.status is WorkflowExecutionStatus.COMPLETED:
            state = await found.handle.result()
    record = query_record(session, state) if state else await _governance_record(session, found)
    return record | {
        "refused": [item.model_dump(mode="json") for item in state.refused] if state else [],
        "unanswered": unanswered.to_dict() if unanswered else None,
    }, state


async def _governance_record(session: Session, found: QueryFound) -> dict[str, Any]:
    """What governance and Temporal's server know of a query whose workflow does not answer."""
    name, described = found.handle.id.rsplit("/", 1)[-1], found.described
    async with session.governance() as client:
        row = await _governance_row(session, client, name) if await session.documents(client).find(name) else {}
    ended = described.status not in (None, WorkflowExecutionStatus.RUNNING)
    expires = described.typed_search_attributes.get(attributes.EXPIRES_AT)
    return {
        "query": name,
        "state": described.status.name if ended and described.status else row.get("state", "Creating"),
        "version": row.get("version", ""),
        "digest": row.get("digest", ""),
        "pending": row.get("pending", []),
        "accepted": row.get("accepted", []),
        "rejected": row.get("rejected", []),
        "expires": expires.isoformat() if expires else None,
        "workflow_id": found.handle.id,
        "link": session.ui_link(found.handle.id),
    }


async def list_queries(session: Session) -> list[dict[str, Any]]:
    async with session.governance() as client:
        return [await _governance_row(session, client, query) for query in await session.documents(client).ids(QUERY_LABELS)]


async def _governance_row(session: Session, client: GovernanceUserClient, query: str) -> dict[str, Any]:
    """A query as governance holds it, people by name."""
    names = {user: name for name, user in session.settings.parties.items()}
    document = await session.documents(client).get(query)
    ballots: dict[str, str] = {}
    if document.proposal_id:
        status = await client.proposal_status(document.proposal_id)
        ballots = {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}

    def voted(word: str) -> list[str]:
        return sorted(names.get(user, user) for user, ballot in ballots.items() if ballot == word)

    approvers = {item.approver_id for item in document.approvers or ()}
    return {
        "query": query,
        "state": {"Proposed": "Not Approved", "Accepted": "Approved"}.get(document.state, document.state),
        "version": document.version,
        "digest": document_digest(str(document.data)),
        "pending": sorted(names.get(user, user) for user in approvers - set(ballots)) if document.state == "Proposed" else [],
        "accepted": voted("accepted"),
        "rejected": voted("rejected"),
    }
