"""Lists the queries of a collaboration, with requests that do not grow with the queries that are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError

from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS
from cleanroom.errors import CleanRoomError, NotFound, Unavailable
from cleanroom.identifiers import document_digest, is_name, query_workflow_id, watch_workflow_id
from cleanroom.lifecycle.query import BY_STAGE, CREATING, EXPIRED, MISSING, NOT_APPROVED, REFUSED
from cleanroom.lifecycle.state import WorkflowEnd
from cleanroom.messages.known import Compared, KnownState
from cleanroom.temporal import attributes
from cleanroom.temporal.started import decode_one
from starters.operations.query_standing import CONCURRENT, accepted_record, state_with, workflow_facts
from starters.operations.session import Session, now
from starters.terminal.output import print_status

if TYPE_CHECKING:
    from cleanroom.governance import Document, GovernanceUserClient
    from cleanroom.publishing.user_documents import UnreadableDocument, UserDocuments

Row = dict[str, Any]


async def list_queries(session: Session, *, waiting_for: str | None = None, from_governance: bool = False) -> list[Row]:
    """List the queries of the collaboration.

    Temporal's list has the states that the workflows show. If the watcher has not compared them with governance at its present position,
    each open one is compared here, and where they differ, the list has governance's state. If Temporal does not answer or knows no query,
    governance alone is read.

    Args:
        session: Session of the command.
        waiting_for: List only the queries that wait for the decision of this collaborator.
        from_governance: Read every query from governance, for example after Temporal has lost some.
    """
    found = await _workflows(session)
    async with session.governance() as client:
        compared, workflows = found or (None, {})
        governance = _Governance(session, client, workflows if found else None)
        if workflows and not from_governance:
            rows = await _in_step(governance, workflows, compared)
        else:
            rows = await governance.all_rows()
    return [row for row in sorted(rows, key=lambda row: str(row["query"])) if waiting_for is None or waiting_for in row["pending"]]


async def _workflows(session: Session) -> tuple[Compared | None, dict[str, WorkflowExecution]] | None:
    """Return what the watcher has compared, and the latest workflow of each query by its name; None if Temporal does not answer."""
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
        return None
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
    from cleanroom.publishing.query_states import shown_state

    with observed_transactions() as seen:
        held = await governance.names()
    position = str(seen[-1]) if seen else ""

    async def row(name: str) -> Row:
        workflow = workflows[name]
        known = shown_state(workflow.typed_search_attributes)
        shown = _shown(name, workflow, known)
        if workflow.status is WorkflowExecutionStatus.COMPLETED and (known is None or known.state != "Accepted"):
            # Its author has withdrawn it, or it has expired. Nothing but a renewal, which is another workflow, opens it again.
            return shown
        if known is not None and known.state == "Accepted" and _expired(known):
            return shown | {"state": EXPIRED.word}
        if workflow.status is WorkflowExecutionStatus.RUNNING:
            if name not in held:
                return shown | {"state": (MISSING if known else CREATING).word}
            complete = not any(owner.startswith("+") for owner in (*shown["pending"], *shown["accepted"]))
            if known is not None and complete and shown["state"] != REFUSED.word:
                if compared is not None and compared.covers(position, workflow.start_time):
                    return shown
                if await governance.is_current(name, known):
                    return shown
        return shown | await governance.row(name)

    rows = await gather_limited(row, workflows, CONCURRENT)
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
    end, stage = workflow_facts(workflow)
    accepted = BY_STAGE.get(known.approved.stage) if known and known.approved else None
    state = accepted or state_with(known.state if known else "", (end, stage))
    return {
        "query": name,
        "state": state.word,
        "version": known.version if known else None,
        "digest": values.get(attributes.DIGEST) or "",
        "pending": list(values.get(attributes.PENDING_FOR) or ()) if state is NOT_APPROVED else [],
        "accepted": list(values.get(attributes.APPROVED_BY) or ()),
        "rejected": [],
        "since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
        "reminded": values.get(attributes.REMINDED),
    }


def _expired(known: KnownState) -> bool:
    terms = known.approved.terms if known.approved else None
    return terms is not None and terms.expires <= now()


class _Governance:
    """Rows as governance holds them.

    Args:
        session: Session of the command.
        client: Client of governance.
        workflows: The queries' workflows by name; None if Temporal does not answer.
    """

    def __init__(self, session: Session, client: GovernanceUserClient, workflows: dict[str, WorkflowExecution] | None) -> None:
        from cleanroom.runs.owner_decisions import SharedConsents

        self._session, self._client, self._workflows = session, client, workflows
        self._documents: UserDocuments = session.documents(client)
        self._reader = SharedConsents(client, session.collaboration)

    async def names(self) -> set[str]:
        """Return the names of the queries of all collaborations."""
        return {row.id for row in await self._client.list_documents(QUERY_LABELS)}

    async def is_current(self, name: str, known: KnownState) -> bool:
        """Whether governance holds what a workflow knows."""
        from cleanroom.publishing.query_states import is_current

        try:
            return await is_current(self._documents, self._reader, name, known, now())
        except Unavailable:
            raise
        except CleanRoomError:
            return False

    async def row(self, name: str) -> Row:
        """Read the row of a query."""
        try:
            return await self._whole_row(await self._documents.readable(name))
        except NotFound:
            return {"state": state_with("", self._workflow(name)).word}

    async def all_rows(self) -> list[Row]:
        """Read the rows of all queries of the collaboration, with what a run of the accepted ones would meet."""

        async def row(document: Document | UnreadableDocument) -> Row:
            return {"since": None, "expires": None, "reminded": None} | await self._whole_row(document)

        return await gather_limited(row, await self._documents.select(QUERY_LABELS), CONCURRENT)

    async def _whole_row(self, document: Document | UnreadableDocument) -> Row:
        from cleanroom.publishing.user_documents import UnreadableDocument

        if isinstance(document, UnreadableDocument):
            return await governance_row(self._session, self._client, document)
        row = await governance_row(self._session, self._client, document, self._workflow(document.id))
        row["digest"] = attributes.short_digest(row["digest"])
        if document.state == "Accepted":
            accepted = await accepted_record(self._session, self._client, document)
            row |= {key: accepted[key] for key in ("state", "expires", "version")}
        return row

    def _workflow(self, name: str) -> tuple[WorkflowEnd, str]:
        """Return the facts of a query's workflow. Without Temporal, a draft or proposal counts as open."""
        return (WorkflowEnd.OPEN, "") if self._workflows is None else workflow_facts(self._workflows.get(name))


async def governance_row(
    session: Session,
    client: GovernanceUserClient,
    document: Document | UnreadableDocument,
    workflow: tuple[WorkflowEnd, str] = (WorkflowEnd.OPEN, ""),
) -> dict[str, Any]:
    """Return a query as governance holds it, with the names of the collaborators. Of an accepted query, only the votes are read."""
    from cleanroom.publishing.user_documents import UnreadableDocument

    names = session.settings.user_names
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
    state = state_with(document.state, workflow)
    return {
        "query": document.id,
        "state": state.word,
        "version": document.version,
        "digest": document_digest(str(document.data)),
        "pending": sorted(names.get(user, user) for user in approvers - set(ballots)) if state is NOT_APPROVED else [],
        "accepted": voted("accepted"),
        "rejected": voted("rejected"),
    }
