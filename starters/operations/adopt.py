"""Starts a workflow for a query that governance holds, after Temporal has lost its workflow."""

from __future__ import annotations

from typing import Any

from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from cleanroom.errors import Conflict, PreconditionFailed
from cleanroom.identifiers import FRONTEND_QUEUE, query_workflow_id
from cleanroom.lifecycle.query import DEFAULT_APPROVAL_SECONDS
from cleanroom.messages.query import AuthorisedCommand, Collaborator, PublishQueryInput, QueryState
from cleanroom.temporal.attributes import start_attributes
from cleanroom.temporal.started import started_with
from starters.operations.queries import query_record, web_ui_details
from starters.operations.query_workflow import wait_for_state
from starters.operations.session import Session, now
from starters.operations.workflow_names import PUBLISH_QUERY
from starters.terminal.output import print_status, safe


async def adopt_query(session: Session, name: str, *, approval_seconds: int = DEFAULT_APPROVAL_SECONDS) -> dict[str, Any]:
    """Start the workflow of a query from what governance holds of it.

    Governance decides about the query, as before: its workflow only shows the state and executes commands. Nothing is written to
    governance.

    Args:
        session: Session of any collaborator.
        name: Name of the query.
        approval_seconds: Seconds until an open proposal expires.

    Returns:
        The record of the query, with ``not_rebuilt``: what governance does not hold.

    Raises:
        Conflict: ``QueryExists`` if the query has an open workflow that another command started.
        PreconditionFailed: ``PartyUnknown`` if the settings do not name the query's author; ``ApprovalExpired``.
        NotFound, Refused: See :func:`cleanroom.publishing.adoption.adopted_query`.
    """
    from cleanroom.publishing.adoption import adopted_query
    from cleanroom.runs.reader import UserReader

    session.require_encryption()
    names = session.settings.user_names
    async with session.governance() as client:
        documents, reader = session.documents(client), UserReader(client, session.collaboration)
        found = await adopted_query(documents, reader, session.collaboration, name, names, session.party, now())
        document = await documents.get(name)
    if found.proposer_id not in names:
        raise PreconditionFailed(
            "PartyUnknown",
            f"settings: [default.parties] does not name user {found.proposer_id}, the author of query {name!r}.",
            hint="Add the user to [default.parties] in cleanroom.toml.",
        )
    not_rebuilt, command = found.not_rebuilt, None
    if found.state.stage == "Proposed":
        if document.proposer_id == session.user_id:
            command = _withdrawal(session, found.state)
        else:
            author = names.get(document.proposer_id, document.proposer_id)
            not_rebuilt += (f"the authorisation to withdraw the proposal at its deadline: only {author} can adopt the query with it",)
    input = PublishQueryInput(
        collaboration=session.collaboration,
        proposer=Collaborator(name=names[found.proposer_id], user_id=found.proposer_id),
        parties=tuple(Collaborator(name=party, user_id=user) for party, user in sorted(session.settings.parties.items())),
        spec=found.spec,
        authorisation="",
        approval_seconds=approval_seconds,
        carried=found.state,
        carried_command=command,
        carried_approvals_expire_at=found.approvals_expire_at,
        seen=session.seen,
    )
    client_ = await session.temporal()
    try:
        handle = await client_.start_workflow(
            PUBLISH_QUERY,
            input,
            result_type=QueryState,
            id=query_workflow_id(session.collaboration, name),
            task_queue=FRONTEND_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"query {name}, adopted by {session.party}",
            static_details=web_ui_details(names[found.proposer_id], found.spec),
            search_attributes=start_attributes(
                collaboration=session.collaboration,
                kind="query",
                query=name,
                proposer=names[found.proposer_id],
                datasets=sorted({*found.spec.inputs.values(), found.spec.output}),
            ),
        )
    except WorkflowAlreadyStartedError as error:
        workflow_id = query_workflow_id(session.collaboration, name)
        if not _same_adoption(await started_with(client_, workflow_id, PublishQueryInput), input):
            raise Conflict(
                "QueryExists", f"query {name!r} has an open workflow.", hint=f"Show it with `cleanroom query show {name}`."
            ) from error
        print_status(f"[dim]query {safe(name)} has been adopted already; attached to it[/dim]")
        handle = client_.get_workflow_handle(workflow_id, result_type=QueryState)
    state = await wait_for_state(client_, handle, lambda state: state.stage != "Creating", f"The state of {name}")
    return query_record(session, state) | {"not_rebuilt": list(not_rebuilt)}


def _same_adoption(first: PublishQueryInput, input: PublishQueryInput) -> bool:
    """Return whether a workflow was started by the same adoption. A workflow that its proposer created has their authorisation."""
    return (
        first.carried is not None
        and not first.authorisation
        and (first.carried_command is None) == (input.carried_command is None)
        and first.approval_seconds == input.approval_seconds
    )


def _withdrawal(session: Session, state: QueryState) -> AuthorisedCommand:
    """Sign the command with which the workflow withdraws the open proposal at its deadline."""
    authorisation = session.authorise("withdraw-query", state.query, state.digest, version=state.version, proposal_id=state.proposal_id)
    return AuthorisedCommand(
        party=session.party, collaboration=session.collaboration, query=state.query, authorisation=authorisation, seen=session.seen
    )
