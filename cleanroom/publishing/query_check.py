"""Checks the draft of a query against the published datasets.

`cleanroom query check`, the commands that create, update and propose a query, and the frontend use this one function, so they refuse the
same drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from cleanroom.concurrency import gather_limited
from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import (
    Application,
    ApprovalScope,
    InputDataset,
    PinnedDocument,
    QueryDocument,
    RunParameters,
    encode_segments,
)
from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.query_gate import check_query, document_catalog, refused_by_gate
from cleanroom.runs.authorised import Dataset
from cleanroom.runs.reader import GovernanceReader
from cleanroom.sql import Catalog, GateVerdict, Reason, Warning, analyse, view_of

OUTPUT_VIEW = "result"
MAX_DRAFT = 512 * 1024
"""Longest query document with its card, in bytes. A draft is in several messages of Temporal, which allows 2 MiB per message."""
_WITHOUT_DATASETS = ("Unparsable", "EmptyQuery", "QueryTooLarge", "LastSegmentNotSingle")
"""Codes of the gate that do not depend on the datasets."""
_NO_DATASETS = Catalog(views=(view_of("none", {"none": "string"}),))


@dataclass(frozen=True)
class CheckedDraft:
    """The draft of a query with the datasets that were found, the gate's verdict, and every problem.

    Attributes:
        spec: The draft.
        inputs: The input datasets that were found, in the order of the draft.
        sink: The output dataset, or None if it was not found.
        errors: What is wrong with datasets, or with the draft as a whole.
        verdict: The gate's verdict; None if a dataset is missing.
        reasons: The gate's reasons. If a dataset is missing, only those that do not depend on datasets.
        document: The query document; None if there is a problem.
    """

    spec: QuerySpec
    inputs: tuple[Dataset, ...]
    sink: Dataset | None
    errors: tuple[CleanRoomError, ...]
    verdict: GateVerdict | None
    reasons: tuple[Reason, ...]
    document: QueryDocument | None

    @property
    def owners(self) -> tuple[str, ...]:
        """User IDs of the owners of the datasets that were found: the approvers."""
        return owners_of(self.inputs, self.sink)

    def findings(self) -> tuple[Reason, ...]:
        """Return every problem."""
        return (*(Reason(code=error.code, message=error.message) for error in self.errors), *self.reasons)

    def warnings(self) -> tuple[Warning, ...]:
        """Return what a reader should know although the draft is allowed."""
        gate = self.verdict.warnings if self.verdict is not None else ()
        return (*gate, *_parameter_warnings(self.spec.parameters, self.inputs))

    def require_allowed(self) -> tuple[QueryDocument, GateVerdict]:
        """Return the query document and the gate's verdict.

        Raises:
            PreconditionFailed: ``DatasetNotAccepted``.
            Refused: ``AccessModeMismatch``, ``QueryRefusedByGate``.
            InvalidInput: ``QueryTooLarge``, ``DatasetDocumentInvalid``.
        """
        if self.document is None or self.verdict is None:
            self._raise()
        return self.document, self.verdict

    def _raise(self) -> NoReturn:
        if not self.errors:
            raise refused_by_gate(self.spec.name, self.reasons)
        error = self.errors[0]
        if len(self.findings()) > 1:
            error.details["reasons"] = [reason.model_dump(mode="json", by_alias=True) for reason in self.findings()]
        raise error


async def check_draft(reader: GovernanceReader, spec: QuerySpec, *, collaboration: str, proposer_id: str) -> CheckedDraft:
    """Check a draft against the datasets as governance holds them now, and generate its document.

    Args:
        reader: Reads governance.
        spec: The draft.
        collaboration: ID of the collaboration.
        proposer_id: User ID of the proposer.

    Raises:
        CleanRoomError: Governance could not be read. Problems of the draft are in the result.
    """
    uses = (*spec.input_datasets(), InputDataset(specification=spec.output, view=OUTPUT_VIEW))

    async def read(number: int) -> Dataset | CleanRoomError:
        try:
            item = uses[number]
            return await read_dataset(reader, item.specification, item.view, "write" if number == len(uses) - 1 else "read")
        except (PreconditionFailed, Refused, InvalidInput) as error:
            if error.code not in ("DatasetNotAccepted", "AccessModeMismatch", "DatasetDocumentInvalid"):
                raise
            return error

    found = await gather_limited(read, range(len(uses)))
    # A dataset that is used twice has one problem.
    errors = tuple({(item.code, item.message): item for item in found if isinstance(item, CleanRoomError)}.values())
    inputs = tuple(item for item in found[:-1] if isinstance(item, Dataset))
    sink = found[-1] if isinstance(found[-1], Dataset) else None
    segments = spec.to_segments()
    if len(inputs) < len(spec.inputs) or sink is None:
        # Without its datasets, the gate can only read the text; reasons that follow from a missing dataset would mislead.
        complete = len(inputs) == len(spec.inputs)
        reasons = analyse(segments.segments, document_catalog(inputs) if inputs else _NO_DATASETS).reasons
        shown = reasons if complete else tuple(reason for reason in reasons if reason.code in _WITHOUT_DATASETS)
        return CheckedDraft(spec, inputs, sink, errors, None, shown, None)
    verdict = check_query(segments, inputs, sink.dataset)
    if not verdict.allowed:
        return CheckedDraft(spec, inputs, sink, errors, verdict, verdict.reasons, None)
    pins = tuple(
        PinnedDocument(id=item.dataset.name, version=item.document.version, digest=item.document.digest, owner_id=item.owner_id)
        for item in (*inputs, sink)
    )
    document = QueryDocument(
        name=spec.name,
        application=Application(input_dataset=uses[:-1], output_dataset=uses[-1], query=encode_segments(segments)),
        approval=ApprovalScope(collaboration=collaboration, proposer_id=proposer_id, datasets=pins, parameters=spec.parameters),
    )
    size = len(document.to_data().encode()) + len(verdict.card.encode())
    if size > MAX_DRAFT:
        too_large = InvalidInput(
            "QueryTooLarge",
            f"query {spec.name!r}: its document and card have {size} bytes, the maximum is {MAX_DRAFT}.",
            hint="Divide it into several queries.",
        )
        return CheckedDraft(spec, inputs, sink, (too_large,), verdict, (), None)
    return CheckedDraft(spec, inputs, sink, (), verdict, (), document)


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
            hint="`cleanroom dataset list` shows the published datasets. Its owner publishes it with `cleanroom dataset publish FILE`.",
        ) from error
    dataset = parse_dataset(document.data, document_id=name)
    if dataset.dataset_access_policy.access_mode != mode:
        raise Refused(
            "AccessModeMismatch",
            f"dataset {name!r} allows {dataset.dataset_access_policy.access_mode}, the query requires {mode}.",
            hint="Inputs must allow read; the output must allow write.",
        )
    return Dataset(document, dataset, view)


def owners_of(inputs: Sequence[Dataset], sink: Dataset | None) -> tuple[str, ...]:
    """Return the approvers: the user IDs of the owners of all inputs and of the output."""
    return tuple(sorted({item.owner_id for item in (*inputs, *([sink] if sink is not None else []))}))


def _parameter_warnings(parameters: RunParameters, inputs: Sequence[Dataset]) -> list[Warning]:
    by_day = [item.dataset.name for item in inputs if item.dataset.dataset_schema.partitioned_by == "day"]
    if parameters.date_range and not by_day:
        text = "parameters: no input is partitioned by day, so the dates of a run select nothing and all rows are read"
        return [Warning(code="DateRangeWithoutDays", message=text)]
    if by_day and not parameters.date_range:
        text = f"parameters: {', '.join(by_day)} has days, but without `dateRange: true` every run reads all of them"
        return [Warning(code="DaysWithoutDateRange", message=text)]
    return []
