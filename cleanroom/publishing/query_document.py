"""Generates the query document: pins the datasets, derives the approvers, applies the query gate, and adds the approval card."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.concurrency import gather_limited
from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import QUERY_LABELS, Application, ApprovalScope, InputDataset, PinnedDocument, QueryDocument, encode_segments
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import document_digest
from cleanroom.messages.query import GenerateQueryRequest, QueryDraft
from cleanroom.query_gate import require_allowed
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.reader import GovernanceReader

OUTPUT_VIEW = "result"
MAX_DRAFT = 512 * 1024
"""Longest query document with its card, in bytes. A draft is in several messages of Temporal, which allows 2 MiB per message."""


async def read_dataset(reader: GovernanceReader, name: str, view: str, mode: str) -> Dataset:
    """Read an accepted dataset that allows ``mode``.

    Raises:
        PreconditionFailed: ``DatasetNotAccepted``. Governance does not distinguish unknown documents from documents not accepted.
        Refused: ``AccessModeMismatch``.
    """
    try:
        document = await reader.accepted_document(name)
    except NotFound as error:
        raise PreconditionFailed(
            "DatasetNotAccepted",
            f"dataset {name!r} does not exist or is not accepted.",
            cause=str(error),
            hint="`cleanroom dataset list` shows the published datasets. The owner publishes a dataset with `cleanroom dataset publish`.",
        ) from error
    dataset = parse_dataset(document.data, document_id=name)
    if dataset.dataset_access_policy.access_mode != mode:
        raise Refused(
            "AccessModeMismatch",
            f"dataset {name!r} allows {dataset.dataset_access_policy.access_mode}, the query requires {mode}.",
            hint="Inputs must allow read; the output must allow write.",
        )
    return Dataset(document, dataset, view)


async def read_datasets(reader: GovernanceReader, spec: QuerySpec) -> tuple[tuple[Dataset, ...], Dataset]:
    """Read the inputs, in the order of the specification, and the output."""
    return await read_used_datasets(reader, spec.input_datasets(), InputDataset(specification=spec.output, view=OUTPUT_VIEW))


async def read_used_datasets(
    reader: GovernanceReader, inputs: Sequence[InputDataset], output: InputDataset
) -> tuple[tuple[Dataset, ...], Dataset]:
    """Read the inputs, in their order, and the output. Errors are those of :func:`read_dataset`."""

    async def read(item: InputDataset) -> Dataset:
        return await read_dataset(reader, item.specification, item.view, "write" if item is output else "read")

    *found, sink = await gather_limited(read, (*inputs, output))
    return tuple(found), sink


def owners_of(inputs: tuple[Dataset, ...], sink: Dataset) -> tuple[str, ...]:
    """Return the approvers: the user IDs of the owners of all inputs and of the output."""
    return tuple(sorted({item.owner_id for item in (*inputs, sink)}))


async def generate_query(reader: GovernanceReader, request: GenerateQueryRequest) -> QueryDraft:
    """Generate the query document of ``request``.

    Raises:
        PreconditionFailed: ``DatasetNotAccepted``.
        Refused: ``QueryRefusedByGate`` with the gate's reasons; ``AccessModeMismatch``.
        InvalidInput: ``QueryTooLarge``.
    """
    spec = request.spec
    inputs, sink = await read_datasets(reader, spec)
    segments = spec.to_segments()
    verdict = require_allowed(spec.name, segments, inputs, sink.dataset)
    pins = tuple(
        PinnedDocument(id=item.dataset.name, version=item.document.version, digest=item.document.digest, owner_id=item.owner_id)
        for item in (*inputs, sink)
    )
    document = QueryDocument(
        name=spec.name,
        application=Application(
            input_dataset=spec.input_datasets(),
            output_dataset=InputDataset(specification=spec.output, view=OUTPUT_VIEW),
            query=encode_segments(segments),
        ),
        approval=ApprovalScope(
            collaboration=request.collaboration, proposer_id=request.proposer_id, datasets=pins, parameters=spec.parameters
        ),
    )
    data = document.to_data()
    size = len(data.encode()) + len(verdict.card.encode())
    if size > MAX_DRAFT:
        raise InvalidInput(
            "QueryTooLarge",
            f"query {spec.name!r}: its document and card have {size} bytes, the maximum is {MAX_DRAFT}.",
            hint="Divide it into several queries.",
        )
    return QueryDraft(
        document_id=spec.name,
        data=data,
        digest=document_digest(data),
        labels=QUERY_LABELS,
        card=verdict.card,
        card_digest=verdict.card_digest,
        owners=owners_of(inputs, sink),
    )
