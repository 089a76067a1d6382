"""The query gate for one collaboration: checks a query against the catalogue of its approved datasets.

:mod:`cleanroom.sql` checks SQL against a catalogue. This module derives that catalogue from the owners' dataset documents, or
from a job that was built from them, so that the frontend, the clean room, the Spark service and the pods get the same verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cleanroom.documents.dataset import DatasetDocument
from cleanroom.documents.query import QuerySegment, QuerySegments
from cleanroom.documents.result_types import result_type_fits
from cleanroom.errors import Refused
from cleanroom.spark.job import JobConfig
from cleanroom.sql import Catalog, GateVerdict, Reason, analyse, view_of

MAX_REASONS_SHOWN = 20


class DatasetUse(Protocol):
    """A dataset document and the view name under which a query uses it."""

    @property
    def dataset(self) -> DatasetDocument:
        """The owner's document."""

    @property
    def view(self) -> str:
        """Name of the view in the query."""

    @property
    def owner_id(self) -> str:
        """User ID of the owner in governance."""


def document_catalog(inputs: Iterable[DatasetUse]) -> Catalog:
    """Derive the catalogue of a query from the documents of its input datasets."""
    return Catalog(
        views=tuple(
            view_of(
                item.view,
                item.dataset.dataset_schema.types(),
                item.dataset.dataset_access_policy.allowed_fields,
                item.dataset.dataset_access_policy.privacy_floors,
                item.owner_id,
                item.dataset.dataset_schema.unique_columns,
            )
            for item in inputs
        )
    )


def job_catalog(job: JobConfig) -> Catalog:
    """Derive the catalogue of a query from its job: equal to :func:`document_catalog` of the documents behind the job."""
    return Catalog(
        views=tuple(
            view_of(item.view_name, item.schema_fields, item.allowed_fields, item.floors, item.owner_id, item.unique_columns)
            for item in job.datasets
        )
    )


def check_query(segments: QuerySegments, inputs: Sequence[DatasetUse], output: DatasetDocument) -> GateVerdict:
    """Check a query against its datasets. A verdict that allows the query also says that its result fits the output dataset."""
    verdict = analyse(segments.segments, document_catalog(inputs))
    reasons = (*verdict.reasons, *(_output_problems(verdict, output) if verdict.output else ()))
    if reasons:
        return verdict.model_copy(update={"allowed": False, "reasons": reasons, "rewritten": ()})
    return verdict


def require_allowed(name: str, segments: QuerySegments, inputs: Sequence[DatasetUse], output: DatasetDocument) -> GateVerdict:
    """Return the verdict of :func:`check_query` if it allows the query ``name``.

    Raises:
        Refused: ``QueryRefusedByGate``. ``details["reasons"]`` holds the first reasons, each with code, message and position.
    """
    verdict = check_query(segments, inputs, output)
    if not verdict.allowed:
        raise refused_by_gate(name, verdict.reasons)
    return verdict


def refused_by_gate(name: str, reasons: Sequence[Reason]) -> Refused:
    """Return the error for a query that the gate refuses, with the first reasons in ``details["reasons"]``."""
    return Refused(
        "QueryRefusedByGate",
        f"query {name!r}: {reasons[0].message}",
        party="analyst",
        details={"reasons": [reason.model_dump(mode="json", by_alias=True) for reason in reasons[:MAX_REASONS_SHOWN]]},
        hint="Run `cleanroom query check FILE` to see every reason with its place.",
    )


def _output_problems(verdict: GateVerdict, output: DatasetDocument) -> list[Reason]:
    types = output.dataset_schema.types()
    allowed = set(output.dataset_access_policy.allowed_fields)
    problems: list[Reason] = []
    for column in verdict.output:
        if column.name not in types or column.name not in allowed:
            problems.append(
                Reason(
                    code="OutputColumnNotInSink",
                    message=f"output column {column.name!r} is not an allowed column of output dataset {output.name!r} "
                    f"({', '.join(sorted(allowed))})",
                )
            )
        elif column.type != "null" and not result_type_fits(types[column.name], column.type):
            problems.append(
                Reason(
                    code="OutputTypeMismatch",
                    message=f"output column {column.name!r} is {column.type}; output dataset {output.name!r} requires {types[column.name]}",
                )
            )
    written = {column.name for column in verdict.output}
    for name in sorted(allowed - written):
        problems.append(
            Reason(
                code="OutputColumnMissing",
                message=f"the result lacks column {name!r} of output dataset {output.name!r}; names are case-sensitive",
            )
        )
    return problems


def verify_rendering(job: JobConfig) -> None:
    """Verify that the SQL of a job is the gate's rendering of the approved text under the owners' floors.

    The pod calls this before it gives anything to Spark. The approved text goes through the gate again, and the result must equal the
    job's segments. A job without the text is accepted if no floor applies: its segments must be their own rendering, so that nothing
    outside of the gate's language reaches Spark.

    Raises:
        Refused: ``QueryNotRendered``, or ``QuerySourceMissing`` if floors apply and the job does not contain the approved text.
    """
    if not job.source and job.has_floors():
        raise Refused(
            "QuerySourceMissing",
            "job: it does not contain the approved text, so the pod cannot enforce the owners' floors again.",
        )
    # `sorted` is stable: segments with the same sequence number keep the order in which they run.
    segments = sorted(job.segments, key=lambda segment: segment.execution_sequence)
    found = [(item.execution_sequence, item.sql, tuple(item.pre_conditions), tuple(item.post_filters)) for item in segments]
    written = [
        QuerySegment(execution_sequence=number, data=sql, pre_conditions=pre or None, post_filters=post or None)
        for number, sql, pre, post in found
    ]
    verdict = analyse(job.source or written, job_catalog(job))
    if not verdict.allowed:
        raise _not_rendered((verdict.reasons[0].segment or 0) + 1, verdict.reasons[0].code)
    expected = [(item.execution_sequence, item.sql, item.pre_conditions, item.post_filters) for item in verdict.rewritten]
    if expected != found:
        number = next((i for i, pair in enumerate(zip(expected, found, strict=False), 1) if pair[0] != pair[1]), len(expected))
        raise _not_rendered(number, "it differs from the gate's rewrite of the approved text under the owners' floors")


def _not_rendered(number: int, why: str) -> Refused:
    return Refused(
        "QueryNotRendered",
        f"segment {number}: its SQL is not the query gate's rendering ({why}).",
        hint="Build the job with a clean room of the same version.",
    )
