"""Generates the query document: pins the datasets, derives the approvers, applies the query gate, and adds the approval card."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.concurrency import gather_limited
from cleanroom.documents.query import QUERY_LABELS, InputDataset
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import GenerateQueryRequest, QueryDraft
from cleanroom.publishing.query_check import check_draft, read_dataset
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.reader import GovernanceReader


async def read_used_datasets(
    reader: GovernanceReader, inputs: Sequence[InputDataset], output: InputDataset
) -> tuple[tuple[Dataset, ...], Dataset]:
    """Read the inputs, in their order, and the output. Errors are those of :func:`cleanroom.publishing.query_check.read_dataset`."""

    async def read(item: InputDataset) -> Dataset:
        return await read_dataset(reader, item.specification, item.view, "write" if item is output else "read")

    *found, sink = await gather_limited(read, (*inputs, output))
    return tuple(found), sink


async def generate_query(reader: GovernanceReader, request: GenerateQueryRequest) -> QueryDraft:
    """Generate the query document of ``request``.

    Raises:
        PreconditionFailed: ``DatasetNotAccepted``.
        Refused: ``QueryRefusedByGate`` with the gate's reasons; ``AccessModeMismatch``.
        InvalidInput: ``QueryTooLarge``.
    """
    checked = await check_draft(reader, request.spec, collaboration=request.collaboration, proposer_id=request.proposer_id)
    document, verdict = checked.require_allowed()
    data = document.to_data()
    return QueryDraft(
        document_id=document.name,
        data=data,
        digest=document_digest(data),
        labels=QUERY_LABELS,
        card=verdict.card,
        card_digest=verdict.card_digest,
        owners=checked.owners,
    )
