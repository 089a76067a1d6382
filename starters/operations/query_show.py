"""Shows a query: what its workflow and governance say, with or without either of them."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus

from cleanroom.errors import CleanRoomError, NotFound, Unavailable
from cleanroom.identifiers import query_workflow_id
from cleanroom.lifecycle.query import NOT_APPROVED, next_command, workflow_state
from cleanroom.messages.query import QueryState
from cleanroom.temporal import attributes
from cleanroom.temporal.failures import error_from_failure
from starters.operations.queries import query_record
from starters.operations.query_list import governance_row
from starters.operations.query_names import latest_name
from starters.operations.query_standing import standing_record, state_with, workflow_facts
from starters.operations.query_workflow import state_of
from starters.operations.session import FoundWorkflow, Session, seek_workflow
from starters.operations.worker_queries import QUERY_SECONDS


async def show_query(session: Session, name: str) -> tuple[dict[str, Any], QueryState | None]:
    """Read everything known about a query: of its latest version, if it was renewed.

    Returns:
        The record (see :func:`query_record` and :func:`standing_record`, plus ``rejections``, ``refused``, ``failure`` and
        ``unanswered``), and the state of the workflow. Without a worker or a workflow, the record comes from governance and the state is
        None, unless the workflow has completed with one.

    Raises:
        NotFound: ``WorkflowNotFound`` if neither Temporal nor governance has the query.
    """
    unanswered: CleanRoomError | None = None
    found, state = await _find(session, name), None
    try:
        latest = await latest_name(session, name)
        if latest != name or found is None:
            name, found = latest, await _find(session, latest)
            await _require_known(session, name, found)
    except Unavailable as error:
        if found is None:
            raise
        unanswered = error
    failure = ""
    if found is not None:
        state, failed = await _workflow_state(found)
        unanswered = unanswered or (failed if state is None else None)
        failure = await _failure(found)
    record = query_record(session, state) if state else await _record_without_worker(session, name, found)
    workflow = workflow_facts(found.described if found else None)
    shown = workflow_state(state.stage, state.refusal) if state else None
    record |= {"next": next_command(shown, name, held=bool(record["version"])) if shown else None, "next_by": []}
    try:
        record |= await standing_record(session, name, workflow, knew=bool(record["version"]))
    except Unavailable as error:
        unanswered = unanswered or error
    if record["state"] == NOT_APPROVED.word:
        record["next_by"] = record["pending"]
    else:
        record["pending"] = []
    rejected = [entry for entry in state.history if entry.event == "rejected"] if state else []
    return record | {
        "rejections": [f"{entry.by}: {entry.detail}" if entry.detail else entry.by for entry in rejected],
        "refused": [item.model_dump(mode="json") for item in state.refused] if state else [],
        "failure": failure or None,
        "unanswered": unanswered.to_dict() if unanswered else None,
    }, state


async def _find(session: Session, name: str) -> FoundWorkflow[QueryState] | None:
    return await seek_workflow(session, name, query_workflow_id, QueryState)


async def _require_known(session: Session, name: str, found: FoundWorkflow[QueryState] | None) -> None:
    """Require that Temporal or governance has the query.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    if found is not None:
        return
    async with session.governance() as client:
        if await session.documents(client).find(name) is None:
            raise NotFound("WorkflowNotFound", f"query {name!r} does not exist.", hint="List what exists with `cleanroom query list`.")


async def _workflow_state(found: FoundWorkflow[QueryState]) -> tuple[QueryState | None, CleanRoomError | None]:
    try:
        return await state_of(found, seconds=QUERY_SECONDS), None
    except CleanRoomError as error:
        if found.described.status is WorkflowExecutionStatus.COMPLETED:
            return await found.handle.result(), None
        return None, error


async def _failure(found: FoundWorkflow[QueryState]) -> str:
    """Return the error of a failed workflow as ``<code>: <message>``."""
    if found.described.status is not WorkflowExecutionStatus.FAILED:
        return ""
    try:
        await found.handle.result()
    except Exception as error:
        return str(error_from_failure(error))
    return ""


async def _record_without_worker(session: Session, name: str, found: FoundWorkflow[QueryState] | None) -> dict[str, Any]:
    """The record of a query from governance and from the description of its workflow."""
    workflow = workflow_facts(found.described if found else None)
    async with session.governance() as client:
        document = await session.documents(client).find(name)
        row = await governance_row(session, client, document, workflow) if document is not None else {}
    expires = found.described.typed_search_attributes.get(attributes.EXPIRES_AT) if found else None
    workflow_id = query_workflow_id(session.collaboration, name)
    return {
        "query": name,
        "state": row.get("state", state_with("", workflow).word),
        "version": row.get("version", ""),
        "digest": row.get("digest", ""),
        "pending": row.get("pending", []),
        "accepted": row.get("accepted", []),
        "rejected": row.get("rejected", []),
        "expires": expires.isoformat() if expires else None,
        "workflow_id": workflow_id,
        "link": session.ui_link(workflow_id),
    }
