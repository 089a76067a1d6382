"""Shows a query: what its workflow and governance say, with or without either of them."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowExecutionStatus

from cleanroom.errors import CleanRoomError, NotFound, Unavailable
from cleanroom.messages.query import QueryState
from cleanroom.temporal import attributes
from starters.operations.queries import query_record
from starters.operations.query_list import governance_row
from starters.operations.query_names import latest_name
from starters.operations.query_standing import ended_state, standing_record
from starters.operations.query_workflow import find_query, state_of
from starters.operations.session import FoundWorkflow, Session
from starters.operations.worker_queries import QUERY_SECONDS


async def show_query(session: Session, name: str) -> tuple[dict[str, Any], QueryState | None]:
    """Read everything known about a query: of its latest version, if it was renewed.

    Returns:
        The record (see :func:`query_record`, plus ``refused`` and ``unanswered``), and the state of the workflow. Without a worker, the
        record comes from governance and the state is None, unless the workflow has completed with one.

    Raises:
        NotFound: ``WorkflowNotFound``.
    """
    found, unanswered = await _find_latest(session, name)
    name = found.handle.id.rsplit("/", 1)[-1]
    state: QueryState | None = None
    try:
        state = await state_of(found, seconds=QUERY_SECONDS)
    except CleanRoomError as error:
        unanswered = error
        if found.described.status is WorkflowExecutionStatus.COMPLETED:
            state = await found.handle.result()
    record = query_record(session, state) if state else await _record_without_worker(session, found)
    if ended := ended_state(found.described):
        record["state"] = ended
    try:
        record |= await standing_record(session, name, record["state"])
    except Unavailable as error:
        unanswered = unanswered or error
    rejected = [entry for entry in state.history if entry.event == "rejected"] if state else []
    return record | {
        "rejections": [f"{entry.by}: {entry.detail}" if entry.detail else entry.by for entry in rejected],
        "refused": [item.model_dump(mode="json") for item in state.refused] if state else [],
        "unanswered": unanswered.to_dict() if unanswered else None,
    }, state


async def _find_latest(session: Session, name: str) -> tuple[FoundWorkflow[QueryState], CleanRoomError | None]:
    """Find the workflow of the latest version of a query.

    Returns:
        The workflow; the reason why a later version cannot be found, if governance does not respond.
    """
    missing: NotFound | None = None
    found: FoundWorkflow[QueryState] | None = None
    try:
        found = await find_query(session, name)
    except NotFound as error:
        # Temporal deletes workflows that ended long ago.
        missing = error
    try:
        latest = await latest_name(session, name)
    except Unavailable as error:
        if found is None:
            raise
        return found, error
    if latest != name:
        return await find_query(session, latest), None
    if found is None:
        assert missing is not None
        raise missing
    return found, None


async def _record_without_worker(session: Session, found: FoundWorkflow[QueryState]) -> dict[str, Any]:
    """The record of a query from governance and from the description of its workflow."""
    name, described = found.handle.id.rsplit("/", 1)[-1], found.described
    async with session.governance() as client:
        document = await session.documents(client).find(name)
        row = await governance_row(session, client, document) if document is not None else {}
    expires = described.typed_search_attributes.get(attributes.EXPIRES_AT)
    return {
        "query": name,
        "state": row.get("state", "Creating"),
        "version": row.get("version", ""),
        "digest": row.get("digest", ""),
        "pending": row.get("pending", []),
        "accepted": row.get("accepted", []),
        "rejected": row.get("rejected", []),
        "expires": expires.isoformat() if expires else None,
        "workflow_id": found.handle.id,
        "link": session.ui_link(found.handle.id),
    }
