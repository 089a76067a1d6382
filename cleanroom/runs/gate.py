"""The query gate for a set of dataset documents: what the approver's card, the clean room and the pod all compute alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cleanroom.documents.dataset import DatasetDocument
from cleanroom.documents.query import QuerySegments
from cleanroom.sql import Catalog, GateVerdict, analyse
from cleanroom.sql.catalog import Column, View
from cleanroom.sql.verdict import Reason

# Which result types a sink's field type takes without losing anything (the payload converts the same way).
_FITS: dict[str, frozenset[str]] = {
    "string": frozenset({"string"}),
    "integer": frozenset({"integer"}),
    "long": frozenset({"integer", "long"}),
    "number": frozenset({"integer", "long", "number", "decimal"}),
    "boolean": frozenset({"boolean"}),
    "date": frozenset({"date"}),
    "timestamp": frozenset({"timestamp", "date"}),
}


class Named(Protocol):
    """A dataset under the view name that the query gives it."""

    @property
    def dataset(self) -> DatasetDocument: ...

    @property
    def view(self) -> str: ...

    @property
    def owner_id(self) -> str: ...


def catalog_of(inputs: Sequence[Named]) -> Catalog:
    """The catalogue of a query's inputs: columns, allowed columns and floors, straight from the owners' documents."""
    return Catalog(
        views=tuple(
            View(
                name=item.view,
                owner=item.owner_id,
                columns=tuple(Column(name=name, type=kind) for name, kind in item.dataset.dataset_schema.types().items()),
                allowed_columns=item.dataset.dataset_access_policy.allowed_fields,
                floors=(item.dataset.dataset_access_policy.privacy_floors,),
            )
            for item in inputs
        )
    )


def gate(segments: QuerySegments, inputs: Sequence[Named], sink: Named) -> GateVerdict:
    """The gate's verdict, and whether the result fits the output dataset."""
    verdict = analyse(segments.segments, catalog_of(inputs))
    if not verdict.allowed:
        return verdict
    reasons = tuple(_sink_problems(verdict, sink.dataset))
    if reasons:
        return verdict.model_copy(update={"allowed": False, "reasons": reasons, "rewritten": ()})
    return verdict


def _sink_problems(verdict: GateVerdict, sink: DatasetDocument) -> list[Reason]:
    types = sink.dataset_schema.types()
    allowed = set(sink.dataset_access_policy.allowed_fields)
    problems: list[Reason] = []
    for column in verdict.output:
        if column.name not in types or column.name not in allowed:
            problems.append(
                Reason(
                    code="OutputColumnNotInSink",
                    message=f"output column {column.name!r} is not an allowed column of output dataset {sink.name!r} "
                    f"({', '.join(sorted(allowed))})",
                )
            )
        elif column.type != "null" and column.type not in _FITS[types[column.name]]:
            problems.append(
                Reason(
                    code="OutputTypeMismatch",
                    message=f"output column {column.name!r} is {column.type}; output dataset {sink.name!r} wants {types[column.name]}",
                )
            )
    return problems
