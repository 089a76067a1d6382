"""Lists the queries of a collaboration, with requests that do not grow with the queries that are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError

from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS
from cleanroom.errors import CleanRoomError, Unavailable
from cleanroom.identifiers import document_digest, is_name, query_workflow_id, watch_workflow_id
from cleanroom.messages.known import Compared, KnownState
from cleanroom.temporal import attributes
from cleanroom.temporal.started import decode_one
from starters.operations.query_standing import accepted_record, listed_states
from starters.operations.session import Session
from starters.terminal.output import print_status

if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient
    from cleanroom.publishing.user_documents import UnreadableDocument, UserDocuments

Row = dict[str, Any]

CONCURRENT: Final = 16
"""Queries that are compared with governance at the same time."""
_STATES: Final = {"Draft": "Draft", "Proposed": "Not Approved", "Accepted": "Approved"}
"""States by the states of documents in governance."""


async def list_queries(session: Session, *, waiting_for: str | None = None, from_governance: bool = False) -> list[Row]:
    """List the queries of the collaboration.

    Temporal's list has the states that the workflows show. If the watcher has not compared the drafts and open proposals with
    governance at its present position, each of them is compared here, and where they differ, the list has governance's state. If
    Temporal does not answer or knows no query, governance alone is read.

    Args:
        session: Session of the command.
        waiting_for: List only the queries that wait for the decision of this collaborator.
        from_governance: Read every query from governance, for example after Temporal has lost some.
    """
    compared, workflows = (None, {}) if from_governance else await _workflows(session)
    async with session.governance() as client:
        governance = _Governance(session, client)
        rows = await (_in_step(governance, workflows, compared) if workflows else governance.all_rows())
    return [row for row in sorted(rows, key=lambda row: str(row["query"])) if waiting_for is None or waiting_for in row["pending"]]


async def _workflows(session: Session) -> tuple[Compared | None, dict[str, WorkflowExecution]]:
    """Return what the watcher has compared, and the latest workflow of each query by its name; nothing if Temporal does not answer."""
    found: dict[str, WorkflowExecution] = {}
    try:
        client = await session.temporal()
        # Before the list, so that the list has at least what the watcher has compared.
        compared = await read_compared(client, session.collaboration)
        async for item in client.list_workflows(
            f'CrCollab = "{session.collaboration}" AND CrKind = "query" AND ExecutionStatus != "ContinuedAsNew"'
        ):
            name = item.typed_search_attributes.get(attributes.QUERY) or ""
            # Anyone who reaches Temporal can start a workflow with any attributes.
            own = is_name(name) and item.id == query_workflow_id(session.collaboration, name)
            if own and (name not in found or found[name].start_time < item.start_time):
                found[name] = item
    except (Unavailable, RPCError):
        print_status("[dim]Temporal does not answer. This list is from governance, without times.[/dim]")
        return None, {}
    return compared, found


async def read_compared(client: Client, collaboration: str) -> Compared | None:
    """Return what the watcher of the collaboration's queries has compared, from the heartbeat of its activity."""
    workflow_id = watch_workflow_id(collaboration)
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
        pending = described.raw_description.pending_activities
        converter = client.data_converter.with_context(WorkflowSerializationContext(client.namespace, workflow_id))
        return await decode_one(converter, pending[0].heartbeat_details.payloads, Compared) if pending else None
    except (RPCError, CleanRoomError, IndexError):
        # Without it, every open query is compared.
        return None


async def _in_step(governance: _Governance, workflows: dict[str, WorkflowExecution], compared: Compared | None) -> list[Row]:
    """List the queries that have a workflow, and compare those that can change with governance."""
    from cleanroom.governance import observed_transactions

    with observed_transactions() as seen:
        held = await governance.names()
    position = str(seen[-1]) if seen else ""

    async def row(name: str) -> Row:
        workflow = workflows[name]
        known = KnownState.parse(workflow.typed_search_attributes.get(attributes.KNOWN))
        shown = _shown(name, workflow, known)
        if workflow.status is not WorkflowExecutionStatus.RUNNING or shown["state"] == "Approved":
            return shown
        if name not in held:
            return shown if known is None else shown | {"state": "not in governance"}
        complete = not any(owner.startswith("+") for owner in (*shown["pending"], *shown["accepted"]))
        if known is not None and complete:
            if compared is not None and compared.covers(position, workflow.start_time):
                return shown
            if await governance.is_current(name, known):
                return shown
        return shown | await governance.row(name)

    rows = await gather_limited(row, workflows, CONCURRENT)
    await governance.correct(rows, workflows)
    others = len(held - workflows.keys())
    if others:
        print_status(
            f"[dim]{others} more queries in governance have no workflow: closed long ago, lost, or of another collaboration. "
            "--from-governance lists those of this collaboration.[/dim]"
        )
    return rows


def _shown(name: str, workflow: WorkflowExecution, known: KnownState | None) -> Row:
    """Return what the search attributes of a workflow show."""
    values = workflow.typed_search_attributes
    since, expires = values.get(attributes.STAGE_SINCE), values.get(attributes.EXPIRES_AT)
    state = _STATES[known.state] if known else "Creating"
    return {
        "query": name,
        "state": state,
        "version": known.version if known else None,
        "digest": values.get(attributes.DIGEST) or "",
        "pending": list(values.get(attributes.PENDING_FOR) or ()) if state == "Not Approved" else [],
        "accepted": list(values.get(attributes.APPROVED_BY) or ()),
        "rejected": [],
        "since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
        "reminded": values.get(attributes.REMINDED),
    }


class _Governance:
    """Rows as governance holds them."""

    def __init__(self, session: Session, client: GovernanceUserClient) -> None:
        self._session, self._client = session, client
        self._documents: UserDocuments = session.documents(client)

    async def names(self) -> set[str]:
        """Return the names of the queries of all collaborations."""
        return {row.id for row in await self._client.list_documents(QUERY_LABELS)}

    async def is_current(self, name: str, known: KnownState) -> bool:
        """Whether governance holds what a workflow knows."""
        from cleanroom.publishing.query_states import is_current

        try:
            return await is_current(self._documents, name, known)
        except Unavailable:
            raise
        except CleanRoomError:
            return False

    async def row(self, name: str) -> Row:
        """Read the row of a query."""
        return await governance_row(self._session, self._client, await self._documents.readable(name))

    async def all_rows(self) -> list[Row]:
        """Read the rows of all queries of the collaboration, with what a run of the accepted ones would meet."""
        return await gather_limited(self._whole_row, await self._documents.select(QUERY_LABELS), CONCURRENT)

    async def _whole_row(self, document: Document | UnreadableDocument) -> Row:
        from cleanroom.publishing.user_documents import UnreadableDocument

        row = await governance_row(self._session, self._client, document) | {"since": None, "expires": None, "reminded": None}
        if isinstance(document, UnreadableDocument) or document.state != "Accepted":
            return row
        accepted = await accepted_record(self._session, self._client, document)
        return row | {"state": accepted["state"], "expires": accepted["expires"]}

    async def correct(self, rows: list[Row], workflows: dict[str, WorkflowExecution]) -> None:
        """Replace the states of expired, exhausted and ended queries; see :func:`listed_states`."""
        await listed_states(self._session, self._client, rows, workflows)


async def governance_row(session: Session, client: GovernanceUserClient, document: Document | UnreadableDocument) -> dict[str, Any]:
    """Return a query as governance holds it, with the names of the collaborators."""
    from cleanroom.publishing.user_documents import UnreadableDocument

    names = {user: name for name, user in session.settings.parties.items()}
    if isinstance(document, UnreadableDocument):
        unknown: dict[str, Any] = {key: [] for key in ("pending", "accepted", "rejected")}
        return {"query": document.id, "state": f"unreadable: {document.error.code}", "version": None, "digest": ""} | unknown
    ballots: dict[str, str] = {}
    if document.proposal_id:
        status = await client.proposal_status(document.proposal_id)
        ballots = {ballot.approver_id: str(ballot.ballot) for ballot in status.ballots}

    def voted(ballot: str) -> list[str]:
        return sorted(names.get(user, user) for user, cast in ballots.items() if cast == ballot)

    approvers = {item.approver_id for item in document.approvers or ()}
    return {
        "query": document.id,
        "state": _STATES.get(document.state, document.state),
        "version": document.version,
        "digest": document_digest(str(document.data)),
        "pending": sorted(names.get(user, user) for user in approvers - set(ballots)) if document.state == "Proposed" else [],
        "accepted": voted("accepted"),
        "rejected": voted("rejected"),
    }
