"""Shows and lists datasets: what governance holds, and how the workflows that publish them stand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from cleanroom.concurrency import gather_limited
from cleanroom.documents.dataset import DATASET_LABELS, parse_dataset
from cleanroom.errors import CleanRoomError, NotFound, Unavailable
from cleanroom.identifiers import dataset_workflow_id, document_digest, is_name
from cleanroom.lifecycle.dataset import DatasetFacts, dataset_state, next_command
from cleanroom.lifecycle.state import State, WorkflowEnd
from cleanroom.messages.publish import PublishedDataset
from starters.operations.session import Session, seek_workflow
from starters.terminal.output import print_status

# Imported on use: `dataset show` reads governance first.
if TYPE_CHECKING:
    from temporalio.client import WorkflowExecution

    from cleanroom.governance import Document, GovernanceUserClient

CONCURRENT: Final = 16


async def show_dataset(session: Session, name: str) -> dict[str, Any]:
    """Return a dataset's document as governance holds it, with its state and the command that leads on.

    Before governance has the document, only the state of the workflow that publishes the dataset is known.

    Raises:
        NotFound: ``UserDocumentNotFound`` if neither governance nor Temporal has the dataset.
    """
    async with session.governance() as client:
        document = await session.documents(client).find(name)
        from temporalio.service import RPCError

        try:
            workflow = await _workflow(session, name)
        except (Unavailable, RPCError):
            if document is None:
                raise
            workflow = None
        if document is None and workflow is None:
            raise NotFound("UserDocumentNotFound", f"governance has no dataset {name!r}.", hint="`cleanroom dataset list` shows the names.")
        state = await _state(session, client, document, workflow)
    workflow_id = dataset_workflow_id(session.collaboration, name)
    shown = {
        "state": state.word,
        "next": next_command(state, name),
        "failure": _failure(workflow, state),
        "link": session.ui_link(workflow_id),
    }
    if document is None:
        assert workflow is not None
        return {"id": name, "owner": _owner(workflow)} | shown
    return _document_record(session, document) | shown


def _document_record(session: Session, document: Document) -> dict[str, Any]:
    dataset = parse_dataset(document.data, document_id=document.id)
    policy = dataset.dataset_access_policy
    return {
        "id": document.id,
        "version": document.version,
        "digest": document_digest(document.data),
        "owner": session.party_of(document.proposer_id),
        "access": policy.access_mode,
        "format": dataset.dataset_schema.format,
        "columns": dataset.dataset_schema.types(),
        "allowed_columns": list(policy.allowed_fields),
        "privacy_floors": json.loads(policy.privacy_floors.model_dump_json(by_alias=True)),
        "store": f"{dataset.dataset_access_point.store.type} {dataset.dataset_access_point.store.name}",
        "encryption": dataset.dataset_access_point.protection.encryption_mode(),
        "manifest": dataset.dataset_access_point.manifest or "optional",
        "manifest_digest": dataset.dataset_access_point.manifest_digest,
    }


async def list_datasets(session: Session) -> list[dict[str, Any]]:
    """List the datasets of the collaboration: the documents that governance holds, and those that are being published."""
    from cleanroom.publishing.user_documents import UnreadableDocument

    workflows = await _workflows(session)
    async with session.governance() as client:
        documents = session.documents(client)

        async def row(document: Document | UnreadableDocument) -> dict[str, Any]:
            if isinstance(document, UnreadableDocument):
                unreadable = {"dataset": document.id, "state": "unreadable", "owner": "?", "version": None}
                return unreadable | {"access": "?", "format": document.error.code}
            found: dict[str, Any] = {
                "dataset": document.id,
                "state": (await _state(session, client, document, workflows.get(document.id))).word,
                "owner": session.party_of(document.proposer_id),
                "version": document.version,
            }
            try:
                dataset = parse_dataset(document.data, document_id=document.id)
            except CleanRoomError as error:
                return found | {"access": "?", "format": error.code}
            return found | {"access": dataset.dataset_access_policy.access_mode, "format": dataset.dataset_schema.format}

        rows = await gather_limited(row, await documents.select(DATASET_LABELS), CONCURRENT)
        held = {item["dataset"] for item in rows}
        for name in workflows.keys() - held:
            workflow = workflows[name]
            state = await _state(session, client, None, workflow)
            owner = _owner(workflow)
            rows.append({"dataset": name, "state": state.word, "owner": owner, "version": None, "access": "", "format": ""})
    return sorted(rows, key=lambda item: str(item["dataset"]))


async def _state(session: Session, client: GovernanceUserClient, document: Document | None, workflow: WorkflowExecution | None) -> State:
    consent = True
    if document is not None and document.state == "Accepted":
        consent = (await client.document_consent(session.collaboration, document.id)).status == "enabled"
    end = WorkflowEnd.of(workflow.status) if workflow is not None else WorkflowEnd.NONE
    return dataset_state(DatasetFacts(cast(Any, document.state) if document is not None else "", end, consent))


def _failure(workflow: WorkflowExecution | None, state: State) -> str | None:
    """Return the code with which the workflow has failed."""
    if workflow is None or state.word != "Failed":
        return None
    from cleanroom.temporal.attributes import OUTCOME

    return workflow.typed_search_attributes.get(OUTCOME)


def _owner(workflow: WorkflowExecution) -> str:
    from cleanroom.temporal.attributes import PROPOSER

    return workflow.typed_search_attributes.get(PROPOSER) or ""


async def _workflow(session: Session, name: str) -> WorkflowExecution | None:
    """Return the latest workflow that publishes a dataset; None if Temporal has none."""
    found = await seek_workflow(session, name, dataset_workflow_id, PublishedDataset)
    return found.described if found is not None else None


async def _workflows(session: Session) -> dict[str, WorkflowExecution]:
    """Return the latest workflow of each dataset by its name; nothing if Temporal does not answer."""
    from temporalio.service import RPCError

    found: dict[str, WorkflowExecution] = {}
    try:
        client = await session.temporal()
        async for item in client.list_workflows(f'CrCollab = "{session.collaboration}" AND CrKind = "dataset"'):
            name = item.id.rsplit("/", 1)[-1]
            # Anyone who reaches Temporal can start a workflow with any attributes.
            own = is_name(name) and item.id == dataset_workflow_id(session.collaboration, name)
            if own and (name not in found or found[name].start_time < item.start_time):
                found[name] = item
    except (Unavailable, RPCError):
        print_status("[dim]Temporal does not answer. Datasets that governance does not hold yet are missing.[/dim]")
    return found
